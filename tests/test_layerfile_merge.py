"""Towers computed together against the same towers computed one by one: outputs by name, logits, gradients."""

from pathlib import Path

import pytest
import torch

from alexnet.layerfile import build
from alexnet.layerfile.build import LayerNet

OWN = Path(__file__).parent / "layerfiles"
REAL = Path(__file__).parents[2] / "shared" / "layerfiles"
SMALL = ("towers", "every")


def small(name: str) -> LayerNet:
    params = OWN / f"layer-params-{name}.cfg"
    return build(OWN / f"layers-{name}.cfg", params if params.exists() else None).double().eval()


def images(n: int = 3, size_px: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, size_px, size_px, generator=torch.Generator().manual_seed(1)).double()


def together(net: LayerNet) -> list[str]:
    return ["+".join(layer.name for layer in group) for group in net.groups if len(group) > 1]


def test_alike_towers_are_found():
    found = together(small("towers"))
    pairs = ["conv1", "rnorm1", "pool1", "conv2", "cnorm2", "conv3", "conv4", "mean4"]
    assert [f"{name}a+{name}b" for name in pairs] == [name for name in found if "neuron" not in name]
    assert len(found) == len(pairs) + 4  # four of them have neurons
    assert together(small("every")) == []


@pytest.mark.parametrize("name", SMALL)
def test_every_output_is_the_same(name):
    net, x = small(name), images()
    for layer in net.shapes:
        if layer in net.on_labels:
            continue
        outputs = []
        for net.merged in (True, False):
            torch.manual_seed(0)
            outputs.append(net(x, until=layer))
        torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_several_outputs_of_one_pass_are_the_same(name):
    net, x = small(name), images()
    names = [layer for layer in net.shapes if layer not in net.on_labels and "dice" not in layer][1::3]
    joined = net.outputs(names, x)
    net.merged = False
    for layer, output in net.outputs(names, x).items():
        torch.testing.assert_close(joined[layer], output, rtol=1e-9, atol=1e-12)


def gradients(net: LayerNet, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    net.zero_grad()
    torch.manual_seed(0)
    net.loss(x, labels).backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_the_same(name, training):
    net, x, labels = small(name).train(training), images(), torch.tensor([0, 3, 4])
    joined = gradients(net, x, labels)
    net.merged = False
    apart = gradients(net, x, labels)
    for key, gradient in apart.items():
        torch.testing.assert_close(joined[key], gradient, rtol=1e-8, atol=1e-12)


def test_parameters_keep_their_names():
    net = small("towers")
    assert net.module("conv3b").weights[1].shape == (8, 4, 3, 3)
    assert sorted(g.parameter for g in net.sgd_groups()) == sorted(name for name, _ in net.named_parameters())


def changed(tmp_path: Path, old: str, new: str) -> LayerNet:
    text = (OWN / "layers-towers.cfg").read_text()
    assert old in text
    (tmp_path / "layers.cfg").write_text(text.replace(old, new))
    return build(tmp_path / "layers.cfg").double().eval()


@pytest.mark.parametrize(
    ("old", "new", "apart"),
    [
        ("filterSize=5\nstride=2\ninitW=0.1\ngpu=1", "filterSize=4\nstride=2\ninitW=0.1", "conv1"),
        ("inputs=conv2b\nchannels=4\nsize=3", "inputs=conv2b\nchannels=4\nsize=5", "cnorm2"),
        ("inputs=conv1b\nchannels=8\nsize=5", "inputs=conv1b\nchannels=8\nsize=5\nblocked=1", "rnorm1"),
        ("inputs=rnorm1a\nchannels=8\nsizeX=3\nstride=2\nneuron=relu", "inputs=rnorm1a\nchannels=8\nsizeX=3\nstride=2",
         "pool1a_neuron"),
    ],
)  # fmt: skip
def test_towers_that_differ_stay_apart(tmp_path, old, new, apart):
    net = changed(tmp_path, old, new)
    assert [name for name in together(net) if name.startswith(apart)] == []
    x, labels = images(), torch.tensor([0, 3, 4])
    joined = gradients(net, x, labels)
    net.merged = False
    for key, gradient in gradients(net, x, labels).items():
        torch.testing.assert_close(joined[key], gradient, rtol=1e-8, atol=1e-12)


REAL_NETS = {  # how many groups of more than one layer
    "2012/layers-145": 16,
    "2012/layers-120-4gpu": 16,
    "2012/layers-99": 15,
    "2014/layers-imagenet-1gpu": 0,
}


@pytest.mark.parametrize("name", REAL_NETS)
def test_real_towers_are_found(name):
    if not REAL.is_dir():
        pytest.skip("the layer files of 2012 and 2014 are not beside this repository")
    with torch.device("meta"):
        net = build(REAL / f"{name}.cfg")
    towers = {len(group) for group in net.groups} - {1}
    assert len(together(net)) == REAL_NETS[name]
    assert towers == ({4} if "4gpu" in name else {2} if towers else set())


@pytest.mark.parametrize("name", ["2012/layers-99", "2012/layers-120-4gpu"])
def test_real_towers_give_the_same(name):
    if not REAL.is_dir():
        pytest.skip("the layer files of 2012 and 2014 are not beside this repository")
    net = build(REAL / f"{name}.cfg", size_px=96).eval()
    x = 50 * images(1, 96).float()
    with torch.inference_mode():
        joined = net(x)
        net.merged = False
        torch.testing.assert_close(joined, net(x), rtol=1e-5, atol=1e-5 * joined.abs().max().item())
