"""Rules of layer files that no published net needs: trees of classes, rows of data, odd layers, odd spelling."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet.errors import UsageError
from alexnet.layerfile import build, lex, show
from alexnet.layerfile.parse import read
from alexnet.layerfile.records import Schedule
from alexnet.layerfile.tree import parsed
from alexnet.sgd import Sgd

FRAME = "[data]\ntype=data\ndataIdx=0\n[labels]\ntype=data\ndataIdx=1\n"
END = "[cost]\ntype=cost.logreg\ninputs=labels,x\n"
TREE = "[x]\ntype=treefc\ninputs=data\ninitW=0.1\ntree={}\n"
NESTED = "[[0,1],[2,[3,4]]]"
RATES = "[x]\nepsW=0.03\nepsB=0.02\nmomW=0.9\nmomB=0.9\nwc=0.3\n[cost]\ncoeff=1\n"


def written(tmp_path, text: str, name: str = "layers.cfg"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def net_of(tmp_path, section: str, size_px: int = 6, **options):
    """A net with a layer [x] on the pictures and a cost on a dense layer above it."""
    text = FRAME + "[x]\n" + section.replace(" ", "\n") + "\n[top]\ntype=fc\ninputs=x\noutputs=2\n"
    return build(written(tmp_path, text + END.replace("labels,x", "labels,top")), size_px=size_px, **options).double()


def output(tmp_path, section: str, size_px: int = 6) -> tuple[np.ndarray, np.ndarray]:
    x = torch.randn(2, 3, size_px, size_px, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x.numpy(), net_of(tmp_path, section, size_px).eval()(x, until="x").numpy()


def test_brightness_and_colour_differences(tmp_path):
    x, y = output(tmp_path, "type=rgb2yuv inputs=data")
    r, g, b = x.transpose(1, 0, 2, 3)
    np.testing.assert_allclose(y[:, 0], 0.2126 * r + 0.7152 * g + 0.0722 * b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y[:, 1], -0.09991 * r - 0.33609 * g + 0.436 * b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y[:, 2], 0.615 * r - 0.55861 * g - 0.05639 * b, rtol=1e-5, atol=1e-6)


def test_a_square_cut_out(tmp_path):
    x, y = output(tmp_path, "type=crop inputs=data channels=3 startX=1 startY=2 sizeX=4")
    np.testing.assert_array_equal(y, x[:, :, 2:6, 1:5])


@pytest.mark.parametrize(("scale", "out"), [(0.5, 14), (0.8, 8), (1, 7), (1.5, 4), (2, 3)])
def test_resizing_is_bilinear(tmp_path, scale, out):
    x, y = output(tmp_path, f"type=resize inputs=data channels=3 scale={scale}", size_px=7)
    assert y.shape == (2, 3, out, out)
    places = np.clip(np.arange(out) * scale + (7 / 2 - out * scale / 2), 0, 7 - 1.01)
    for i, v in enumerate(places):
        for j, u in enumerate(places):
            (r, c), (dv, du) = (int(v), int(u)), (v % 1, u % 1)
            top = (1 - du) * x[:, :, r, c] + du * x[:, :, r, c + 1]
            below = (1 - du) * x[:, :, r + 1, c] + du * x[:, :, r + 1, c + 1]
            np.testing.assert_allclose(y[:, :, i, j], (1 - dv) * top + dv * below, rtol=1e-5, atol=1e-6)


def test_rows_of_the_data(tmp_path):
    text = (FRAME + TREE.format(NESTED) + END).replace("dataIdx=0\n", "dataIdx=0\nstart=36\nend=72\n")
    net = build(written(tmp_path, text), size_px=6)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(net(x, until="data"), x[:, 1].flatten(1))
    with pytest.raises(UsageError, match=r"\[data\] end=109"):
        build(written(tmp_path, text.replace("end=72", "end=109")), size_px=6)


BAD = [  # [x], words of the message
    ("type=conv inputs=data channels=3 filters=4 filterSize=2 stride=3 initW=1", ["stride=3", "filterSize (2)"]),
    ("type=local inputs=data channels=3 filters=4 filterSize=2 stride=3 initW=1", ["stride=3", "filterSize (2)"]),
    ("type=conv inputs=data channels=3 filters=4 filterSize=2 randSparse=1 initW=1", ["randSparse", "groups"]),
    ("type=conv inputs=data channels=3 filters=4 filterSize=2 groups=2 initW=1", ["groups=2", "3 channels"]),
    ("type=conv inputs=data channels=3 filters=4 filterSize=2 padding=-1 initW=1", ["padding=-1", "from 0"]),
    ("type=conv inputs=data channels=2 filters=4 filterSize=2 initW=1", ["channels=2", "square maps"]),
    ("type=conv inputs=data channels=3 filters=4 filterSize=2", ["initw", "missing"]),
    ("type=crop inputs=data channels=3 startX=3 startY=0 sizeX=4", ["sizeX=4", "6 pixels"]),
    ("type=resize inputs=data channels=3 scale=2.5", ["scale=2.5", "0.5 to 2"]),
    ("type=blur inputs=data channels=3 filterSize=4 stdev=1", ["filtersize=4", "3, 5, 7 or 9"]),
    ("type=pool inputs=data channels=3 sizeX=3 stride=2 pool=min", ["pool=min", "maxabs"]),
    ("type=x", ["type=x", "does not exist"]),
]


@pytest.mark.parametrize(("section", "words"), BAD)
def test_faults_are_told_with_section_and_key(tmp_path, section, words):
    with pytest.raises(UsageError) as error:
        net_of(tmp_path, section)
    assert [word for word in ["layers.cfg", "[x]", *words] if word not in str(error.value)] == []
    assert len(str(error.value).splitlines()) == 1


def tree_net(tmp_path, tree: str = NESTED, **options):
    return build(
        written(tmp_path, FRAME + TREE.format(tree) + END), written(tmp_path, RATES, "p.cfg"), size_px=2, **options
    )


def test_a_class_has_the_weights_of_its_way_from_the_root(tmp_path):
    net = tree_net(tmp_path)
    module = net.module("x")
    assert module.leaves == [2, 3, 5]
    assert all(not nodes.any() for nodes in module.nodes)
    with torch.no_grad():
        for nodes in module.nodes:
            nodes.normal_()
    x = torch.randn(4, 3, 2, 2)
    w, (pairs, triple, root) = module.weights[0], module.nodes
    ways = [pairs[0], pairs[0], triple[0], triple[0] + pairs[1], triple[0] + pairs[1]]
    whole = torch.stack([w[i] + way + root[0] for i, way in enumerate(ways)])
    torch.testing.assert_close(net(x), x.flatten(1) @ whole.T, rtol=1e-5, atol=1e-5)


def test_a_node_learns_as_slowly_as_it_has_classes(tmp_path):
    """inc = mom * inc + rate / n * (gradient - wc / n * w), n the classes under the node."""
    from alexnet.layerfile import rates

    net = tree_net(tmp_path)
    with torch.no_grad():
        for nodes in net.module("x").nodes:
            nodes.normal_()
    sgd = Sgd.of(net, rates.rules(net, "2012"))
    kept = {name: (p.detach().double(), 0.0) for name, p in net.named_parameters()}
    leaves = {"weights.0": 1, "nodes.0": 2, "nodes.1": 3, "nodes.2": 5}
    for _ in range(3):
        for parameter in net.parameters():
            parameter.grad = None
        net.loss(torch.randn(5, 3, 2, 2), torch.arange(5)).backward()
        sgd.step(rates.rates(net.sgd_groups(), 0.5, (0, 0)))
        for name, n in leaves.items():
            p, (w, v) = net.get_parameter(f"layers.x.{name}"), kept[f"layers.x.{name}"]
            v = 0.9 * v + 0.03 / n * (-p.grad.double() - 0.3 / n * w)
            kept[f"layers.x.{name}"] = w + v, v
            torch.testing.assert_close(p.detach().double(), w + v, rtol=1e-5, atol=1e-6)


def test_a_tree_comes_from_a_file_beside_the_net(tmp_path):
    written(tmp_path, "[[0, 1],\n [2, [3, 4]]]\n", "lists.txt")
    record = {"root": 8, "tree": {"8": [5, 7], "5": [0, 1], "7": [2, 6], "6": [3, 4], "0": []}}
    written(tmp_path, json.dumps(record), "meta.json")
    kept = lex.load(written(tmp_path, FRAME + TREE.format("meta.json") + END))
    assert f"tree={NESTED}\n" in kept.text  # a run carries it: no other file is needed
    for tree in ("lists.txt", "meta.json"):
        assert tree_net(tmp_path, tree).records[-2].options["tree"] == parsed(NESTED)
    rows = show.rows_of(kept)
    assert rows[2].parameters == (5 + 4) * rows[2].multiply_adds // 5 + 5


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ("[[0,1],[2,2]]", "tree="),
        ("[[0,1],[3]]", "tree="),
        ("[[0,1],]", "tree="),
        ("[0,1][2]", "tree="),
        ("[" * 100_000 + "0" + "]" * 100_000, "tree="),
        ("[" * 400_000, "tree="),
        ("none.json", "No such file"),
        ("loop.json", "ancestor"),
        ("deep.json", "is none"),
    ],
)
def test_what_is_no_tree_is_told_soon(tmp_path, tree, words):
    written(tmp_path, '{"root": 1, "tree": {"1": [0, 2], "2": [1, 3]}}', "loop.json")
    written(tmp_path, '{"tree":' * 50_000, "deep.json")
    start_s = time.perf_counter()
    with pytest.raises(UsageError, match=words) as error:
        tree_net(tmp_path, tree)
    assert time.perf_counter() - start_s < 1
    assert len(str(error.value)) < 400


def test_a_tree_goes_with_as_many_classes(tmp_path):
    assert tree_net(tmp_path, classes=5).shapes["x"] == (5,)
    with pytest.raises(UsageError, match=r"\[x\] tree=5 classes: the data has 7"):
        tree_net(tmp_path, classes=7)


ODD = """; a comment
 # another, indented\r
[data]\r
TYPE : data
dataidx = 0 ; the pictures
[labels]
type=data
dataIdx=1
left=over
[data]

[fc-1.a]
Type = fc
inputs = data ,data,
   data
OUTPUTS=3
initw = .5 , +1e-2,0.00
iNiTb=-5
neuron=tanh[ 1.7 , -0.66 ]
[cost]
type=cost.logreg
inputs=labels , fc-1.a
neuron=relu
"""


def test_odd_spelling(tmp_path):
    network = read(written(tmp_path, ODD))
    fc = {layer.name: layer for layer in network.layers}["fc-1.a"]
    assert (fc.inputs, fc.options["initw"], fc.options["initb"]) == (("data",) * 3, (0.5, 0.01, 0.0), -5.0)
    assert [layer.name for layer in network.layers] == ["data", "labels", "fc-1.a", "fc-1.a_neuron", "cost"]
    assert network.layers[3].neuron.numbers == (1.7, -0.66)
    assert network.layers[4].inputs == ("labels", "fc-1.a_neuron")


RATE = [  # as written in any generation, what is read
    ("epsW=.01", Schedule(0.01)),
    ("epsW=1e-05", Schedule(1e-5)),
    ("epsW=const[base=0.01]", Schedule(0.01, "const")),
    ("epsW=0.01\nschedW=DEFAULT", Schedule(0.01)),
    ("epsW=0.01\nsched=exp[2000]", Schedule(0.01, "exp", 2000)),
    ("epsW=0.01\nsched=exp[2000]\nschedW=linear[5,1]", Schedule(0.01, "linear", 5, noise=1)),
    ("epsW=0.01\nschedW=JDexp[250, 0.5, 4]", Schedule(0.01, "jdexp", 250, 4, 0.5)),
    ("epsW=0.01\nschedW=dexp[numSteps=4, tgtFactor=250]", Schedule(0.01, "dexp", 250, 4)),
    ("epsW=dexp[base=0.01;numSteps=4;tgtFactor=250]", Schedule(0.01, "dexp", 250, 4)),
    ("epsW=linear[ base=1e-2; tgtFactor = 1e3 ]", Schedule(0.01, "linear", 1000)),
]


@pytest.mark.parametrize(("lines", "schedule"), RATE)
def test_rates_of_every_age(tmp_path, lines, schedule):
    layers = written(tmp_path, FRAME + "[x]\ntype=fc\ninputs=data,data\noutputs=3\n" + END)
    params = written(tmp_path, RATES.replace("epsW=0.03", lines) + "[gone]\nepsW=?\n", "p.cfg")
    updates = read(layers, params).layers[2].weight_updates
    assert [update.schedule for update in updates] == [schedule, schedule]


HOSTILE = {
    "ten megabytes": "[" * 10_000_000,
    "brackets": FRAME + "[x]\ntype=fc\ninputs=data\noutputs=3\nneuron=" + "[" * 100_000 + "\n",
    "brackets in a rate": FRAME + TREE.format("[0,1]") + END,
    "commas": FRAME + "[x]\ntype=fc\noutputs=3\ninputs=" + "data," * 100_000 + "\n",
    "nul": FRAME + "\0",
    "one header": "[x]\n" * 200_000,
    "an input of its own": FRAME + "[x]\ntype=fc\ninputs=x\noutputs=3\n" + END,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_end_in_words_within_a_second(tmp_path, kind):
    layers = written(tmp_path, HOSTILE[kind])
    rate = "dexp" + "[" * 900 if "rate" in kind else "0.1"
    params = written(tmp_path, RATES.replace("0.03", rate), "p.cfg")
    start_s = time.perf_counter()
    with pytest.raises(UsageError) as error:
        build(layers, params, size_px=2)
    assert time.perf_counter() - start_s < 1
    assert len(str(error.value).splitlines()) <= 2
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("name", ["every", "towers", "targets"])
def test_a_step_neither_mixes_devices_nor_waits_for_one(name):
    """Tensors of the device "meta" have no numbers: asking for one, or adding one of the CPU, is an error."""
    from alexnet.layerfile import rates

    own = [Path(__file__).parent / "layerfiles" / f"{kind}-{name}.cfg" for kind in ("layers", "layer-params")]
    net = build(*(path for path in own if path.exists())).train().to("meta", memory_format=torch.channels_last)
    images = torch.empty(4, *net.input_shape, device="meta")
    loss, logits = net.loss_and_logits(images, net.targets(torch.empty(4, dtype=torch.long, device="meta")))
    loss.backward()
    for tensor, rule in rates.rules(net, "2014").items():
        parameter = net.get_parameter(tensor)
        assert parameter.grad.device.type == "meta"
        if rule.constrain:
            rule.constrain(parameter.detach())
    assert (loss.shape, len(logits)) == ((), 4)
    assert net.eval()(images)[0].device.type == "meta"
