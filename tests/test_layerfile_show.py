"""`alexnet layers`: the table's numbers, the towers, the rates in words, where the picture puts layers, its file."""

import json
from pathlib import Path

import pytest

from alexnet import tables
from alexnet.cli.layers import layers
from alexnet.errors import MachineError, UsageError
from alexnet.layerfile import draw, show
from alexnet.layerfile.records import Schedule

OWN = Path(__file__).parent / "layerfiles"
REAL = Path(__file__).parents[2] / "shared" / "layerfiles"
EVERY = (OWN / "layers-every.cfg", OWN / "layer-params-every.cfg")
TOWERS = OWN / "layers-towers.cfg"


def real(name: str) -> Path:
    if not REAL.is_dir():
        pytest.skip("the layer files of 2012 and 2014 are not beside this repository")
    return REAL / name


def named(rows: list[show.Row]) -> dict[str, show.Row]:
    return {row.name: row for row in rows}


def test_rows_are_the_sections():
    rows = named(show.rows_of(*EVERY))
    sections = [line[1:-1] for line in EVERY[0].read_text().splitlines() if line.startswith("[")]
    assert list(rows) == sections
    hidden = rows["hidden"]
    assert (hidden.inputs, hidden.neuron, hidden.shape) == (("drop", "pool"), "linear[2,-0.5]", (12,))
    assert hidden.parameters == 12 * (200 + 512) + 12  # 8 x 5 x 5 and 8 x 8 x 8 values come in
    assert hidden.multiply_adds == 12 * 712


def test_costs_of_a_convolution_over_two_inputs():
    row = named(show.rows_of(*EVERY))["convb"]
    assert row.parameters == 8 * 3 * 9 + 8 * 4 * 9 + 8
    assert row.multiply_adds == (8 * 3 * 9 + 8 * 4 * 9) * 16 * 16
    assert row.detail == "3x3 + 3x3, 2 groups random"


def test_towers_come_from_the_file_or_the_first_input():
    towers = {row.name: row.tower for row in show.rows_of(TOWERS)}
    assert {name: towers[name] for name in ("data", "labels", "nails", "conv1b", "rnorm1b", "fcb", "hsb", "fc")} == {
        **{"data": "", "labels": "", "nails": "0", "conv1b": "1", "rnorm1b": "1", "fcb": "1", "hsb": "1", "fc": "0"},
    }


def test_a_matrix_that_is_borrowed_counts_once(tmp_path):
    text = """[data]\ntype=data\ndataIdx=0\n[labels]\ntype=data\ndataIdx=1
[one]\ntype=conv\ninputs=data\nchannels=3\nfilters=3\nfilterSize=3\npadding=1\ninitW=0.1
[two]\ntype=conv\ninputs=one\nchannels=3\nfilters=3\nfilterSize=3\npadding=1\ninitW=0.1\nweightSource=one
[fc]\ntype=fc\ninputs=two\noutputs=4\n[cost]\ntype=cost.logreg\ninputs=labels,fc\n"""
    (tmp_path / "layers.cfg").write_text(text)
    rows = named(show.rows_of(tmp_path / "layers.cfg", size_px=4))
    assert (rows["one"].parameters, rows["two"].parameters) == (84, 3)
    assert rows["one"].multiply_adds == rows["two"].multiply_adds == 81 * 16


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule(0.01), "0.01"),
        (Schedule(0), "frozen"),
        (Schedule(0.01, "dexp", 250, 4), "0.01 dexp / 250 in 4"),
        (Schedule(0.001, "linear", 1, noise=1), "0.001, noise 1"),
    ],
)
def test_rates_in_words(schedule, words):
    assert show.said(schedule) == words


def test_equal_schedules_are_told_once():
    found = {(kind, show.said(s)): names for (kind, s), names in show.schedules(show.rows_of(*EVERY)).items()}
    assert found["weights", "frozen"] == ["convb"]
    assert found["weights", "0.01 dexp / 250 in 4"] == ["conva", "convb"]


def test_towers_stand_side_by_side():
    rows = show.rows_of(TOWERS)
    places = draw.places_of(rows)
    assert len(set(places.values())) == len(rows)
    for row in rows:
        if row.name.endswith("a") and row.name[:-1] + "b" in places:
            twin = places[row.name[:-1] + "b"]
            assert (places[row.name][1], places[row.name][0]) == (twin[1], twin[0] - draw.PITCH_IN[0]), row.name
        assert all(places[name][1] < places[row.name][1] for name in row.inputs)
    assert places["data"][0] == places["fc"][0] == draw.PITCH_IN[0] / 2
    assert places["nails"][0] < places["conv1a"][0]  # outside


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_picture_is_written(tmp_path, suffix):
    path = tmp_path / f"net.{suffix}"
    draw.save(draw.figure(show.rows_of(*EVERY), "layers-every.cfg", "layer-params-every.cfg"), path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)
    if suffix == "svg":
        text = path.read_text()
        assert [row.name for row in show.rows_of(*EVERY) if f">{row.name}<" not in text] == []
        assert "frozen: weights of convb" in text


def test_pictures_that_can_not_be_written(tmp_path):
    figure = draw.figure(show.rows_of(TOWERS), "towers")
    with pytest.raises(UsageError, match=r"\.gif: end it in \.png"):
        draw.save(figure, tmp_path / "net.gif")
    with pytest.raises(MachineError, match=r"none/net\.png"):
        draw.save(figure, tmp_path / "none" / "net.png")


def test_the_verb_as_json(capsys):
    layers(EVERY[0], params=EVERY[1], classes=9, json=True)
    out = capsys.readouterr().out
    record = json.loads(out)
    tree = next(row for row in record["layers"] if row["name"] == "tree")
    assert (tree["shape"], tree["parameters"], tree["weights"][0]["schedule"]) == ([9], 9 * 24 + 9, "linear")
    assert record["parameters"] == sum(row["parameters"] for row in record["layers"])


def test_the_verb_as_a_table(capsys, tmp_path):
    layers(TOWERS, draw=tmp_path / "towers.png")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(show.rows_of(TOWERS))
    assert lines[-1].split()[0] == "total"
    assert (tmp_path / "towers.png").stat().st_size > 10_000


def test_run_145_in_numbers():
    rows = show.rows_of(real("2012/layers-145.cfg"), real("2012/layer-params-145.cfg"))
    assert sum(row.parameters for row in rows) == 60_965_224
    assert sum(row.multiply_adds for row in rows) == 724_406_816  # the as_run preset's number, too
    text = tables.aligned(show.table(rows, rates=True))
    assert "frozen" in next(line for line in text.splitlines() if line.startswith("conv1a"))
    places = draw.places_of(rows)
    assert {x for x, _ in places.values()} == {0, draw.PITCH_IN[0] / 2, draw.PITCH_IN[0], draw.PITCH_IN[0] * 1.5}


def test_multiply_adds_are_the_presets():
    from alexnet.net import AlexNet, layer_table
    from alexnet.spec import cifar_11pct

    ours = sum(row.macs for row in layer_table(AlexNet(cifar_11pct().net)))
    assert sum(r.multiply_adds for r in show.rows_of(real("2014/layers-cifar10-11pct.cfg"), size_px=24)) == ours
