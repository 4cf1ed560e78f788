"""The page of a run: what it must say, what it must never let through, and that it never stops a training run."""

import json
import re
import shlex
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny

from alexnet import checkpoint, train
from alexnet import spec as spec_module
from alexnet.errors import DataError, UsageError
from alexnet.predict import load
from alexnet.report import answers as report_answers
from alexnet.report import history as report_history
from alexnet.report import pages as report
from alexnet.report import parts as report_page
from alexnet.report import verb as report_verb
from alexnet.report import words as report_words
from alexnet.report.charts import Line, _bounds, chart, ticks
from alexnet.report.charts import Scale as ChartScale

HOSTILE = "<script>alert('x')</script>"
VOID = {"meta", "img", "path", "circle", "br", "link", "input"}


def quiet(word):
    return lambda done, total: None


class Page(HTMLParser):
    """Tags and text of a page; raises where tags are not nested."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def run(tiny_pack, tmp_path_factory):
    """A finished run of the tiny net."""
    folder = tmp_path_factory.mktemp("report") / "run & <b>"
    train.train(tiny.spec("run.length=12ep"), tiny_pack, folder)
    return folder


class Grey:
    """A split of nine grey pictures whose names are an attack."""

    def __len__(self) -> int:
        return 9

    def pixels(self, index: int) -> np.ndarray:
        return np.full((8, 8, 3), 9, np.uint8)

    def key(self, index: int) -> str:
        return f"val/{HOSTILE}{index}.png"


def answers(probabilities, labels, classes=("a", "b", "c")):
    labels = np.array(labels)
    return report_answers.Answers(Grey(), list(classes), np.arange(len(labels)), labels, np.float32(probabilities))


def test_a_finished_runs_page_says_it_all_and_needs_nothing_else(run, tiny_pack):
    record = report_verb.one(run, None, None, None, "cpu", quiet)
    text = (run / "report.html").read_text()
    page = Page(text)
    assert record["pictures"] == 15
    for heading in ("Curves", "What it sees", "Where it errs", "First layer", "What was trained", "Use it"):
        assert heading in page.text
    assert all(name in page.text for name in tiny_pack.classes)
    assert "&amp; &lt;b&gt;" in text
    pointed_at = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href")]
    assert all(v.startswith("data:image/") for v in pointed_at)
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert not any(tag in ("script", "link", "iframe") for tag, _ in page.tags)
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    mistakes = sum(1 for attrs in pictures if attrs["src"].startswith("data:image/jpeg"))
    assert mistakes >= report_page.SAMPLES
    evaluations = report_history.read(run / "metrics.jsonl").evaluations
    assert report_page.percent(evaluations[-1]["top1_error"]) in page.text


def test_the_commands_on_the_page_can_be_pasted(run):
    spec = report.read_run(run)[1]
    for _, command in report.commands(run, spec):
        if command.startswith("alexnet "):
            assert shlex.split(command)[2] == str(run.resolve())
        else:
            compile(command, "page", "exec")


def test_a_run_in_training_has_curves_and_reloads(run, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    (half / "run.json").write_text((run / "run.json").read_text())
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (half / "metrics.jsonl").write_text("\n".join([*lines[:6], '{"step": 9, "lo']))
    report.refresh(half)
    page = Page((half / "report.html").read_text())
    assert "Curves" in page.text
    assert "Use it" not in page.text
    assert ("meta", {"http-equiv": "refresh", "content": "30"}) in page.tags
    assert "training: step" in page.text
    assert "top 5" not in page.text  # of three classes it says nothing


def test_a_refresh_costs_little_and_waits_for_the_next_turn(run, monkeypatch):
    report.refresh(run)
    monkeypatch.setattr(report, "FRESH_S", 0)
    start = time.perf_counter()
    report.refresh(run)
    assert time.perf_counter() - start < 0.5
    monkeypatch.setattr(report, "FRESH_S", 1000)
    before = (run / "report.html").stat().st_mtime_ns
    report.refresh(run)
    assert (run / "report.html").stat().st_mtime_ns == before


@pytest.mark.parametrize("broken", ["run.json", "look", "folder"])
def test_a_page_that_fails_is_said_once_and_stops_nothing(run, tmp_path, capsys, broken):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text("[]" if broken == "run.json" else (run / "run.json").read_text())
    if broken == "folder":
        (folder / "report.html").mkdir()

    def look():
        raise DataError("picture 3 is damaged")

    for _ in range(2):
        report.refresh(folder, None, look if broken == "look" else lambda: None)
    said = capsys.readouterr().err
    assert said.count("could not be written") == 1
    assert "training goes on" in said
    assert list(folder.glob(".tmp*")) == []


def test_strangers_words_stay_words(run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    record = json.loads((run / "run.json").read_text())
    record["command"] = record["data"]["path"] = HOSTILE
    (folder / "run.json").write_text(json.dumps(record))
    look = {"step": 5, "look": {"advice": [HOSTILE]}}
    (folder / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + json.dumps(look) + "\n")
    seen = answers([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.9, 0.1, 0]], [0, 0, 1], (HOSTILE, '" onload="x', "c"))
    page = Page(report.write(folder, None, seen).read_text())
    assert not any(tag == "script" or "onload" in attrs for tag, attrs in page.tags)
    assert page.text.count(HOSTILE) >= 4
    other = Page(report.compare([folder, run], tmp_path / "compare.html").read_text())
    assert not any(tag == "script" for tag, _ in other.tags)


def test_runs_are_compared_by_what_differs(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    record = json.loads((run / "run.json").read_text())
    record["spec"]["sgd"]["rate"], record["spec"]["net"]["lrn"] = 0.5, None
    (other / "run.json").write_text(json.dumps(record))
    page = Page(report.compare([run, other], tmp_path / "compare.html").read_text())
    assert "sgd.rate" in page.text
    assert "net.lrn" in page.text
    assert "sgd.momentum" not in page.text
    assert "not finished" in page.text
    assert not re.search(rf"(?<!\d){report_page.percent(0, 2)}", page.text)  # the top-5 error of three classes
    same = Page(report.compare([run, run], tmp_path / "same.html").read_text())
    assert "None: the same run" in same.text


@pytest.mark.parametrize(("folder", "word"), [("nowhere", "no run folder"), ("empty", "no run folder")])
def test_what_is_no_run_is_refused(tmp_path, folder, word):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=word):
        report_verb.one(tmp_path / folder, None, None, None, "cpu", quiet)


def test_moved_data_leaves_a_page_without_pictures(run, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("metrics.jsonl", "model.safetensors"):
        (folder / name).write_bytes((run / name).read_bytes())
    record = json.loads((run / "run.json").read_text())
    record["data"]["path"] = str(tmp_path / "gone.pack")
    checkpoint.write_json(folder / "run.json", record)
    assert report_verb.one(folder, None, None, None, "cpu", quiet)["pictures"] == 0
    assert "without pictures" in capsys.readouterr().err
    assert "First layer" in (folder / "report.html").read_text()


def test_answers_are_those_of_predict(run, tiny_pack):
    predictor = load(run, "cpu")
    split = tiny_pack.splits["val"]
    seen = report_answers.look(
        predictor.net, predictor.prep, predictor.place, split, tiny_pack.classes, limit=7, hidden=True
    )
    assert len(seen) == 7
    for row, picture in enumerate(seen.pictures):
        expected = predictor.probabilities(split.pixels(int(picture)), 1).numpy()
        np.testing.assert_allclose(seen.probabilities[row], expected, atol=1e-5)
    np.testing.assert_allclose(seen.hidden.shape, (7, 16))
    assert report_answers.last_hidden(predictor.net) == "relu6"


def test_confusions_are_counted():
    seen = answers([[0.6, 0.4, 0], [0.3, 0.7, 0], [0.1, 0.9, 0], [0.8, 0.2, 0], [0, 0.3, 0.7]], [0, 0, 0, 1, 2])
    np.testing.assert_array_equal(report_answers.confusion(seen), [[1, 2, 0], [1, 0, 0], [0, 0, 1]])
    assert report_answers.most_confused(seen, 5) == [report_answers.Confusion(0, 1, 2, 3)]
    assert report_answers.worst(seen, 2) == [2, 3]
    rows = report_answers.class_errors(seen)
    assert [(r["class"], r["images"], round(r["top1_error"], 3)) for r in rows] == [
        ("b", 1, 1),
        ("a", 3, 0.667),
        ("c", 1, 0),
    ]
    assert report_answers.one_of_each(seen, 3) == [0, 3, 4]
    assert sorted(report_answers.one_of_each(seen, 8)) == [0, 1, 2, 3, 4]


def test_the_nearest_are_the_nearest():
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(3, 17)).astype(np.float32), rng.normal(size=(11, 17)).astype(np.float32)
    distances = ((queries[:, None].astype(np.float64) - candidates[None]) ** 2).sum(2)
    np.testing.assert_array_equal(report_answers.nearest(queries, candidates, 4), distances.argsort(1)[:, :4])


def test_long_histories_are_thinned_but_keep_evaluations(tmp_path):
    path = tmp_path / "metrics.jsonl"
    step = {"epoch": 1.0, "loss": 1.0, "train_error": 0.5, "rate": 0.1, "images_per_s": 10.0, "data_wait": 0.0}
    with open(path, "w") as file:
        for i in range(20000):
            file.write(json.dumps({"step": i, **step}) + "\n")
            if i % 5000 == 0:
                file.write(json.dumps({"step": i, "epoch": 1.0, "top1_error": 0.5, "top5_error": 0.1}) + "\n")
    history = report_history.read(path)
    assert len(history.steps) <= report_history.MOST_STEPS + 1
    assert history.last["step"] == 19999
    assert len(history.evaluations) == 4
    assert len(report_history.read(path, None).steps) == 20000


def test_means_of_stretches_and_neighbours():
    x, y = report_history.binned(np.arange(10.0), np.arange(10.0) ** 2, 5)
    np.testing.assert_allclose(x, [0.5, 2.5, 4.5, 6.5, 8.5])
    np.testing.assert_allclose(y, (np.arange(10.0) ** 2).reshape(5, 2).mean(1))
    np.testing.assert_allclose(report_history.smoothed(np.array([0.0, 3, 6, 0]), 3), [1.5, 3, 3, 3])


@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0], [0.0, 1e-9], [5.0, 1e6], [-1.0, 2.0]])
def test_a_chart_keeps_its_line_inside(values):
    svg = chart("x", [Line("a", np.arange(float(len(values))), np.array(values))])
    numbers = [float(n) for n in re.findall(r"-?\d+\.\d", re.search(r'class="line s0" d="([^"]*)', svg)[1])]
    assert all(0 <= x <= 400 for x in numbers[::2])
    assert all(0 <= y <= 210 for y in numbers[1::2])


@pytest.mark.parametrize(("low", "high"), [(44.9, 61.1), (0, 1), (0.31, 0.3101), (-3, 2_000), (999, 1001)])
def test_an_axis_ends_at_its_last_numbers(low, high):
    bounds = _bounds(low, high, log=False)
    shown = ticks(ChartScale(*bounds, 0, 1))
    assert (shown[0], shown[-1]) == pytest.approx(bounds)
    assert bounds[0] <= low < high <= bounds[1]


def test_axes_count_in_round_numbers():
    assert ticks(ChartScale(0, 100, 0, 1)) == [0, 25, 50, 75, 100]
    assert ticks(ChartScale(1e-4, 1e-2, 0, 1, log=True)) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert chart("nothing", [Line("a", np.zeros(0), np.zeros(0))]) == ""


@pytest.mark.parametrize(
    "name", ["as_run", "as_published", "one_tower", "caffe", "torchvision", "modern", "cifar_quick"]
)
def test_a_spec_in_words_names_its_numbers(name):
    spec = spec_module.preset(name, classes=7)
    text = " ".join(sentence for _, sentence in report_words.sentences(spec))
    assert f"{spec.sgd.rate:g}" in text
    assert f"{spec.net.crop_px} px" in text
    assert ("towers" in text) == (spec.net.towers > 1)
    assert report_words.settings(spec) == []


@pytest.mark.parametrize("settings", [["net.lrn=none"], ["sgd.rate=0.5", "run.length=7ep"], ["net.rnorm.size=3"]])
def test_settings_rebuild_the_spec(settings):
    base = spec_module.preset("caffe", classes=7)
    spec = spec_module.change(base, settings)
    assert spec_module.change(base, report_words.settings(spec)) == spec
