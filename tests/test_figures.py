"""The figures of a run: all are there, right in size, equal for equal runs, and proof against odd class names."""

import numpy as np
import pytest
import tiny
from PIL import Image

from alexnet import figures, figures_run, train
from alexnet.errors import CheckpointError, UsageError
from alexnet.net import AlexNet
from alexnet.report import answers as report_answers
from alexnet.report import history as report_history


def quiet(word):
    return lambda done, total: None


@pytest.fixture(scope="module")
def run(tiny_pack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "run"
    train.train(tiny.spec("run.length=2ep"), tiny_pack, folder)
    return folder


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_every_figure_is_written(run, tmp_path, kind):
    record = figures_run.write(run, None, tmp_path, kind, figures.NAMES, None, "cpu", quiet)
    assert list(record["figures"]) == list(figures.NAMES)
    assert record["left_out"] == {}
    for name in figures.NAMES:
        path = tmp_path / f"{name}.{kind}"
        if kind == "png":
            width, height = Image.open(path).size
            assert width > 500
            assert height > 150
        else:
            assert path.read_text().startswith("<?xml")
    assert not list(tmp_path.glob(".tmp*"))


def test_equal_runs_give_equal_files(run, tmp_path):
    for name in ("a", "b"):
        figures_run.write(run, None, tmp_path / name, "svg", ("filters", "curves"), None, "cpu", quiet)
    assert (tmp_path / "a/curves.svg").read_bytes() == (tmp_path / "b/curves.svg").read_bytes()
    assert (tmp_path / "a/filters.svg").read_bytes() == (tmp_path / "b/filters.svg").read_bytes()


def test_a_model_file_alone_has_filters(run, tmp_path):
    alone = tmp_path / "model.safetensors"
    alone.write_bytes((run / "model.safetensors").read_bytes())
    record = figures_run.write(alone, None, tmp_path / "out", "png", ("filters", "curves"), None, "cpu", quiet)
    assert list(record["figures"]) == ["filters"]
    assert "no run folder" in record["left_out"]["curves"]


def test_a_run_in_training_has_curves(run, tmp_path):
    for name in ("run.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    record = figures_run.write(tmp_path, None, tmp_path / "figures", "png", figures.NAMES, None, "cpu", quiet)
    assert list(record["figures"]) == ["curves"]
    assert record["left_out"]["filters"] == "the run is not finished"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no"):
        figures_run.write(tmp_path / "x", None, tmp_path, "png", ("filters",), None, "cpu", quiet)
    with pytest.raises(CheckpointError, match="no run folder"):
        figures_run.write(tmp_path, None, tmp_path, "png", ("filters",), None, "cpu", quiet)


def test_kernels_are_shown_tower_by_tower_with_zero_in_the_middle():
    net = AlexNet(tiny.NET)
    (name_a, tower_a), (name_b, tower_b) = report_answers.kernels_by_tower(net)
    assert (name_a, name_b) == ("tower a", "tower b")
    assert tower_a.shape == tower_b.shape == (4, 3, 3, 3)
    weight = net.conv1.weight.detach().numpy()
    np.testing.assert_array_equal(tower_b[0] > 127, weight[4].transpose(1, 2, 0) > 0)


def test_tiles_lie_in_rows_with_gaps():
    tiles = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3)
    sheet = report_answers.in_rows(tiles, 3)
    assert sheet.shape == (5, 8, 3)
    assert [sheet[0, 0, 0], sheet[0, 3, 0], sheet[3, 3, 0], sheet[2, 0, 0], sheet[3, 6, 0]] == [0, 1, 4, 255, 255]


@pytest.mark.parametrize("name", ["$x^2$", "a_b%c\\d", "魚", "<b>"])
def test_odd_class_names_are_drawn(tiny_pack, tmp_path, name):
    split = tiny_pack.splits["val"]
    labels = split.labels[:4].astype(np.int64)
    seen = report_answers.Answers(split, [name] * 3, np.arange(4), labels, np.full((4, 3), 1 / 3, np.float32))
    for figure in (figures.predictions(seen, [0, 1]), figures.confusion(seen)):
        assert figures.save(figure, tmp_path / "x.svg").stat().st_size > 1000


def test_without_a_step_there_are_no_curves():
    assert figures.curves(report_history.History(), 10) is None
