"""The figures of a run: all are there, right in size, equal for equal runs, and proof against odd class names."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from PIL import Image

from alexnet import figures, presets, spec, train
from alexnet.data import augment
from alexnet.errors import CheckpointError, UsageError
from alexnet.figures import kernels, layers, pictures
from alexnet.figures import run as figures_run
from alexnet.net import AlexNet, layer_sizes
from alexnet.report import answers as report_answers
from alexnet.report import history as report_history


def write(paths, out, kind="png", wanted=figures.NAMES, **options):
    return figures_run.write(paths, None, out, kind, figures_run.Wish(wanted, device="cpu", **options))


@pytest.fixture(scope="module")
def run(tiny_pack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "run"
    train.train(tiny.spec("run.length=2ep"), tiny_pack, folder)
    return folder


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_every_figure_is_written(run, tmp_path, kind):
    record = write([run], tmp_path, kind)
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
        write([run], tmp_path / name, "svg")
    for name in figures.NAMES:
        assert (tmp_path / f"a/{name}.svg").read_bytes() == (tmp_path / f"b/{name}.svg").read_bytes()


def test_a_model_file_alone_has_filters(run, tmp_path):
    alone = tmp_path / "model.safetensors"
    alone.write_bytes((run / "model.safetensors").read_bytes())
    record = write([alone], tmp_path / "out", wanted=("net", "filters", "curves", "colours"))
    assert list(record["figures"]) == ["net", "filters", "colours"]
    assert "no run folder" in record["left_out"]["curves"]


def test_a_run_in_training_has_curves(run, tmp_path):
    for name in ("run.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    record = write([tmp_path], tmp_path / "figures")
    assert list(record["figures"]) == ["net", "curves"]
    assert record["left_out"]["filters"] == "the run is not finished"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no"):
        write([tmp_path / "x"], tmp_path, wanted=("filters",))
    with pytest.raises(CheckpointError, match="no run folder"):
        write([tmp_path], tmp_path, wanted=("filters",))


def test_of_several_runs_there_are_curves_together(run, tiny_pack, tmp_path):
    train.train(tiny.spec("run.length=2ep", "run.seed=1"), tiny_pack, tmp_path / "other")
    record = write([run, tmp_path / "other"], tmp_path / "out", "svg", ("curves", "filters"))
    assert list(record["figures"]) == ["curves"]
    assert "one run" in record["left_out"]["filters"]
    text = (tmp_path / "out/curves.svg").read_text()
    assert all(f">{name}</text>" in text for name in ("run", "other", "Training error"))
    with pytest.raises(UsageError, match="of several runs there are curves"):
        write([run, tmp_path / "other"], tmp_path / "out", wanted=("filters",))
    with pytest.raises(UsageError, match="no run folder"):
        write([run, tiny_pack.path], tmp_path / "out", wanted=("curves",))


def test_of_a_pack_there_are_its_pictures(tiny_pack, tmp_path):
    assert figures_run.usual([tiny_pack.path]) == ("augmentation", "colours")
    assert figures_run.usual_folder([tiny_pack.path]) == tiny_pack.path.parent / "figures"
    record = write([tiny_pack.path], tmp_path, wanted=figures_run.usual([tiny_pack.path]))
    assert list(record["figures"]) == ["augmentation", "colours"]
    with pytest.raises(UsageError, match="of a pack there are augmentation and colours"):
        write([tiny_pack.path], tmp_path, wanted=("net",))
    assert "needs a run" in write([tiny_pack.path], tmp_path, wanted=("net", "colours"))["left_out"]["net"]


def test_predictions_may_be_of_errors_alone(run, tiny_pack, tmp_path):
    split = tiny_pack.splits["val"]
    sure = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    labels = np.array([0, 2, 2, 1, 1, 0])  # rows 1, 3 and 5 are wrong
    seen = report_answers.Answers(split, tiny_pack.classes, np.arange(6), labels, sure)
    assert report_answers.one_of_each(seen, 8, only_errors=True) == [5, 3, 1]
    assert len(report_answers.one_of_each(seen, 8)) == 6
    right = report_answers.Answers(split, tiny_pack.classes, np.arange(3), np.arange(3), sure[:3])
    assert report_answers.one_of_each(right, 8, only_errors=True) == []
    assert write([run], tmp_path, wanted=("predictions",), only_errors=True)["figures"]


def test_sizes_of_the_net_are_those_of_the_paper():
    """Section 3.5 and figure 2: kernels a layer, over both towers; units of the dense layers."""
    found = layers.stages(net := spec.preset("as_published").net, layer_sizes(net))
    assert [(s.name, s.size, s.towers) for s in found] == [
        ("picture", "224 × 224 × 3", 1),
        ("conv1", "55 × 55 × 48", 2),
        ("conv2", "27 × 27 × 128", 2),
        ("conv3", "13 × 13 × 192", 2),
        ("conv4", "13 × 13 × 192", 2),
        ("conv5", "13 × 13 × 128", 2),
        ("fc6", "2,048", 2),
        ("fc7", "2,048", 2),
        ("fc8", "1,000", 1),
    ]
    assert [s.name for s in found if s.sees_all] == ["picture", "conv1", "conv3", "fc6", "fc7", "fc8"]


@pytest.mark.parametrize("preset", presets.NAMES)
def test_every_preset_can_be_drawn(preset, tmp_path):
    drawn = spec.change(spec.preset(preset, classes=10), ["net.sixth_conv=true"] if preset == "as_run" else [])
    path = figures.save(figures.net(drawn.net, preset), tmp_path / "net.svg")
    assert f">{preset}: " in path.read_text()


def test_the_colour_index_tells_grey_from_colour():
    random = np.random.default_rng(0).integers(0, 256, (96, 11, 11, 3)).astype(np.uint8)
    grey = random[..., :1].repeat(3, -1)
    assert kernels.colour_index(grey) == pytest.approx(0, abs=1e-9)
    assert kernels.colour_index(random) == pytest.approx(2 / 3, abs=0.01)
    opposed = np.stack([random[..., 0], 255 - random[..., 0], np.full_like(random[..., 0], 127)], -1)
    assert kernels.colour_index(opposed) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("settings", [(), ("data.resized_crop=0.3",), ("data.relight=none", "data.mirror=false")])
def test_augmentation_shows_what_training_draws(run, tiny_pack, settings):
    changed, prep = tiny.spec(*settings), figures_run.load(run, "cpu").prep
    square = tiny_pack.splits["train"].pixels(0)
    (words, crops), (light, lit), *_ = pictures._rows(square, prep, changed.data, seed=3)
    draws = augment.training_draws(replace(changed.data, draw_group=1), prep, 3, 0, np.arange(7), False)
    if not settings:
        top, left, mirror = draws.tops[2], draws.lefts[2], draws.mirrors[2]
        part = square[top : top + 12, left : left + 12]
        np.testing.assert_array_equal(crops[2], part[:, ::-1] if mirror else part)
    assert ("mirrored" in words) == ("data.mirror=false" not in settings)
    assert ("resized" in words) == ("data.resized_crop=0.3" in settings)
    assert ("not in training" in light) == (changed.data.relight == "none")
    assert len({picture.tobytes() for picture in lit}) == 7


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
