"""`alexnet fidelity` says of every detail what this net does, and whom it agrees with.

The preset of the run agrees with the run in every row and the paper's with the paper; the copies differ where they are
known to.
"""

import pytest

from alexnet import presets, spec
from alexnet.fidelity import NOT_STATED, Row, fidelity
from alexnet.spec import change


def rows_of(name: str, *settings: str, classes: int = 1000) -> dict[str, Row]:
    return {row.detail: row for row in fidelity(change(spec.preset(name, classes=classes), settings))}


def matches(name: str, *settings: str, **options) -> dict[str, str]:
    return {detail: row.matches for detail, row in rows_of(name, *settings, **options).items()}


def test_as_run_agrees_with_the_run_in_every_row():
    rows = rows_of("as_run")
    assert [row for row in rows.values() if "as run" not in row.matches] == []
    assert len(rows) == len(fidelity(spec.as_run()))


def test_as_published_agrees_with_the_paper_in_every_row_where_it_says_something():
    rows = rows_of("as_published").values()
    assert [row for row in rows if "paper" not in row.matches and row.paper != NOT_STATED] == []
    assert sum(row.paper == NOT_STATED for row in rows) < 4


@pytest.mark.parametrize("classes", [10, 1000])
def test_the_two_differ_where_run_and_paper_do(classes):
    """The details in which run 145 departs from the paper's text (2012 source, layers-145 and layer-params-145)."""
    alone = [detail for detail, who in matches("as_run", classes=classes).items() if who == "as run"]
    assert alone == [
        *("conv1's padding", "layer 1", "layer 2", "layer 5", "LRN alpha", "LRN spans", "second norm, same map"),
        *("weights' sigma", "crop and mirror drawn", "relighting", "relighting lasts", "order of pictures"),
        *("schedule", "biases' rate", "biases' schedule", "biases' decay"),
    ]


def test_the_schedule_of_run_145_is_as_run_too():
    by_hand = presets.RUN_145.steps
    settings = ("sgd.schedule.kind=steps", f"sgd.schedule.steps={','.join(by_hand)}", "sgd.bias_schedule.kind=constant")
    found = matches("as_run", *settings)
    assert (found["schedule"], found["biases' schedule"]) == ("as run", "as run")
    assert matches("as_run", "sgd.schedule.factor=100")["schedule"] == "neither"


@pytest.mark.parametrize(
    ("name", "detail", "here", "who"),
    [
        ("caffe", "picture", "227 px", "neither"),
        ("caffe", "conv1's padding", "0 left and top, 0 right and bottom", "neither"),
        ("caffe", "layer 1", "conv, ReLU, LRN, pool", "paper"),
        ("caffe", "LRN alpha", "0.0001 / 5", "as run"),
        ("caffe", "LRN k", "1", "neither"),
        ("caffe", "LRN spans", "all maps", "paper"),
        ("caffe", "second norm, same map", "none", "paper"),
        ("caffe", "weights' sigma", "0.01; 0.005 in fc6, fc7", "neither"),
        ("caffe", "biases start at", "0; 0.1 in conv2, conv4, conv5, fc6, fc7", "neither"),
        ("caffe", "biases' rate", "2x the weights'", "as run"),
        ("caffe", "biases' decay", "0", "as run"),
        ("caffe", "relighting", "none", "neither"),
        ("caffe", "crop and mirror drawn", "per picture", "paper"),
        ("caffe", "order of pictures", "reshuffled every epoch", "neither"),
        ("caffe", "dropout", "0.5 after fc6, fc7, inverted", "neither"),
        ("caffe", "parameters, 1000 classes", "60,965,224", "paper and as run"),
        ("torchvision", "conv1's padding", "2 left and top, 2 right and bottom", "neither"),
        ("torchvision", "maps; dense units", "64, 192, 384, 256, 256; 4096, 4096", "neither"),
        ("torchvision", "towers", "1", "neither"),
        ("torchvision", "towers talk in", "one tower", "neither"),
        ("torchvision", "layer 1", "conv, ReLU, pool", "neither"),
        ("torchvision", "layer 2", "conv, ReLU, pool", "neither"),
        ("torchvision", "LRN alpha", "none", "neither"),
        ("torchvision", "LRN spans", "none", "neither"),
        ("torchvision", "weights' sigma", "uniform within 1/sqrt(fan in)", "neither"),
        ("torchvision", "biases start at", "uniform within 1/sqrt(fan in)", "neither"),
        ("torchvision", "biases' rate", "as the weights'", "paper"),
        ("torchvision", "biases' decay", "as the weights'", "paper"),
        ("torchvision", "weight decay", "0.0001", "neither"),
        ("torchvision", "relighting", "none", "neither"),
        ("torchvision", "subtracted", "channel means", "neither"),
        ("torchvision", "divided by a std", "yes", "neither"),
        ("torchvision", "dropout", "0.5 before fc6, fc7, inverted", "neither"),
        ("torchvision", "parameters, 1000 classes", "61,100,840", "neither"),
        ("one_tower", "towers", "1", "neither"),
        ("one_tower", "parameters, 1000 classes", "59,798,312", "neither"),
        ("owt2014", "second norm, same map", "none", "paper"),
        ("modern", "layer 1", "conv, batch norm, ReLU, pool", "neither"),
        ("modern", "label smoothing", "0.1", "neither"),
    ],
)
def test_copies_differ_where_they_are_known_to(name, detail, here, who):
    row = rows_of(name)[detail]
    assert (row.here, row.matches) == (here, who)


@pytest.mark.parametrize("name", presets.NAMES)
def test_every_preset_has_every_row(name):
    classes = 10
    assert list(rows_of(name, classes=classes)) == list(rows_of("as_run", classes=classes))


def test_rows_read_the_spec_not_the_name():
    row = rows_of("as_run", "net.lrn.k=1", "preset=as_published")["LRN k"]
    assert (row.here, row.matches) == ("1", "neither")
    assert rows_of("as_run", "net.conv1=none")["layer 1"].here == "left out"
    assert rows_of("as_run", "net.activation=tanh")["layer 1"].here == "conv, LRN, pool, tanh"
    assert rows_of("as_run", "sgd.decays=fc6:0.03")["weight decay"].here == "0.0005, fc6:0.03"


def test_remarks_are_not_compared_and_either_of_two_will_do():
    row = Row("detail", "a (so it says)", "b (one run) or c, d (another)", "c, d")
    assert row.matches == "as run"
    assert Row("detail", "a (so it says)", "a", "a").matches == "paper and as run"
    assert Row("detail", NOT_STATED, "x", "y").matches == "neither"
