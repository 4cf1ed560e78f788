"""Many seeds as one job: the bytes of single runs, resumed, stopped and failing as one, and what they say together."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import spec

from alexnet import compare, seeds, train
from alexnet import spec as spec_module
from alexnet import verify as verifying
from alexnet.cli.train import train as command
from alexnet.errors import UsageError
from alexnet.seeds import Failed
from alexnet.train import Stopped

SHORT = spec("run.length=1ep", "run.workers=1")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Bits depend on the number of threads, and children share them out: one for all."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def single(tiny_pack, tmp_path_factory) -> Path:
    """Seed 1 as a run of its own."""
    run = tmp_path_factory.mktemp("single") / "run"
    train.train(replace(SHORT, run=replace(SHORT.run, seed=1)), tiny_pack, run)
    return run


@pytest.fixture(scope="module")
def job(tiny_pack, tmp_path_factory) -> Path:
    """Seeds 0 to 2, one after the other, stopped on the way and begun again."""
    run = tmp_path_factory.mktemp("job") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "stopping", asked_to_stop_from_second_start())
        with pytest.raises(Stopped) as stopped:
            seeds.train_all(SHORT, tiny_pack, run, [0, 1, 2])
    assert stopped.value.code == 143
    assert [p.parent.name for p in run.glob("*/model.safetensors")] == ["seed-000"]
    assert list((run / "seed-001/checkpoints").glob("*.json"))
    seeds.train_all(SHORT, tiny_pack, run, [0, 1, 2])
    return run


def asked_to_stop_from_second_start():
    from contextlib import contextmanager

    starts = iter([{}, {"code": 143}])

    @contextmanager
    def stopping():
        yield next(starts)

    return stopping


@pytest.mark.parametrize(
    ("text", "found"), [("0-3", [0, 1, 2, 3]), ("0,3,5", [0, 3, 5]), ("7", [7]), ("0-1, 9", [0, 1, 9])]
)
def test_seeds_are_written_as_ranges_and_lists(text, found):
    assert seeds.parse(text) == found


@pytest.mark.parametrize("text", ["", "3-1", "-1", "a", "0,,1", "1,1", "0-2,2", "0-100000000", "1.5"])
def test_other_words_are_refused(text):
    with pytest.raises(UsageError, match=r"--seeds .*: (write|each seed once)"):
        seeds.parse(text)


def test_each_seed_is_the_run_it_would_be_alone(job, single):
    assert model(job / "seed-001") == model(single)
    assert model(job / "seed-000") != model(single)


def test_finished_seeds_are_left_alone_and_others_join_them(job, tiny_pack, monkeypatch):
    trained = []
    monkeypatch.setattr(train, "train", lambda spec, pack, run: trained.append((spec.run.seed, run.name)))
    monkeypatch.setattr(seeds, "summary", lambda *_: {})
    seeds.train_all(SHORT, tiny_pack, job, [0, 1, 2, 7])
    assert trained == [(7, "seed-007")]


def test_the_summary_says_what_the_runs_say(job, tiny_pack):
    record = seeds.train_all(SHORT, tiny_pack, job, [0, 1, 2])
    assert json.loads((job / "summary.json").read_text()) == record
    top1 = np.array([row["top1_error"] for row in record["seeds"]])
    assert [row["run"] for row in record["seeds"]] == [str(job / f"seed-00{i}") for i in range(3)]
    half = 4.302653 * top1.std(ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    expected = {"n": 3, "mean": top1.mean(), "std": top1.std(ddof=1)}
    expected |= {"low": top1.mean() - half, "high": top1.mean() + half}
    assert record["top1_error"] == pytest.approx(expected)
    seen = compare.compare([job / "seed-000", job / "seed-002"], ["fc6"], device="cpu", precision="fp32")
    found = record["consistency"]
    assert (found["layer"], found["pictures"]) == ("fc6", 15)
    assert found["rsa"][0][2] == pytest.approx(seen["rsa"][0][1])
    rsa = np.array(found["rsa"])
    assert found["mean_rsa"] == pytest.approx((rsa[0, 1] + rsa[0, 2] + rsa[1, 2]) / 3)
    assert -1 <= found["mean_rsa"] < 1


def test_the_runs_make_an_ensemble(job):
    silent = {"progress": lambda word: lambda done, total: None}
    whole = verifying.measure(sorted(job.glob("seed-*"))[:3], None, 1, "val", (), device="cpu", **silent)
    assert (whole["images"], whole["views"]) == (15, 1)


@pytest.mark.parametrize(
    ("values", "record"),
    [
        ([], {"n": 0, "mean": None, "std": None, "low": None, "high": None}),
        ([0.5], {"n": 1, "mean": 0.5, "std": None, "low": None, "high": None}),
    ],
)
def test_too_few_values_have_no_interval(values, record):
    assert seeds.estimate(values) == record


def test_nets_that_cannot_be_compared_are_still_summed_up(job, monkeypatch):
    monkeypatch.setattr(compare, "FEWEST", 16)
    found = seeds.consistency(SHORT, job, [0, 1], "fc6")
    assert found["mean_rsa"] is None
    assert "too few" in found["why"]


@pytest.mark.parametrize(
    ("changed", "layer", "says"),
    [
        (["net.lrn.k=1"], None, "net.lrn.k"),
        ([], "fc9", "no layer 'fc9'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(job, tiny_pack, monkeypatch, changed, layer, says):
    monkeypatch.setattr(train, "train", None)
    with pytest.raises(UsageError, match=says):
        seeds.train_all(spec_module.change(SHORT, changed), tiny_pack, job, [9, 0], layer=layer)


def test_folders_of_others_are_refused(single, tiny_pack, tmp_path):
    with pytest.raises(UsageError, match="folder of a single run"):
        seeds.train_all(SHORT, tiny_pack, single, [0])
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        seeds.train_all(SHORT, tiny_pack, tmp_path, [0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seeds": "0-1", "seed": 3}, "--seeds and --seed"),
        ({"seeds": "0-1", "settings": ("run.seed=3",)}, "--seeds and --seed"),
        ({"together": 2}, "go with --seeds"),
        ({"compare_layer": "fc7"}, "go with --seeds"),
        ({"seeds": "0-1", "together": 0}, "--together 0"),
    ],
)
def test_options_that_contradict_each_other(tiny_pack, options, says):
    with pytest.raises(UsageError, match=says):
        command(str(tiny_pack.path), **options)


def test_gpus_are_taken_by_turns(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert seeds.devices("auto") == ["0", "1"]
    assert seeds.devices("cuda:1") == seeds.devices("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert seeds.devices("cuda") == ["3", "5"]


# --- children -------------------------------------------------------------------------------------------------------

JOB = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny import spec
from alexnet import __main__, seeds, train
from alexnet.data.packfile import open_pack
def job():
    try:
        seeds.train_all(spec(*sys.argv[4:]), open_pack(sys.argv[2]), Path(sys.argv[3]), [0, 1, 2], together=2)
    except train.Stopped as stopped:
        sys.exit(stopped.code)
__main__.guarded(job)
"""


def start(pack: Path, run: Path, *settings: str) -> subprocess.Popen:
    """Seeds 0 to 2, two at once, as a process of its own."""
    given = [sys.executable, "-c", JOB, str(Path(__file__).parent), str(pack), str(run), *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.Popen(given, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def stopped_job(tiny_pack, tmp_path_factory) -> tuple[Path, str, int]:
    """(its folder, what it said, its status) of a job that was told to stop while two of its seeds were training."""
    run = tmp_path_factory.mktemp("children") / "runs"
    process = start(tiny_pack.path, run, "run.length=9999ep", "run.log_every=1st", "run.workers=1")
    said, begun = "", set()
    for line in process.stderr:
        said += line
        begun |= {line[:6]} if ": step " in line else set()
        if len(begun) == 2:
            break
    process.send_signal(signal.SIGTERM)
    said += process.communicate(timeout=60)[1]
    return run, said, process.returncode


def test_a_signal_stops_and_saves_all_children(stopped_job):
    run, said, status = stopped_job
    assert status == 143
    for seed in (0, 1):
        assert f"seed {seed}: stopped and saved after step" in said
        record = json.loads(sorted((run / f"seed-00{seed}/checkpoints").glob("*.json"))[-1].read_text())
        assert (record["step"] >= 1, record["threads"]) == (True, 1)
    assert not (run / "seed-002").exists()


def test_a_failing_child_ends_the_job_with_its_code_and_lines(stopped_job, tiny_pack):
    """Seed 1 has no intact checkpoint any more; seed 0, which goes on, is stopped and saved."""
    run, _, _ = stopped_job
    for path in (run / "seed-001/checkpoints").glob("*.safetensors"):
        path.write_bytes(b"")
    process = start(tiny_pack.path, run, "run.length=9999ep", "run.log_every=1st", "run.workers=1")
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 4
    assert "error: seed 1: no checkpoint in" in said
    assert said.count("Traceback") == 0


def test_children_train_what_single_runs_do(tiny_pack, tmp_path, single):
    record = seeds.train_all(SHORT, tiny_pack, tmp_path, [1, 2], together=2)
    assert model(tmp_path / "seed-001") == model(single)
    assert [row["seed"] for row in record["seeds"]] == [1, 2]


def test_a_killed_child_is_told(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process.kill()
    with pytest.raises(Failed, match=r"seed 3 was killed \(signal 9\)") as error:
        seeds._ended(seeds.Child(3, process))
    assert error.value.exit_code == 7
