"""Studies: what is missing is run, what is there is kept, equal runs are shared, seeds are paired; and one real one."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

from alexnet import claims
from alexnet import spec as spec_module
from alexnet.data import pack as packs
from alexnet.errors import UsageError
from alexnet.log import read_metrics
from alexnet.study import cost as study_cost
from alexnet.study import measure as study_measure
from alexnet.study import run as study
from alexnet.study.data import first_classes, open_data
from alexnet.study.jobs import Study, begin_with, digest_of, execute, jobs_of
from alexnet.study.report import Chapter, findings
from alexnet.study.run import append_row, read_rows, seeds_done
from alexnet.study.words import Arm, Claim, Finding, Scale, spec_of


def small(spec):
    """The tiny net in place of the preset's, with its number of classes."""
    return tiny.spec(f"net.classes={spec.net.classes}")


TINY = Scale("quick", None, tiny.NET.crop_px + 4, 66, "2ep", "as_run", (small,), of_classes=3)
CLAIM = Claim(
    "wide", "1", "a is worse", (Arm("a", ("net.dropout=0",)), Arm("b")), (Finding("a", "b", paper=0.1),), (TINY,)
)


class Killed(Exception):
    pass


class Fake:
    """A runner that leaves what a training leaves, and dies at its `dies_at`-th."""

    def __init__(self, dies_at: int = 0):
        self.made, self.dies_at = [], dies_at

    def __call__(self, job):
        if len(self.made) + 1 == self.dies_at:
            raise Killed
        job.run.mkdir(parents=True)
        record = {"spec": spec_module.to_dict(job.spec), "data": {"fingerprint": "f" * 8}}
        (job.run / "run.json").write_text(json.dumps(record))
        (job.run / "model.safetensors").touch()
        self.made.append(job.run.name)


def fake_measure(claim, arm, scale, runs, pack):
    """Errors that depend on arm and seed: a is 0.1 worse, every seed has its own level."""
    seed = int(runs[0].name.rpartition("seed")[2]) if "seed" in runs[0].name else 0
    error = 0.3 + 0.05 * seed + 0.001 * seed * (arm.name == "a") + 0.1 * (arm.name == "a")
    return {"values": {"top1_error": error}, "censored": []}


@pytest.fixture
def fake_pack():
    split = range(66)
    meta = {"name": "fake"}
    return SimpleNamespace(path=None, meta=meta, classes=["x", "y", "z"], splits={"train": split}, fingerprint="f" * 8)


def studied(tmp_path, pack, claim=CLAIM) -> tuple[Study, dict]:
    it = Study(claim, claim.scales[0], pack, tmp_path / claim.name / claim.scales[0].name)
    return it, {"out": tmp_path / "rows.jsonl", "measure": fake_measure}


def test_rows_are_made_seed_by_seed_and_kept(tmp_path, fake_pack):
    it, how = studied(tmp_path, fake_pack)
    first = Fake()
    assert set(study.study(it, 2, run=first, **how)) == {("a", 0), ("b", 0), ("a", 1), ("b", 1)}
    assert first.made == ["a-seed0", "b-seed0", "a-seed1", "b-seed1"]
    again = Fake()
    assert len(study.study(it, 3, run=again, **how)) == 6
    assert again.made == ["a-seed2", "b-seed2"]
    assert len(study.study(it, 1, run=Fake(dies_at=1), **how)) == 2  # nothing to run, two rows of the six
    assert seeds_done(CLAIM, TINY, read_rows(how["out"])) == 3


@pytest.mark.parametrize("dies_at", [1, 2, 4])
def test_a_killed_study_goes_on_where_it_stopped(tmp_path, fake_pack, dies_at):
    it, how = studied(tmp_path, fake_pack)
    with pytest.raises(Killed):
        study.study(it, 2, run=(before := Fake(dies_at)), **how)
    assert len(read_rows(how["out"])) == dies_at - 1  # a row as soon as its run is there
    rows = study.study(it, 2, run=(after := Fake()), **how)
    assert sorted(before.made + after.made) == ["a-seed0", "a-seed1", "b-seed0", "b-seed1"]
    assert len(rows) == len(read_rows(how["out"])) == 4


def test_claims_share_equal_runs_and_their_rows_do_not_wait_for_each_other(tmp_path, fake_pack):
    thin = replace(
        CLAIM, name="thin", arms=(CLAIM.arms[1], Arm("c", ("net.dropout=0.3",))), findings=(Finding("c", "b"),)
    )
    its = [studied(tmp_path, fake_pack, claim)[0] for claim in (CLAIM, thin)]
    how = {"measure": fake_measure}
    outs = [tmp_path / f"{it.claim.name}.jsonl" for it in its]
    with pytest.raises(Killed):
        study.study_all(its, [1, 2], outs, run=Fake(dies_at=3), **how)
    assert [len(read_rows(out)) for out in outs] == [2, 1]  # a and b of the one, b of the other
    rows = study.study_all(its, [1, 2], outs, run=(fake := Fake()), **how)
    assert fake.made == ["c-seed0", "b-seed1", "c-seed1"]
    assert [len(found) for found in rows] == [2, 4]


def test_a_lost_row_is_measured_again_from_the_run_that_is_there(tmp_path, fake_pack):
    it, how = studied(tmp_path, fake_pack)
    study.study(it, 1, run=Fake(), **how)
    how["out"].unlink()
    assert len(study.study(it, 1, run=Fake(dies_at=1), **how)) == 2


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_study
from alexnet.study.jobs import Job, run_all
if __name__ == "__main__":
    list(run_all([Job(None, None, None, Path({folder!r}) / str(i)) for i in range(8)], 2, test_study.slow))
"""


def slow(job):
    """As a training does, it does not end at once when it is asked to."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    job.run.touch()
    time.sleep(1)


def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    parent = subprocess.Popen([sys.executable, script])
    until = time.monotonic() + 60
    while not (tmp_path / "1").exists() and time.monotonic() < until:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    time.sleep(4)
    assert 2 <= sum((tmp_path / str(i)).exists() for i in range(8)) <= 4


def test_half_a_row_is_cut_off(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, {"a": 1})
    with open(path, "a") as file:
        file.write('{"a": 2, "b"')
    append_row(path, {"a": 3})
    assert read_rows(path) == [{"a": 1}, {"a": 3}]


def test_rows_of_another_spec_do_not_count(tmp_path, fake_pack):
    it, how = studied(tmp_path, fake_pack)
    study.study(it, 1, run=Fake(), **how)
    other = replace(it, settings=("sgd.rate=0.5",), folder=tmp_path / "other" / "wide" / "quick")
    study.study(other, 1, run=(fake := Fake()), **how)
    assert fake.made == ["a-seed0", "b-seed0"]


def test_rows_from_before_a_setting_existed_still_count():
    now = spec_module.to_dict(tiny.spec())
    before = {**now, "data": {k: v for k, v in now["data"].items() if k not in ("resized_crop", "fade")}}
    assert digest_of(before, "pack") == digest_of(tiny.spec(), "pack")
    assert digest_of(tiny.spec("data.resized_crop=0.5"), "pack") != digest_of(tiny.spec(), "pack")


def test_findings_pair_seeds_and_leave_out_those_without_a_partner(tmp_path, fake_pack):
    it, how = studied(tmp_path, fake_pack)
    rows = study.study(it, 3, run=Fake(), **how)
    del rows["b", 1]
    (found,) = findings(Chapter(CLAIM, TINY, rows))
    assert found["seeds"] == 2
    assert found["difference"] == pytest.approx(0.101)  # 0.100 and 0.102, of seeds 0 and 2
    assert found["worse_mean"] == pytest.approx(0.3 + 0.05 + 0.101)
    assert found["verdict"] == "agrees"
    rows["b", 0]["censored"] = ["top1_error"]  # the better arm never arrived: nothing is known of the difference
    (unknown,) = findings(Chapter(CLAIM, TINY, rows))
    assert (unknown["difference"], unknown["verdict"]) == (None, "too few seeds to tell")
    rows["b", 0]["censored"], rows["a", 0]["censored"] = [], ["top1_error"]  # the worse one: it is at least this
    (least,) = findings(Chapter(CLAIM, TINY, rows))
    assert (least["interval"][1], least["verdict"]) == (None, "agrees")
    rows["a", 0]["values"] = rows["a", 2]["values"] = {"top1_error": 0.9}  # of ten classes
    (guessing,) = findings(Chapter(CLAIM, TINY, rows))
    assert guessing["verdict"] == "an arm learnt nothing"
    (none,) = findings(Chapter(CLAIM, TINY, {}))
    assert (none["seeds"], none["difference"], none["verdict"]) == (0, None, "too few seeds to tell")


def test_equal_runs_of_other_claims_are_shared(tmp_path, fake_pack):
    it, how = studied(tmp_path, fake_pack)
    study.study(it, 1, run=Fake(), **how)
    other = replace(CLAIM, name="other", arms=(Arm("a", ("net.dropout=0.1",)), Arm("b")))
    rows = study.study(studied(tmp_path, fake_pack, other)[0], 1, run=(fake := Fake()), **how)
    assert fake.made == ["a-seed0"]
    assert rows["b", 0]["runs"] == [str(tmp_path / "wide/quick/b-seed0")]


def test_each_arm_is_run_with_the_best_of_its_grid(tmp_path, fake_pack):
    grid = (("sgd.rate=0.5",), ("sgd.rate=0.25",))
    claim = replace(CLAIM, arms=(Arm("a", ("net.dropout=0",), grid=grid), Arm("b")))
    it, how = studied(tmp_path, fake_pack, claim)

    def measure(claim, arm, scale, runs, pack):
        better = "0.25" in runs[0].name
        return {"values": {"top1_error": 0.2 if better else 0.4}, "censored": []}

    rows = study.study(it, 1, run=(fake := Fake()), **{**how, "measure": measure})
    assert fake.made == ["a-sgd.rate=0.5-probe", "a-sgd.rate=0.25-probe", "a-seed0", "b-seed0"]
    assert (rows["a", 0]["chosen"], rows["b", 0]["chosen"]) == (["sgd.rate=0.25"], [])
    record = json.loads((it.folder / "a-seed0/run.json").read_text())
    assert record["spec"]["sgd"]["rate"] == 0.25
    study.study(it, 2, run=(fake := Fake()), **{**how, "measure": measure})
    assert fake.made == ["a-seed1", "b-seed1"]  # what was chosen stays


def test_a_grid_is_judged_by_the_error_also_where_another_metric_comes_first(tmp_path, fake_pack):
    arms = (Arm("a", grid=(("sgd.rate=0.5",), ("sgd.rate=0.25",))), Arm("b"))
    findings = (Finding("a", "b", "gap"), Finding("a", "b"))
    it, how = studied(tmp_path, fake_pack, replace(CLAIM, arms=arms, findings=findings))

    def measure(claim, arm, scale, runs, pack):
        learnt = "0.25" in runs[0].name  # what has not learnt has no gap
        return {"values": {"gap": 0.1, "top1_error": 0.2} if learnt else {"gap": 0, "top1_error": 0.9}, "censored": []}

    rows = study.study(it, 1, run=Fake(), **{**how, "measure": measure})
    assert rows["a", 0]["chosen"] == ["sgd.rate=0.25"]


def test_probes_may_be_shorter_than_the_runs_that_are_compared(tmp_path, fake_pack):
    claim = replace(CLAIM, arms=(Arm("a", grid=(("sgd.rate=0.5",),)), Arm("b")))
    it, how = studied(tmp_path, fake_pack, claim)
    it = replace(it, scale=replace(it.scale, probe="1ep"))
    study.study(it, 1, run=Fake(), **how)
    made = [json.loads((it.folder / name / "run.json").read_text()) for name in ("a-sgd.rate=0.5-probe", "a-seed0")]
    assert [run["spec"]["run"]["length"] for run in made] == ["1ep", "2ep"]


def test_members_and_shared_runs(tmp_path, fake_pack):
    arms = (Arm("one"), Arm("five", ensemble=True, runs_of="one"))
    claim = replace(CLAIM, arms=arms, findings=(Finding("one", "five"),), members=5)
    it, how = studied(tmp_path, fake_pack, claim)
    rows = study.study(it, 2, run=(fake := Fake()), **how)
    assert fake.made == [f"one-seed{k}" for k in range(10)]
    assert rows["five", 1]["runs"] == rows["one", 1]["runs"] == [str(it.folder / f"one-seed{k}") for k in range(5, 10)]
    assert [job.spec.run.seed for job in jobs_of(it, arms[1], 1)] == [5, 6, 7, 8, 9]


def test_costs_count_what_is_missing():
    assert study_cost.pictures_trained(CLAIM, TINY, 3, []) == 2 * 3 * 2 * 66
    rows = [{"claim": "wide", "scale": "quick", "arm": arm, "seed": 0} for arm in "ab"]
    assert study_cost.pictures_trained(CLAIM, TINY, 3, rows) == 2 * 2 * 2 * 66
    assert study_cost.pictures_trained(CLAIM, TINY, 3, rows, pictures=660) == 10 * 2 * 2 * 2 * 66
    assert study_cost.cost_s(CLAIM, TINY, 1, rows, cache=None) == 0
    assert study_cost.pictures_trained(CLAIM, TINY, 1, [], settings=("run.length=5ep",)) == 2 * 5 * 66
    grid = replace(CLAIM, arms=(Arm("a", grid=(("sgd.rate=1",),) * 3), Arm("b", runs_of="a")))
    assert study_cost.pictures_trained(grid, TINY, 2, []) == (2 + 3) * 2 * 66
    assert study_cost.pictures_trained(grid, replace(TINY, probe="1ep"), 2, []) == 2 * 2 * 66 + 3 * 66


def test_a_warm_up_is_kept(tmp_path):
    cache = tmp_path / "speed.json"
    spec = tiny.spec()
    speed = study_cost.images_per_s(spec, cache)
    assert speed > 10
    cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_text()), 7.0)))
    assert study_cost.images_per_s(spec, cache) == 7.0


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([(0.5, 0.9), (1.5, 0.5), (2.5, 0.1)], 2.0),  # half way between 0.5 and 0.1
        ([(0.5, 0.9), (1.5, 0.3)], 1.5),
        ([(0.5, 0.2), (1.5, 0.1)], 0.5),
        ([(0.5, 0.9), (1.5, 0.4)], math.inf),
        ([], math.inf),
    ],
)
def test_epochs_to_a_training_error(curve, expected):
    assert study_measure.epochs_to(0.3, curve) == pytest.approx(expected)


def write_metrics(run, records):
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return run


def test_a_run_that_never_arrives_counts_with_its_length_and_is_marked(tmp_path):
    records = [{"step": i, "epoch": i, "loss": 2.0, "train_error": 0.9} for i in (1, 2, 3)]
    run = write_metrics(tmp_path / "run", records)
    claim = replace(CLAIM, findings=(Finding("a", "b", "epochs_to_target", paper=6),))
    seen = study_measure.measure(claim, CLAIM.arms[0], TINY, [run], SimpleNamespace(classes=list("xyz")))
    assert seen == {"values": {"epochs_to_target": 2.5}, "censored": ["epochs_to_target"]}


def test_a_training_ends_at_the_target_where_nothing_else_is_measured():
    arrival = Finding("a", "b", "epochs_to_target")
    for found, until in (((arrival,), TINY.target), ((arrival, Finding("a", "b")), 0)):
        spec = spec_of(replace(CLAIM, findings=found), CLAIM.arms[0], TINY, 3, 0)
        assert spec.run.until_train_error == until


@pytest.mark.parametrize(("loss", "stalls"), [(1.097, 1.0), (1.05, 0.0), (5.0, 1.0)])
def test_a_start_has_stalled_while_its_loss_is_that_of_guessing(tmp_path, loss, stalls):
    """ln 3 = 1.0986."""
    run = write_metrics(tmp_path / "run", [{"step": 1, "epoch": 1, "loss": loss, "train_error": 0.5}])
    assert study_measure.stalled(run, 3) == stalls


def test_a_run_that_diverged_answers_by_chance(tmp_path):
    run = write_metrics(tmp_path / "run", [])
    (run / study_measure.DIVERGED).touch()
    claim = replace(
        CLAIM, findings=tuple(Finding("a", "b", m) for m in ("top1_error", "train_error", "stalled", "gap"))
    )
    seen = study_measure.measure(claim, CLAIM.arms[0], TINY, [run], SimpleNamespace(classes=list("xyz")))
    third = pytest.approx(2 / 3)
    assert seen["values"] == {"top1_error": third, "train_error": third, "stalled": 1.0, "gap": 0.0}


def test_the_first_classes_of_a_pack(tiny_pack):
    few = first_classes(tiny_pack, 2)
    assert (len(few.splits["train"]), len(few.splits["val"]), few.classes) == (44, 10, tiny_pack.classes[:2])
    train = few.splits["train"]
    assert set(train.labels) == {0, 1}
    whole = tiny_pack.splits["train"]
    row = [whole.key(i) for i in range(66)].index(train.key(5))
    assert (train.pixels(5) == whole.pixels(row)).all()
    assert few.fingerprint != tiny_pack.fingerprint
    assert first_classes(tiny_pack, None) is tiny_pack is first_classes(tiny_pack, 3)


def test_squares_of_another_size_and_no_data_are_refused(tiny_pack):
    with pytest.raises(UsageError, match="--size 128"):
        open_data(replace(TINY, size_px=128), str(tiny_pack.path))
    with pytest.raises(UsageError, match="give --data"):
        open_data(TINY, None)


def test_a_study_from_end_to_end(tiny_pack, tmp_path, monkeypatch, capsys):
    """Real trainings: an arm that cannot learn, one that is pre-trained on more classes, ten views; page and rows."""
    from alexnet.cli.study import study as verb

    arms = (
        Arm("still", ("sgd.rate=0", "sgd.bias_rate=0")),
        Arm("plain"),
        Arm("pretrained", pretrained=True),
        Arm("ten", runs_of="plain", views=10),
    )
    compared = (Finding("still", "plain", paper=0.1), Finding("still", "plain", "gap"))
    compared += (Finding("plain", "pretrained", claimed=False), Finding("plain", "ten", claimed=False))
    scale = replace(TINY, classes=2)
    monkeypatch.setattr(claims, "CLAIMS", (Claim("real", "9", "It learns", arms, compared, (scale,)),))
    options = {"data": str(tiny_pack.path), "folder": tmp_path, "seeds": 2, "json": True}
    verb(("real",), **options)
    answer = json.loads(capsys.readouterr().out)
    assert [f["seeds"] for f in answer["claims"][0]["findings"]] == [2, 2, 2, 2]
    page = (tmp_path / "real/report.html").read_text()
    assert "data:image/svg+xml;base64," in page
    assert "src='http" not in page
    assert "| still - plain | top-1 error | 10.00 % |" in (tmp_path / "real/report.md").read_text()
    before = json.loads((tmp_path / "real/quick/pretrained-before-seed0/run.json").read_text())
    after = json.loads((tmp_path / "real/quick/pretrained-seed0/run.json").read_text())
    assert (before["spec"]["net"]["classes"], after["spec"]["net"]["classes"]) == (3, 2)
    losses = [
        next(r["loss"] for r in read_metrics(tmp_path / f"real/quick/{arm}-seed0/metrics.jsonl") if "loss" in r)
        for arm in ("plain", "pretrained")
    ]
    assert losses[0] != losses[1]  # it did not start from its seed alone

    rows = (tmp_path / "real/rows.jsonl").read_bytes()
    verb(("real",), **options)
    capsys.readouterr()
    assert (tmp_path / "real/rows.jsonl").read_bytes() == rows
    verb((), folder=tmp_path, seeds=2, json=True)
    (listed,) = json.loads(capsys.readouterr().out)["claims"]
    assert {"name", "statement", "scales", "seeds_done", "cost_s"} <= listed.keys()
    assert (listed["seeds_done"], listed["cost_s"], listed["scales"]) == (2, 0, ["quick"])


def test_pretrained_weights_are_taken_over_and_fc8_is_not(tiny_pack, tmp_path):
    import torch

    from alexnet import checkpoint

    scale = replace(TINY, classes=2)
    claim = replace(CLAIM, arms=(Arm("p", pretrained=True),), scales=(scale,))
    it = Study(claim, scale, packs.open_pack(tiny_pack.path), tmp_path / "c" / "quick", ("run.length=1st",))
    before, job = jobs_of(it, claim.arms[0], 0)
    execute(before)
    job.run.mkdir(parents=True)
    begin_with(job, first_classes(it.pack, 2))
    start, _ = checkpoint.latest(job.run / "checkpoints")
    model, _ = checkpoint.load_model(before.run / "model.safetensors")
    assert torch.equal(start["net.conv2.weight"], model["conv2.weight"])
    assert start["net.fc8.weight"].shape[0] == 2


def test_a_run_folder_of_other_settings_is_refused_with_what_to_type(tiny_pack, tmp_path):
    it = Study(CLAIM, TINY, tiny_pack, tmp_path / "wide" / "quick", ("run.length=1st",))
    (job,) = jobs_of(it, CLAIM.arms[1], 0)
    execute(job)
    with pytest.raises(UsageError, match=r"sgd.rate.*--folder"):
        execute(replace(job, spec=spec_module.change(job.spec, ["sgd.rate=0.5"])))
