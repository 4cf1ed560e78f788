"""The GPU's benchmark runs end to end without one, at toy size, and says what was measured against what."""

import json

import pytest
import torch

from alexnet import machine
from alexnet.__main__ import main
from alexnet.bench import gpu, gpu_steps

KEYS = {"name", "value", "unit", "peer", "ratio", "device"}


@pytest.fixture(scope="module")
def rows():
    return {row["name"]: row for row in gpu.rows(True)}


def test_every_row_is_there(rows):
    kernels = {"gpu_floors", "gpu_lrn", "gpu_spatial_norm", "gpu_max_pool", "gpu_cut", "gpu_update"}
    assert rows.keys() == kernels | {"gpu_step_as_run_2", "gpu_step_torchvision_2", "gpu_fed_as_run_2"}
    for row in rows.values():
        assert row.keys() >= KEYS
        assert row["value"] > 0
        assert row["toy"]
    json.dumps(list(rows.values()))


def test_rows_have_floors_and_ratios(rows):
    for name, row in rows.items():
        if name != "gpu_floors":
            assert row["ms"] > 0
            assert max(row["flop_floor_ms"], row["byte_floor_ms"]) > 0
            assert "time_s" not in row
    step = rows["gpu_step_as_run_2"]
    assert step["failed"] == {}
    assert {"eager"} <= step["ways"].keys()
    assert step["ratio"] == pytest.approx(step["value"] / max(step["peer"].values()), abs=0.01)


def test_floors_turn_operations_and_bytes_into_time():
    row = {"name": "x", "time_s": 0.01, "flops": 4e9, "nbytes": 1e9}
    got = gpu._with_floors(row, {"flops_per_s": 1e12, "bytes_per_s": 2e11})
    assert got == {"name": "x", "ms": 10, "share_of_floor": 0.5, "flop_floor_ms": 4, "byte_floor_ms": 5}


def test_operations_and_bytes_of_a_step():
    """4.14 GFLOP a picture; 61 M weights are 1.6 GB for each step, in bf16, whatever the batch."""
    spec, *_ = gpu._case("as_run", 1, torch.device("cpu"), False)
    (flops, one), (_, two) = (gpu._operations_and_bytes(spec, batch, 2) for batch in (1, 2))
    assert flops / 1e9 == pytest.approx(4.136, abs=0.001)
    assert (2 * one - two) / 1e9 == pytest.approx(60_965_224 * 26 / 1e9)


def test_ways_without_a_gpu_are_the_eager_ones():
    spec, _, images, labels = gpu._case("as_run", 2, torch.device("cpu"), True)
    assert set(gpu_steps.ways("as_run", spec, images, labels)) == {"eager", "stock eager"}


def test_the_verb_appends_its_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        gpu, "rows", lambda toy, data: [{"name": "x", "value": 1, "unit": "ms", "peer": {}, "ratio": 2}]
    )
    monkeypatch.setattr(
        "sys.argv", ["alexnet", "bench", "gpu", "--toy", "--out", str(tmp_path / "gpu.jsonl"), "--json"]
    )
    main()
    row = json.loads((tmp_path / "gpu.jsonl").read_text())
    assert row["name"] == "x"
    assert row["toy"]
    assert row["versions"] == machine.versions() | {"alexnet": row["versions"]["alexnet"]}
    assert json.loads(capsys.readouterr().out)["rows"][0] == row
