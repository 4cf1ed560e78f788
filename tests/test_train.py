"""Training: resumes bit for bit, stops before a bad update, and refuses what does not belong together."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import spec

from alexnet import checkpoint, runs, train
from alexnet.data import loader
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.log import read_metrics
from alexnet.train import NonFinite, Stopped

KILLS = 10


def model_bytes(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def straight(tiny_pack, tmp_path_factory) -> Path:
    """An undisturbed run of four epochs."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    train.train(spec(), tiny_pack, run)
    return run


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop_at", [1, 8, 11])  # after a step, at an epoch's end, between two logged steps
def test_a_resumed_run_ends_with_the_bytes_of_an_undisturbed_one(straight, tiny_pack, tmp_path, workers, stop_at):
    changed = spec(f"run.workers={workers}")
    with pytest.raises(Stopped):
        train.train(changed, tiny_pack, tmp_path / "run", stop_at=stop_at)
    train.train(changed, tiny_pack, tmp_path / "run")
    assert model_bytes(tmp_path / "run") == model_bytes(straight)


@pytest.mark.parametrize("stop_at", [3, 8])
def test_bf16_resumes_bit_for_bit_too(tiny_pack, tmp_path, stop_at):
    bf16 = spec("run.precision=bf16", "run.length=2ep")
    train.train(bf16, tiny_pack, tmp_path / "straight")
    with pytest.raises(Stopped):
        train.train(bf16, tiny_pack, tmp_path / "run", stop_at=stop_at)
    train.train(bf16, tiny_pack, tmp_path / "run")
    assert model_bytes(tmp_path / "run") == model_bytes(tmp_path / "straight")
    tensors, _ = checkpoint.load_model(tmp_path / "run/model.safetensors")
    assert all(t.dtype == torch.float32 for t in tensors.values())


def test_a_run_does_not_go_on_in_another_precision(tiny_pack, tmp_path, monkeypatch):
    """`auto` may choose otherwise on another machine."""
    auto = spec("run.precision=auto")
    monkeypatch.setattr("alexnet.machine.precision", lambda name, on: ("fp32", "test"))
    with pytest.raises(Stopped):
        train.train(auto, tiny_pack, tmp_path, stop_at=2)
    monkeypatch.setattr("alexnet.machine.precision", lambda name, on: ("bf16", "test"))
    with pytest.raises(UsageError, match="give --precision fp32"):
        train.train(auto, tiny_pack, tmp_path)
    monkeypatch.undo()
    train.train(spec("run.precision=fp32"), tiny_pack, tmp_path)


@pytest.mark.parametrize("norm", ["", "bn"])
def test_bf16_follows_fp32(tiny_pack, norm):
    """The first five losses differ by rounding only; batch norm keeps its float32 averages."""
    then = ",".join(filter(None, [norm, "act"]))
    losses = {}
    for precision in ("fp32", "bf16"):
        state, place = train.prepare(
            spec(f"run.precision={precision}", "net.dropout=0", f"net.conv2.then={then}"), tiny_pack
        )
        prep = runs.preprocessing(state.spec, tiny_pack)
        jobs = loader.training_jobs(state.spec, prep, 66, state.clock)
        batches = itertools.islice(loader.batches(tiny_pack.splits["train"], prep, jobs, 20, 0), 5)
        losses[precision] = [train.step(state, b.images_nchw.to(place.dtype), b.labels)[0] for b in batches]
    assert np.allclose(losses["fp32"], losses["bf16"], rtol=0.03)
    assert losses["fp32"] != losses["bf16"]


def without_times(run: Path) -> list[dict]:
    timed = ("images_per_s", "data_wait")
    records = [{k: v for k, v in r.items() if k not in timed} for r in read_metrics(run / "metrics.jsonl")]
    return [r for r in records if "summary" not in r]


def test_metrics_are_neither_lost_nor_doubled(straight, tiny_pack, tmp_path):
    for stop_at in (5, 7):
        with pytest.raises(Stopped):
            train.train(spec(), tiny_pack, tmp_path / "run", stop_at=stop_at)
    with open(tmp_path / "run/metrics.jsonl", "a") as file:
        file.write('{"step": 8, "half a li')  # as a kill between two checkpoints leaves it
    train.train(spec(), tiny_pack, tmp_path / "run")
    assert without_times(tmp_path / "run") == without_times(straight)


def test_every_logged_step_has_the_fixed_keys(straight):
    logged = [r for r in read_metrics(straight / "metrics.jsonl") if "loss" in r]
    assert [r["step"] for r in logged] == [3, 6, 9, 12, 15, 16]
    assert all({"step", "epoch", "loss", "rate", "images_per_s", "data_wait"} <= r.keys() for r in logged)
    assert all(0 <= r["data_wait"] <= 1 and r["images_per_s"] > 0 for r in logged)


def test_the_last_record_has_the_fixed_keys_and_a_finished_run_is_left_alone(straight, tiny_pack):
    before = model_bytes(straight)
    record = train.train(spec(), tiny_pack, straight)
    keys = {"step", "epoch", "train_loss", "top1_error", "top5_error", "images_per_s", "time_s"}
    assert record.keys() == keys | {"classes"}  # few classes are told one by one
    assert (record["step"], record["epoch"]) == (16, 4.0)
    assert model_bytes(straight) == before


def test_another_seed_gives_another_net(straight, tiny_pack, tmp_path):
    train.train(spec("run.seed=1"), tiny_pack, tmp_path / "run")
    assert model_bytes(tmp_path / "run") != model_bytes(straight)


def test_it_learns_what_it_is_shown(tiny_pack, tmp_path):
    settings = ("run.length=60ep", "sgd.rate=0.003", "data.relight=none", "run.evaluate_every=60ep", "net.dropout=0")
    record = train.train(spec(*settings), tiny_pack, tmp_path / "run")
    assert record["train_loss"] < 0.7 * math.log(3)


def test_a_run_can_end_at_a_training_error(tiny_pack, tmp_path):
    settings = ("run.length=60ep", "sgd.rate=0.003", "data.relight=none", "run.evaluate_every=60ep", "net.dropout=0")
    until = spec(*settings, "run.until_train_error=0.5", "run.checkpoint_every=1st")
    record = train.train(until, tiny_pack, tmp_path / "straight")
    errors = [r["train_error"] for r in read_metrics(tmp_path / "straight/metrics.jsonl") if "train_error" in r]
    assert [error <= 0.5 for error in errors] == [False] * (len(errors) - 1) + [True]
    assert record["step"] == 3 * len(errors) < 60 * 4  # logged every three steps
    with pytest.raises(Stopped):
        train.train(until, tiny_pack, tmp_path / "run", stop_at=record["step"] - 1)
    train.train(until, tiny_pack, tmp_path / "run")
    assert model_bytes(tmp_path / "run") == model_bytes(tmp_path / "straight")


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(tiny_pack):
    state, _ = train.prepare(spec(), tiny_pack)
    images = torch.full((4, 3, 12, 12), torch.nan)
    before = {name: p.clone() for name, p in state.sgd.parameters.items()}
    with pytest.raises(NonFinite, match=r"nan at step 1;.*\n.*sgd.rate=0.0001"):
        train.step(state, images, torch.zeros(4, dtype=torch.long))
    assert all(torch.equal(before[name], p) for name, p in state.sgd.parameters.items())


def test_a_run_of_other_data_is_refused(straight, tiny_pack):
    other = tiny_pack.__class__(**{**tiny_pack.__dict__, "fingerprint": "0" * 64})
    with pytest.raises(DataError, match="trained on other data"):
        train.train(spec(), other, straight)


def test_a_run_with_other_settings_is_refused_and_names_them(straight, tiny_pack):
    with pytest.raises(UsageError, match=r"net.lrn.k"):
        train.train(spec("net.lrn.k=1"), tiny_pack, straight)


def test_a_folder_with_other_files_is_not_taken_for_a_run(tiny_pack, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="holds files but no run"):
        train.train(spec(), tiny_pack, tmp_path)


def test_two_processes_do_not_share_a_run(tiny_pack, tmp_path):
    (tmp_path / "run").mkdir()
    with checkpoint.locked(tmp_path / "run"), pytest.raises(UsageError, match="in use by another process"):
        train.train(spec(), tiny_pack, tmp_path / "run")


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_a_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(straight, tiny_pack, tmp_path, how, capsys):
    with pytest.raises(Stopped):
        train.train(spec(), tiny_pack, tmp_path, stop_at=11)
    newest = sorted((tmp_path / "checkpoints").glob("*.safetensors"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "flip": lambda: newest.write_bytes(content),
        "truncate": lambda: newest.write_bytes(content[:-9]),
        "delete": newest.unlink,
    }[how]()
    train.train(spec(), tiny_pack, tmp_path)
    assert newest.name in capsys.readouterr().err
    assert model_bytes(tmp_path) == model_bytes(straight)


def test_no_intact_checkpoint_is_never_a_silent_fresh_start(tiny_pack, tmp_path):
    with pytest.raises(Stopped):
        train.train(spec(), tiny_pack, tmp_path, stop_at=6)
    for path in (tmp_path / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="intact"):
        train.train(spec(), tiny_pack, tmp_path)


def test_the_model_file_carries_its_passport(straight, tiny_pack):
    tensors, passport = checkpoint.load_model(straight / "model.safetensors")
    assert passport["classes"] == tiny_pack.classes
    assert passport["spec"]["net"]["lrn"]["k"] == 2
    assert passport["accuracy"]["views"] == 1
    assert passport["accuracy"]["images"] == len(tiny_pack.splits["val"])
    assert np.allclose(tensors["preprocessing.mean"].numpy(), tiny_pack.mean_image)


def test_a_channel_mean_and_stds_are_those_of_the_pack(tiny_pack):
    prep = runs.preprocessing(spec("data.mean=channel", "data.divide_by_std=true"), tiny_pack)
    squares = np.stack([tiny_pack.splits["train"].pixels(i) for i in range(66)]).astype(np.float64)
    assert np.allclose(prep.mean[0, 0], squares.mean((0, 1, 2)), atol=1e-3)
    assert np.allclose(prep.stds, squares.std((0, 1, 2)), rtol=1e-6)


def command(pack: Path, run: Path) -> list[str]:
    """The tiny net through a process of its own, as the tests' spec says, saving after every step."""
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny import spec
from alexnet import train
from alexnet.data.packfile import open_pack
print("ready", flush=True)
train.train(spec("run.checkpoint_every=1st", "run.workers=1"), open_pack(sys.argv[2]), Path(sys.argv[3]))
"""
    return [sys.executable, "-c", code, str(Path(__file__).parent), str(pack), str(run)]


def run_for(pack: Path, run: Path, time_s: float) -> int:
    """Starts the command, kills it with SIGKILL so long after its imports; its exit status."""
    process = subprocess.Popen(command(pack, run), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.readline()
    try:
        return process.wait(time_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait()


def test_kills_at_random_moments_change_nothing(straight, tiny_pack, tmp_path):
    """At least ten SIGKILLs at random moments of the run; whenever it finishes, the same bytes as undisturbed."""
    random, kills, finished, longest_s = np.random.default_rng(0), 0, 0, 1.0
    while kills < KILLS:
        run = tmp_path / f"run{finished}"
        started = time.perf_counter()
        status = run_for(tiny_pack.path, run, random.uniform(0.02, longest_s))
        assert status in (0, -signal.SIGKILL), f"status {status} after {kills} kills"
        kills += status != 0
        if status == 0:
            longest_s = min(longest_s, 0.8 * (time.perf_counter() - started))  # so that most starts are killed
            assert model_bytes(run) == model_bytes(straight)
            finished += 1
    run = tmp_path / f"run{finished}"
    assert subprocess.run(command(tiny_pack.path, run), capture_output=True).returncode == 0
    assert model_bytes(run) == model_bytes(straight)
    assert not list((run / "checkpoints").glob(".tmp-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_its_status(pictures, tmp_path, number):
    args = ["train", str(pictures), "--run", str(tmp_path / "run"), "--preset", "cifar_quick", "--epochs", "5000"]
    args += ["--set", "net.crop_px=16", "--set", "run.log_every=1st"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "alexnet", *args], stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    for line in process.stderr:
        if line.startswith(b"step"):
            break
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert b"the same command goes on" in told
    record = json.loads(sorted((tmp_path / "run/checkpoints").glob("*.json"))[-1].read_text())
    assert record["step"] >= 1


def test_the_logged_rate_is_that_of_most_layers(tiny_pack, tmp_path):
    train.train(spec("sgd.rate_factors=fc8:0.05", "run.length=3st"), tiny_pack, tmp_path / "run")
    assert [r["rate"] for r in read_metrics(tmp_path / "run/metrics.jsonl") if "rate" in r] == [0.001]
