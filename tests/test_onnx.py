"""ONNX out: every layer and preset gives onnxruntime's logits to 1e-4 of the largest, and the same top five."""

import json
from dataclasses import replace

import numpy as np
import onnx
import photographs
import pytest
import torch
from tiny import spec
from torch import nn

import alexnet
from alexnet import checkpoint, presets, runs
from alexnet import spec as specs
from alexnet.convert import convert
from alexnet.data import augment
from alexnet.data.augment import Preprocessing
from alexnet.errors import CheckpointError, UsageError
from alexnet.net import AlexNet
from alexnet.weights import onnx as graphs

CLASSES = 10


def small(preset: str) -> AlexNet:
    """The preset with narrow dense layers and, for the nets of ImageNet, the smallest crop that leaves a pixel."""
    net = getattr(presets, preset)(classes=CLASSES).net
    changes = {} if net.crop_px < 64 else {"crop_px": 67}
    changes |= {name: replace(layer, outputs=40) for name in ("fc6", "fc7") if (layer := getattr(net, name))}
    return wakened(AlexNet(replace(net, **changes), seed=1).eval())


@torch.no_grad()
def wakened(net: AlexNet) -> AlexNet:
    """Weights large enough that every layer and its norm matter, and averages that are not 0 and 1."""
    generator = torch.Generator().manual_seed(2)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
        elif getattr(layer, "weight", None) is not None:
            fan_in = layer.weight.shape[1] if layer.weight.dim() == 3 else layer.weight[0].numel()
            layer.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            layer.bias.uniform_(-1, 1, generator=generator)
    return net


def prep_of(net: AlexNet, border_px: int = 5, std: float = 1.0) -> Preprocessing:
    size_px = net.spec.crop_px + border_px
    mean = np.random.default_rng(0).uniform(90, 130, (size_px, size_px, 3)).astype(np.float32)
    return Preprocessing(size_px, net.spec.crop_px, mean, std * np.array([1, 1.1, 1.2]), np.zeros(3), np.eye(3))


def squares_of(prep: Preprocessing, count: int = 3) -> np.ndarray:
    return photographs.squares(count, prep.size_px)


def cut(squares: np.ndarray, prep: Preprocessing) -> np.ndarray:
    out = np.empty((len(squares), prep.crop_px, prep.crop_px, 3), np.float32)
    augment.cut(squares, augment.view_draws(prep, len(squares), augment.CENTRE_VIEW), prep, out)
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def save(proto, path):
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    return path


def assert_same(net: AlexNet, images_nchw: np.ndarray, theirs: np.ndarray) -> None:
    with torch.inference_mode():
        ours = net(torch.from_numpy(images_nchw)).numpy()
    assert np.abs(theirs - ours).max() <= 1e-4 * np.abs(ours).max()
    assert ours.std() > 1e-3
    assert np.array_equal(np.argsort(ours, axis=1)[:, -5:], np.argsort(theirs, axis=1)[:, -5:])


@pytest.mark.parametrize("preset", presets.NAMES)
def test_every_preset(preset, tmp_path):
    net = small(preset)
    prep = prep_of(net, std=50 if preset in ("torchvision", "modern") else 1)
    path = save(graphs.model(net, prep, None, {}), tmp_path / "net.onnx")
    images = cut(squares_of(prep), prep)
    assert_same(net, images, graphs.run(path, images))
    assert graphs.run(path, images[:1]).shape == (1, CLASSES)  # another batch


@pytest.mark.parametrize(
    "settings",
    [
        ["net.lrn.size=4"],
        ["net.lrn.k=0", "net.lrn.alpha=1", "net.lrn.beta=1"],
        ["net.lrn.k=0", "net.lrn.alpha=1", "net.lrn.beta=1", "net.lrn.size=8"],
        ["net.lrn.span=all", "net.lrn.alpha_divided=false", "net.lrn.alpha=0.01"],
        ["net.lrn.alpha=0.3", "net.lrn.size=7"],
        ["net.rnorm.size=4", "net.rnorm.alpha=0.5"],
        ["net.activation=tanh", "net.pool.ceil=true", "net.pool.size_px=2"],
        ["net.activation=logistic", "net.dropout_inverted=true", "net.sixth_conv=true", "net.pool.stride=4"],
        ["net.conv1.then=act,avgpool", "net.pool.ceil=true", "net.conv2.local=true", "net.towers=1", "net.dropout=0"],
    ],
)
def test_every_switch(settings, tmp_path):
    net = wakened(AlexNet(spec("net.classes=7", *settings).net, seed=1).eval())
    prep = prep_of(net)
    images = cut(squares_of(prep), prep)
    images[0, :, :6] = 0  # silent windows
    path = save(graphs.model(net, prep, None, {}), tmp_path / "net.onnx")
    assert_same(net, images, graphs.run(path, images))


@pytest.mark.parametrize("pixels", ["square", "crop"])
@pytest.mark.parametrize(("border_px", "std"), [(5, 1), (0, 60), (1, 60)])
def test_preprocessing_inside_the_graph(tmp_path, pixels, border_px, std):
    net = small("cifar_quick")
    prep = prep_of(net, border_px, std)
    squares, first = squares_of(prep), border_px // 2
    path = save(graphs.model(net, prep, pixels, {}), tmp_path / "net.onnx")
    crops = np.ascontiguousarray(squares[:, first : first + prep.crop_px, first : first + prep.crop_px])
    assert_same(net, cut(squares, prep), graphs.run(path, squares if pixels == "square" else crops))


def test_response_norms_are_onnx_operators_of_their_own_and_tensors_have_the_layers_names():
    net = small("as_run")
    proto = graphs.model(net, prep_of(net), None, {})
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("LRN") == 4  # two layers, two towers
    made = {name for node in proto.graph.node for name in node.output}
    assert {name for name, _ in net.named_children()} - {"fc8"} <= made
    assert {w.name for w in proto.graph.initializer} >= set(net.state_dict())
    lrn = next(node for node in proto.graph.node if node.op_type == "LRN")
    numbers = {a.name: onnx.helper.get_attribute_value(a) for a in lrn.attribute}
    assert numbers == pytest.approx({"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 2.0})
    conv1 = next(node for node in proto.graph.node if node.name == "conv1")
    assert [a.ints for a in conv1.attribute if a.name == "pads"] == [[0, 0, 3, 3]]


@pytest.fixture(scope="module")
def run(tiny_pack, tmp_path_factory):
    """A run folder with the model file of an untrained tiny net."""
    folder = tmp_path_factory.mktemp("onnx")
    prep = runs.preprocessing(spec(), tiny_pack)
    net = wakened(AlexNet(spec().net))
    passport = runs.passport(spec(), 1, tiny_pack, prep, None)
    checkpoint.save_model(folder / "model.safetensors", runs.model_tensors(net.state_dict(), prep), passport)
    return folder


def test_convert_writes_a_graph_that_answers_as_the_predictor_does(run, tiny_pack, tmp_path):
    record = convert(run, tmp_path / "net.onnx", pixels="square")
    predictor, split = alexnet.load(run, "cpu", "fp32"), tiny_pack.splits["val"]
    squares = np.stack([split.pixels(i) for i in range(len(split))])
    theirs = torch.softmax(torch.from_numpy(graphs.run(tmp_path / "net.onnx", squares)), dim=1)
    ours = torch.stack([predictor.probabilities(square, views=1) for square in squares])
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-6)
    assert record["format"] == "onnx"
    assert "uint8 (N, 16, 16, 3)" in record["notes"][-1]
    assert "onnxruntime gives the same logits" in record["notes"][-2]
    facts = {prop.key: json.loads(prop.value) for prop in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert facts["classes"] == tiny_pack.classes
    assert specs.from_dict(facts["spec"]["net"], specs.NetSpec) == spec().net
    assert (facts["preprocessing"]["size_px"], facts["preprocessing"]["crop_px"]) == (16, 12)


def test_a_graph_that_answers_otherwise_is_not_left(run, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "run", lambda graph, batch: np.zeros((len(batch), 3), np.float32))
    with pytest.raises(CheckpointError, match="other logits"):
        convert(run, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("target", "pixels"), [("net.onnx", "view"), ("net.pth", "square")])
def test_preprocessing_that_cannot_be(run, tmp_path, target, pixels):
    with pytest.raises(UsageError, match="square or crop, and only into an"):
        convert(run, tmp_path / target, pixels=pixels)
