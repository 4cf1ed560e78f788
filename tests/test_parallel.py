"""Two and four processes train what one process trains: logits, gradients, ten steps, runs, errors and failures."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import parallel_runner
import pytest
import torch
from parallel_runner import NORMED, named, spec

from alexnet import checkpoint, parallel, recipe, train
from alexnet.errors import UsageError
from alexnet.log import read_metrics
from alexnet.parallel import Team
from alexnet.parallel.exchange import shares
from alexnet.train import Stopped

DENSE_DROP = ["net.fc6.before=drop", "net.fc6.then=act", "net.dropout_inverted=true"]
FOUR = ["net.towers=4", "run.batch=64"]  # the last batch of an epoch has two pictures: some processes have none
CASES = {
    2: {
        "data": ["run.parallel=data"],
        "towers": ["run.parallel=towers"],
        "hybrid": ["run.parallel=hybrid"],
        "data-normed": ["run.parallel=data", *NORMED],
        "towers-normed": ["run.parallel=towers", *NORMED],
        "hybrid-normed": ["run.parallel=hybrid", *NORMED],
        "data-drop": ["run.parallel=data", *DENSE_DROP],
        "towers-drop": ["run.parallel=towers", *DENSE_DROP, "net.sixth_conv=true", "net.activation=tanh"],
        "hybrid-drop": ["run.parallel=hybrid", *DENSE_DROP],
        "towers-local": ["run.parallel=towers", "net.conv4.local=true", "net.talk=conv3,conv4"],
        "files": ["run.parallel=data"],
        "data-bf16": ["run.parallel=data", "run.precision=bf16"],
        "towers-bf16": ["run.parallel=towers", "run.precision=bf16"],
    },
    4: {
        "data": ["run.parallel=data", *FOUR],
        "towers": ["run.parallel=towers", *FOUR],
        "hybrid": ["run.parallel=hybrid", *FOUR],
    },
}
NAMES = [(world, name) for world, cases in CASES.items() for name in cases]
REFUSED = {
    "net.lrn.span=tower": ["run.parallel=towers", "net.lrn.span=all"],
    "cannot share 1 towers": ["run.parallel=towers", "net.towers=1"],
}


@pytest.fixture(scope="module")
def begun_alone(tiny_pack, tmp_path_factory) -> Path:
    """A run of one process that stopped after five steps."""
    run = tmp_path_factory.mktemp("alone") / "run"
    with pytest.raises(Stopped):
        train.train(spec(), tiny_pack, run, stop_at=5)
    return run


@pytest.fixture(scope="module")
def straight(tiny_pack, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    train.train(spec(), tiny_pack, run)
    return run


@pytest.fixture(scope="module")
def teams(tiny_pack, tmp_path_factory, begun_alone) -> Path:
    """Folders 2 and 4 of what two and four processes were asked to do; the last of it fails."""
    out = tmp_path_factory.mktemp("teams")
    jobs = {world: [["case", *case] for case in cases.items()] for world, cases in CASES.items()}
    jobs[2] += [["refused", f"refused{i}", settings] for i, settings in enumerate(REFUSED.values())]
    jobs[2] += [["run", "goes-on", ["run.parallel=towers"]], ["run", "begins", ["run.parallel=hybrid"], 5]]
    jobs[2] += [["run", "whole", ["run.parallel=data"]], ["failing", "fails", ["run.parallel=data"], "raises"]]
    jobs[4] += [["failing", "fails", ["run.parallel=towers", "net.towers=4"], "killed"]]
    for world in jobs:
        (out / str(world)).mkdir()
        (out / str(world) / "jobs.json").write_text(json.dumps(jobs[world]))
    begun_alone.rename(out / "2" / "goes-on")
    root = str(Path(parallel.__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, parallel_runner.__file__, str(out), str(tiny_pack.path), "2", "4"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        start_new_session=True,
    )
    try:
        process.wait(120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return out


@pytest.fixture(scope="module")
def two(teams) -> Path:
    return teams / "2"


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    scale = expected.float().abs().max().clamp(min=1e-6)
    return found.shape == expected.shape and bool((found.float() - expected.float()).abs().max() <= tolerance * scale)


@pytest.mark.parametrize(("world", "name"), NAMES)
def test_a_team_trains_what_one_process_trains(world, name, teams, tiny_pack):
    found = torch.load(teams / str(world) / f"{name}.pt")
    alone = parallel_runner.ten_steps(named(name, CASES[world][name]), tiny_pack, Team())
    tolerance = 0.05 if name.endswith("bf16") else 1e-5
    assert close(found["logits"], alone["logits"], tolerance)
    for kind in ("gradients", "weights"):
        assert found[kind].keys() == alone[kind].keys()
        told = [n for n, t in alone[kind].items() if t.float().abs().max() > 1e-7]  # biases before a batch norm: noise
        assert [n for n in told if not close(found[kind][n], alone[kind][n], tolerance)] == []
    losses, wrong = zip(*found["steps"], strict=True)
    assert losses == pytest.approx([loss for loss, _ in alone["steps"]], rel=tolerance)
    assert name.endswith("bf16") or list(wrong) == [count for _, count in alone["steps"]]
    assert found["images"] == alone["images"]


def test_towers_exchange_where_they_talk_and_nowhere_else(two):
    """fp32, batch 20: conv3 sees 8 maps of 2 x 2, fc6 12 of them, fc7 16 units, fc8 10, the loss 3 logits."""
    sent = torch.load(two / "towers.pt")["sent"]
    halves = {"conv3": 4 * 4, "fc6": 6 * 4, "fc7": 8, "fc8": 5}
    expected = {layer: 2 * 4 * 20 * values for layer, values in halves.items()}  # there, and gradients back
    expected["fc8"] += 4 * 20 * 2  # the larger part of three logits
    assert sent == expected


def test_data_and_hybrid_add_up_gradients_once(two):
    data, hybrid = (torch.load(two / f"{name}.pt") for name in ("data", "hybrid"))
    sizes = {}
    for name, gradient in data["gradients"].items():
        layer = name.rsplit(".", 1)[0]
        sizes[layer] = sizes.get(layer, 0) + 4 * gradient.numel()
    assert data["sent"] == sizes  # a ring of two: everything once
    assert {layer: n for layer, n in hybrid["sent"].items() if layer.startswith("conv")} == {
        layer: n for layer, n in sizes.items() if layer.startswith("conv")
    }
    assert hybrid["sent"]["flat"] == 2 * 4 * 10 * 48  # ten pictures there, the gradients of ten back


def test_a_run_goes_on_under_another_number_of_processes(two, straight, tiny_pack):
    train.train(spec(), tiny_pack, two / "begins")
    expected, passport = checkpoint.load_model(straight / "model.safetensors")
    for name in ("goes-on", "begins", "whole"):
        weights, claimed = checkpoint.load_model(two / name / "model.safetensors")
        assert [n for n, t in expected.items() if not close(weights[n], t, 2e-5)] == []
        assert claimed == passport  # among it the accuracy: every picture counted once
    assert "2 processes instead of 1: the same pictures" in (two / "stderr-0").read_text()


def test_the_leader_alone_writes_what_one_process_would(two, straight):
    found, expected = (read_metrics(run / "metrics.jsonl") for run in (two / "whole", straight))
    assert [sorted(record) for record in found] == [sorted(record) for record in expected]
    logged = [[r[key] for r in records if "rate" in r] for records in (found, expected) for key in ("loss", "rate")]
    assert logged[0] == pytest.approx(logged[2], rel=1e-5)
    assert logged[1] == logged[3]
    assert "step" not in (two / "stderr-1").read_text()


def test_what_cannot_be_shared_is_refused_in_words(two):
    for i, message in enumerate(REFUSED):
        assert all(message in (two / f"refused{i}-{rank}.txt").read_text() for rank in range(2))


def test_traffic_is_told_by_layer(two):
    told = [line for line in (two / "stderr-0").read_text().splitlines() if "a step of 20 pictures sends" in line]
    assert len(told) >= 3
    assert all(" processes, in MB: " in line for line in told)
    assert sum("with --parallel data" in line for line in told) == 2  # said by towers and hybrid


@pytest.mark.parametrize(("world", "code"), [(2, 3), (4, -9)])
def test_a_failing_process_ends_the_others_with_a_clear_error(world, code, teams):
    out = teams / str(world)
    ended = json.loads((out / "ended.json").read_text())
    assert ended["codes"] == [7] * (world - 1) + [code]
    assert ended["ending_s"] < 30
    for rank in range(world - 1):
        text = (out / f"stderr-{rank}").read_text()
        assert f"process {rank} of {world} stops: another one has ended" in text
        assert "Traceback" not in text
    assert not (out / "fails/model.safetensors").exists()


def test_processes_without_a_word_of_what_to_share_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="give --parallel data, towers or hybrid"):
        parallel.join(spec().run)


@pytest.mark.parametrize("mode", ["towers", "hybrid"])
def test_nets_of_layer_files_are_trained_data_parallel(mode):
    net = recipe.build(named("files", []).net)
    with pytest.raises(UsageError, match=f"--parallel {mode} takes presets"):
        parallel.split(net, Team(mode, 0, 2))


def test_old_records_of_runs_still_load(straight):
    from alexnet import spec as spec_module

    record = json.loads((straight / "run.json").read_text())["spec"]
    del record["run"]["parallel"]
    assert spec_module.from_dict(record) == spec()


@pytest.mark.parametrize(("count", "world"), [(128, 2), (5, 4), (2, 4), (0, 3)])
def test_shares_cover_everything_once(count, world):
    found = shares(count, world)
    assert sum(found) == count
    assert max(found) - min(found) <= 1
