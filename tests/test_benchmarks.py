"""The scripts behind rows of results that no other test runs, at toy size."""

import json
import math
import subprocess
import sys
from pathlib import Path

from alexnet.data import pack as packs
from alexnet.data.sources import open_source

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY = ["cifar_quick", "--set", "net.crop_px=16", "--set", "run.batch=8"]


def rows_of(script: str, *arguments: object, out: Path) -> list[dict]:
    command = [sys.executable, BENCHMARKS / script, *map(str, arguments), "--out", out]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_starts_of_many_seeds_go_on_where_they_stopped(tiny_pack, tmp_path):
    given = [tiny_pack.path, *TINY, "--steps", 12]
    first = rows_of("starts.py", *given, "--seeds", 1, out=tmp_path / "rows")
    both = rows_of("starts.py", *given, "--seeds", 2, out=tmp_path / "rows")
    assert both[:1] == first
    assert [row["seed"] for row in both] == [0, 1]
    assert all(row["steps"] == (row["started_after_steps"] or 12) for row in both)
    assert both[0]["loss"] != both[1]["loss"]


def test_a_start_whose_loss_becomes_nan_is_a_row_like_others(tiny_pack, tmp_path):
    given = [tiny_pack.path, *TINY, "--steps", 12, "--seeds", 1, "--set", "sgd.rate=1e30"]
    (row,) = rows_of("starts.py", *given, out=tmp_path / "rows")
    assert row["started_after_steps"] is None
    assert row["steps"] < 12
    assert "the loss is" in row["advice"][0]


def test_claims_at_the_scale_of_ilsvrc_take_their_first_steps(pictures, tmp_path):
    packs.pack(open_source(pictures), tmp_path / "pack", size_px=72)
    small = [f"--set=net.{each}" for each in ("crop_px=67", "fc6.outputs=16", "fc7.outputs=16")]
    given = [tmp_path / "pack", "--claims", "chunks", "fade", "--batch", 4, *small]
    found = rows_of("ilsvrc_steps.py", *given, out=tmp_path / "rows")
    assert [row["arm"] for row in found] == ["as_run", "per_picture", "none", "fade"]
    assert all(len(row["losses"]) == 2 and row["losses"][0] != row["losses"][1] for row in found)
    assert all(math.isfinite(loss) for row in found for loss in row["losses"])


def test_a_first_step_is_timed(tiny_pack, tmp_path):
    (row,) = rows_of("first_step.py", tiny_pack.path, *TINY, "--times", 1, out=tmp_path / "rows")
    assert row["empty_cache_s"] > row["full_cache_s"] > 0.1
    assert row["command"].endswith("--times 1 --set net.crop_px=16 --set run.batch=8")
