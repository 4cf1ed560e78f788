"""Packing killed at random moments, and ILSVRC's archives in miniature all the way to an evaluated net."""

from pathlib import Path

import numpy as np
import pytest
from test_ilsvrc import COLOURS, WNIDS, download
from tiny import spec

from alexnet import train, verify
from alexnet.data.pack import is_pack, open_pack, pack
from alexnet.data.sources import open_source
from alexnet.errors import DataError
from alexnet.predict import load
from faults import children
from faults.children import run, run_for
from faults.tier import count

EPOCHS = 60


def silent(word: str):
    return lambda done, total: None


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def test_kills_leave_nothing_that_looks_finished(pictures, tmp_path, figures):
    """A killed pack is none; the same command again, killed again or not, ends with the same bytes."""
    ended = run(children.pack, str(pictures), str(tmp_path / "whole"))
    assert ended.status == 0, ended.told
    expected, random, kills, wrong, packs = content(tmp_path / "whole"), np.random.default_rng(0), 0, [], 0
    while kills < count("pack kills"):
        folder, status = tmp_path / f"{packs}", -9
        while status == -9:
            most_s = ended.time_s if kills < count("pack kills") else children.MUST_END_S
            status = run_for(random.uniform(0.3 * most_s, most_s), children.pack, str(pictures), str(folder)).status
            kills += status == -9
            if status == -9 and folder.exists() and not is_pack(folder):
                with pytest.raises(DataError):
                    open_pack(folder)
        if status not in (0, 3) or content(folder) != expected:  # 3: it was killed just after it had finished
            wrong.append(f"{packs}: status {status}, {sorted(content(folder))}")
        packs += 1
    figures.add("pack kills", kills, kills if not wrong else 0, packs=packs)
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def ilsvrc_rows() -> list[bool]:
    return []


@pytest.mark.parametrize("class_order", ["wnid", "devkit"])
def test_ilsvrc_in_miniature(tmp_path, class_order, ilsvrc_rows, figures):
    """Packed, trained and evaluated; a red picture is called by the id of the red class in either order."""
    pack(open_source(download(tmp_path / "in"), class_order=class_order), tmp_path / "pack", size_px=16, workers=1)
    opened = open_pack(tmp_path / "pack")
    settings = (f"run.length={EPOCHS}ep", "run.batch=11", "run.workers=0", "net.dropout=0", "sgd.rate=0.003")
    quiet = ("data.relight=none", f"run.evaluate_every={EPOCHS}ep", "run.log_every=20st")
    record = train.train(spec(*settings, *quiet), opened, tmp_path / "run")
    measured = verify.measure([tmp_path / "run"], None, 10, "val", (), precision="fp32", progress=silent)
    predictor = load(tmp_path / "run", "cpu", "fp32")
    called = {w: predictor.top5(np.full((30, 30, 3), COLOURS[w], np.uint8))[0]["class"] for w in WNIDS}
    right = record["top1_error"] == measured["top1_error"] == 0 and called == {w: w for w in WNIDS}
    ilsvrc_rows.append(right)
    figures.add("ilsvrc", len(ilsvrc_rows), sum(ilsvrc_rows))
    assert right, (record, measured, called)
