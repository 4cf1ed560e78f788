"""`alexnet history`: runs, definitions, errors and changes out of comments; start rates in place of end rates."""

import json
from pathlib import Path

import pytest

from alexnet.cli.history import history as verb
from alexnet.errors import UsageError
from alexnet.layerfile import build, history
from alexnet.layerfile.notes import notes_of
from alexnet.layerfile.parse import read

REAL = Path(__file__).parents[2] / "shared" / "layerfiles"
NET = """[data]\ntype=data\ndataIdx=0\n[labels]\ntype=data\ndataIdx=1
[conv1]\ntype=conv\ninputs=data\nchannels=3\nfilters=4\nfilterSize=11\nstride=4\ninitW=0.01
[fc]\ntype=fc\ninputs=conv1,data\noutputs=4\ninitW=0.01,0.01\n[logprob]\ntype=cost.logreg\ninputs=labels,fc\n"""
RATES = "[{}]\nepsW={}\nepsB={}\nmomW=0.9\nmomB=0.9\nwc=0.0005\n\n"
MANY = """
# this is like #7 but with wider filters
# on gpu (now wolf3)
# on guppy9
# /nobackup/x/ConvNet__2012-09-13_03.43.56
# epoch 25: set epsw to 0.001 from 0.01
# epoch 67: set epsw to 0.00001 from 0.0001 on conv1
#           set color noise to 0 from 0.1
# 300 batches: set epsw to 0.01 from 0.001 on fc
# epoch 91.5: killed
# logprob:  1.9, 0.44, 0.21
# multiview logprob:  1.75, 0.41, 0.18

# restarted with other crops:
# test center patch:
# logprob:  1.8, 0.42, 0.19 (NOTE)

# 6 notes:
# logprob:  0.1, 0.01, 0.001

# logprob:  0.2, 0.02, 0.002
"""


def params(conv1=(0, 0), fc=("0.00001,0.00001", 0.02), comments: str = "") -> str:
    return RATES.format("conv1", *conv1) + RATES.format("fc", *fc) + "[logprob]\ncoeff=1\n" + comments


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "layers-8.cfg").write_text(NET)
    (tmp_path / "layers-10.cfg").write_text(NET.replace("outputs=4", "outputs=5"))
    (tmp_path / "layers-cifar.cfg").write_text(NET.replace("stride=4", "stride=2"))
    (tmp_path / "layer-params-8.cfg").write_text(params(comments=MANY))
    (tmp_path / "layer-params-8-again.cfg").write_text(params(comments="# trained on 2010\n" + MANY.lstrip()))
    (tmp_path / "layer-params-12.cfg").write_text(
        params((0.01, 0.02), ("0.01,0.01", 0.02), "# like #8 (so uses def file #10)\n# logs/a/ConvNet__2012-06-01_1\n")
    )
    (tmp_path / "layer-params-cifar.cfg").write_text(params((0.001, 0.002), ("0.0001,0.001", 0.002)))
    (tmp_path / "layer-params-13.cfg.save").write_text("broken")
    (tmp_path / "layer-params-flickr-9.cfg").write_text("[nothing]\nx=1\n# 20% error on tags\n")
    return tmp_path


def runs(folder: Path, sort: str = "name") -> dict[str, history.Run]:
    return {run.name: run for run in history.read_folder(folder, sort)}


def test_every_parameter_file_is_a_run(folder):
    found = runs(folder)
    assert list(found) == ["8", "8-again", "12", "cifar", "flickr-9"]
    definitions = {name: run.definition for name, run in found.items()}
    assert definitions == {
        **{"8": "layers-8.cfg", "8-again": "layers-8.cfg", "12": "layers-10.cfg", "cifar": "layers-cifar.cfg"},
        "flickr-9": None,
    }
    assert "flickr-9.cfg" in found["flickr-9"].problem


def test_pictures_are_said_or_concluded(folder):
    assert {name: (run.data, run.data_said) for name, run in runs(folder).items()} == {
        "8": ("ILSVRC-2012", False),
        "8-again": ("ILSVRC-2010", True),
        "12": ("ILSVRC-2010", False),
        "cifar": ("CIFAR-10", False),
        "flickr-9": ("Flickr", True),
    }


def test_notes_of_a_run():
    notes = notes_of(MANY)
    assert (notes.change, notes.begun, notes.epochs) == ("like #7 but with wider filters", "2012-09-13", 91.5)
    assert notes.events == (
        (25, "set epsw to 0.001 from 0.01"),
        (67, "set epsw to 0.00001 from 0.0001 on conv1, set color noise to 0 from 0.1"),
        (91.5, "killed"),
    )
    errors = [(e.nll, e.top1_error, e.top5_error, e.views, e.own) for e in notes.errors]
    assert errors == [(1.9, 0.44, 0.21, 1, True), (1.75, 0.41, 0.18, 10, True), (1.8, 0.42, 0.19, 1, False)]


@pytest.mark.parametrize(
    ("comments", "errors"),
    [
        ("# logprob: 1.7, 0.4, 0.2", [(1.7, 0.4, None)]),
        ("# test multliview:\n# logprob: 1.7, 0.4, 0.2", [(1.7, 0.4, 10)]),
        ("# logprob: 1.7, 0.4, 0.2 (NOTE, NOT MULTIVIEW!!)", [(1.7, 0.4, 1)]),
        ("; 13% error on CIFAR-10 - layer parameter file", [(None, 0.13, None)]),
        ("# 137 notes:\n# logprob: 1.7, 0.4, 0.2", []),
        ("x=1, 0.5, 0.4", []),
    ],
)
def test_errors_and_views(comments, errors):
    assert [(e.nll, e.top1_error, e.views) for e in notes_of(comments).errors] == errors


def test_errors_that_were_copied_are_told_once(folder):
    (folder / "layer-params-8-again.cfg").write_text(
        params(comments="# mine: 2.0, 0.5, 0.3\n\n# logprob: 1.75, 0.41, 0.18")
    )
    found = runs(folder)
    assert [e.top1_error for e in found["8-again"].errors] == [0.5]
    assert found["8"].best.top1_error == 0.41


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("top1", ["flickr-9", "8", "8-again", "12", "cifar"]),
        ("begun", ["12", "8", "8-again", "cifar", "flickr-9"]),
        ("definition", ["8", "8-again", "12", "cifar", "flickr-9"]),
        ("epochs", ["8", "8-again", "12", "cifar", "flickr-9"]),
    ],
)
def test_sorting_puts_what_is_not_known_last(folder, sort, names):
    (folder / "layer-params-flickr-9.cfg").write_text("[x]\n# 20% error on tags\n")
    assert list(runs(folder, sort)) == names


def rates(pair: history.Pair) -> dict[str, list[float]]:
    found = {layer.name: layer for layer in read(pair.layers, pair.params).layers if layer.bias_update}
    return {
        name: [*(u.schedule.base for u in layer.weight_updates), layer.bias_update.schedule.base]
        for name, layer in found.items()
    }


def test_rates_of_a_runs_end_become_those_of_its_start(folder):
    pair = history.pair(folder, "8")
    assert rates(pair) == {"conv1": [0.01, 0.02], "fc": [0.01, 0.01, 0.02]}
    layer = read(pair.layers, pair.params).layers[2]
    assert (layer.weight_updates[0].schedule.kind, layer.weight_updates[0].schedule.factor) == ("dexp", 250)
    assert (layer.weight_updates[0].decay, layer.weight_updates[0].momentum) == (0.0005, 0.9)
    notes = "\n".join(pair.notes)
    assert [
        word for word in ("epsW 0 to 1e-05", "epsW 0.01", "epoch 25", "until epoch 67 of 91.5") if word not in notes
    ] == []
    assert build(pair.layers, pair.params, classes=3, size_px=32).tops == ("fc",)


def test_rates_of_a_start_stay(folder):
    pair = history.pair(folder, "12")
    assert pair.params.text == (folder / "layer-params-12.cfg").read_text()
    assert "used as they are" in pair.notes[0]
    assert rates(history.pair(folder, "cifar")) == {"conv1": [0.001, 0.002], "fc": [0.0001, 0.001, 0.002]}


def test_a_layer_frozen_at_the_end_learns_from_the_start(folder):
    scheduled = params((0, 0), ("0.01,0.01", 0.02)).replace("epsW=0.01", "schedW=dexp[500,4]\nepsW=0.01")
    (folder / "layer-params-8.cfg").write_text(scheduled.replace("epsW=0\n", "epsW=0\nschedW=dexp[500,4]\n"))
    pair = history.pair(folder, "8")
    assert rates(pair)["conv1"] == [0.01, 0.02]
    assert {layer.weight_updates[0].schedule.factor for layer in read(*pair[:2]).layers if layer.weight_updates} == {
        500
    }
    assert "conv1: epsW 0.01, epsB 0.02" in pair.notes[0]


@pytest.mark.parametrize(
    ("name", "words"), [("8-agan", "8-again"), ("nothing", "alexnet history"), ("flickr-9", "--layers")]
)
def test_runs_that_can_not_be_had(folder, name, words):
    with pytest.raises(UsageError, match=words):
        history.pair(folder, name)


def test_folders_without_runs(tmp_path):
    with pytest.raises(UsageError, match="layer-params-NAME"):
        history.read_folder(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        history.read_folder(tmp_path / "none")


def test_folders_in_a_folder(folder, tmp_path_factory):
    above = tmp_path_factory.mktemp("above")
    folder.rename(above / "layers")
    assert next(iter(runs(above))) == "layers/8"
    assert history.pair(above, "8-again").params.name == history.pair(above, "layers/8-again").params.name


def test_the_verb(folder, capsys):
    verb(folder, sort="top5", json=True)
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert (rows[0]["name"], rows[0]["top5_error"], rows[0]["views"]) == ("8", 0.18, 10)
    assert rows[0]["events"][0] == [25, "set epsw to 0.001 from 0.01"]
    verb(folder)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["8", "8", "ILSVRC-2012?"]


PUBLISHED = {  # LAYERFILES.md 5.1 and 5.6: definition, pictures, top-1, top-5, views
    "145": ("layers-145.cfg", "ILSVRC-2012", 0.406640, 0.182100, None),
    "145-2010": ("layers-145.cfg", "ILSVRC-2010", 0.374727, 0.169987, 10),
    "145-half": ("layers-145-half.cfg", "ILSVRC-2010", 0.391680, 0.182287, 10),
    "146-2012-2011": ("layers-146-2012-2011.cfg", "ILSVRC-2012", 0.389900, 0.166220, 10),
    "147": ("layers-147.cfg", "ILSVRC-2012", 0.410580, 0.185100, 10),
    "120-2012": ("layers-120.cfg", "ILSVRC-2012", 0.410440, 0.187140, 10),
    "165": ("layers-153.cfg", "ILSVRC-2012", 0.409820, 0.183920, 10),
    "170": ("layers-153.cfg", "ILSVRC-2012", 0.405280, 0.180480, 10),
}


def test_the_real_log():
    if not REAL.is_dir():
        pytest.skip("the layer files of 2012 and 2014 are not beside this repository")
    found = {run.name: run for run in history.read_folder(REAL / "2012")}
    assert len(found) == len(list((REAL / "2012").glob("layer-params-*.cfg")))
    assert {name for name, run in found.items() if run.problem} == set()
    for name, expected in PUBLISHED.items():
        run, best = found[name], found[name].best
        assert (run.definition, run.data, best.top1_error, best.top5_error, best.views) == expected, name
    assert rates(history.pair(REAL / "2012", "145"))["conv1a"] == [0.01, 0.02]
    assert history.pair(REAL / "2012", "170").params.text == (REAL / "2012/layer-params-170.cfg").read_text()


def test_noise_alone_is_no_fall_and_stays(folder):
    noisy = params((0.00001, 0.002)).replace("epsB=", "schedW=linear[1,1]\nepsB=")
    (folder / "layer-params-8.cfg").write_text(noisy)
    pair = history.pair(folder, "8")
    falls = [layer.weight_updates[0].schedule for layer in read(*pair[:2]).layers if layer.weight_updates]
    assert {(s.base, s.kind, s.factor, s.steps, s.noise) for s in falls} == {(0.01, "dexp", 250, 4, 1)}
    assert any("as in run 170" in note for note in pair.notes)
