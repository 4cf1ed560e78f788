"""Signals, two processes at once, and what a run does not go on with: refused, or said."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from alexnet import checkpoint
from alexnet.data.pack import pack
from alexnet.data.sources import open_source
from faults.children import LONG, SHORT, Child, outcome, run, train, train_with_threads
from faults.damage import copied
from faults.tier import count

ENDLESS = ("run.length=100000ep", "run.log_every=1st", "run.checkpoint_every=1000000st", "run.evaluate_every=1000000st")
AT_MOST_S = 5


def wait_for(condition, timeout_s: float = 60) -> None:
    until = time.perf_counter() + timeout_s
    while not condition():
        assert time.perf_counter() < until, "it does not begin"
        time.sleep(0.005)


def test_a_signal_saves_and_ends_soon(tiny_pack, tmp_path, figures):
    """SIGTERM and SIGINT by turns at random moments; the same command goes on after the step that was saved."""
    random, total, wrong = np.random.default_rng(0), count("signals"), []
    for number in range(total):
        which, folder = (15, 2)[number % 2], tmp_path / f"{number}"
        child = Child(train, str(tiny_pack.path), str(folder), ENDLESS)
        wait_for(lambda path=folder / "metrics.jsonl": path.exists() and path.stat().st_size)
        time.sleep(random.uniform(0, 0.2))
        asked = time.perf_counter()
        os.kill(child.process.pid, which)
        ended = child.end()
        time_s, steps = time.perf_counter() - asked, checkpoint.verify(folder / "checkpoints")
        if (ended.status, len(steps)) != (128 + which, 1) or time_s > AT_MOST_S or "goes on" not in ended.told:
            wrong.append(f"signal {which}: status {ended.status}, steps {steps}, {time_s:.1f} s, told {ended.told}")
        again = run(train, str(tiny_pack.path), str(folder), ENDLESS, None, steps[0] + 2)
        if again.status != 143 or f"going on after step {steps[0]:,}" not in again.told:
            wrong.append(f"signal {which}: then {again.status}: {again.told}")
    figures.add("signals", total, total - len(wrong))
    assert not wrong, "\n".join(wrong)


def test_one_of_many_processes_gets_the_run(straight, tiny_pack, tmp_path, figures):
    """Four started at once: one trains, the others end with 2 and say why, and the run is as if it had been alone."""
    rounds, wrong = count("one writer"), []
    for number in range(rounds):
        folder = tmp_path / f"{number}"
        started = [Child(train, str(tiny_pack.path), str(folder), LONG) for _ in range(4)]
        ended = [child.end() for child in started]
        trained = [one for one in ended if one.status == 0 and "done in" in one.told]
        others = [one for one in ended if one not in trained]
        told = ("in use by another process", "is finished")
        if len(trained) != 1 or not all(any(words in one.told for words in told) for one in others):
            wrong.append(f"{number}: {[(one.status, one.told) for one in ended]}")
        elif outcome(folder) != outcome(straight[LONG]):
            wrong.append(f"{number}: another run")
    figures.add("one writer", 4 * rounds, 4 * (rounds - len(wrong)))
    assert not wrong, "\n".join(wrong)


CHANGES = {  # settings or another pack: exit status, words
    "sgd.rate=0.002": (2, "sgd.rate"),
    "run.batch=10": (2, "run.batch"),
    "run.seed=5": (2, "run.seed"),
    "net.fc6.outputs=32": (2, "net.fc6.outputs"),
    "net.dropout=0.1": (2, "net.dropout"),
    "run.precision=bf16": (2, "give --precision fp32"),
    "data": (3, "other data"),
    "run.json": (2, "not readable as a run's record"),
}


@pytest.fixture(scope="module")
def stopped(tiny_pack, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    assert run(train, str(tiny_pack.path), str(folder), SHORT, None, 2).status == 143
    return folder


def test_what_changed_is_refused_and_nothing_is_touched(stopped, pictures, tiny_pack, tmp_path, figures):
    pack(open_source(pictures), tmp_path / "other.pack", seed=1, workers=1)
    wrong = []
    for change, (status, words) in CHANGES.items():
        folder = copied(stopped, tmp_path / "run")
        if change == "run.json":
            (folder / "run.json").write_text("{")
        before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        data = tmp_path / "other.pack" if change == "data" else tiny_pack.path
        ended = run(train, str(data), str(folder), (*SHORT, change) if "=" in change else SHORT)
        after = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        if ended.status != status or words not in ended.told or before != after:
            wrong.append(f"{change}: status {ended.status}, told {ended.told}, {before.keys() ^ after.keys()}")
    figures.add("refusals", len(CHANGES), len(CHANGES) - len(wrong))
    assert not wrong, "\n".join(wrong)


def test_another_number_of_threads_is_said_and_changes_nothing(straight, stopped, tiny_pack, tmp_path):
    folder = copied(stopped, tmp_path / "run")
    ended = run(train_with_threads, str(tiny_pack.path), str(folder), SHORT, 2)
    assert ended.status == 0, ended.told
    assert "using 1 threads, as the run did before" in ended.told
    assert outcome(folder) == outcome(straight[SHORT])


def test_a_loss_that_is_not_finite_ends_the_run_and_is_never_saved(tiny_pack, tmp_path):
    settings = ("sgd.rate=1e18", "sgd.bias_rate=1e18", "run.checkpoint_every=1st", "run.length=20ep")
    ended = run(train, str(tiny_pack.path), str(tmp_path / "run"), settings)
    assert ended.status == 2, ended.told
    assert "error: the loss is" in ended.told
    assert "Traceback" not in ended.told
    assert not (tmp_path / "run/model.safetensors").exists()
    assert checkpoint.verify(tmp_path / "run/checkpoints")
