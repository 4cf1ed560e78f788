"""The published files are the presets: with the same weights, the same logits and the same gradients, in float32.

The files write every tower as layers of its own; the presets have one column with grouped convolutions. Dropout is
off (evaluation), where the 2012 kind halves what it lets through and the 2014 kind does not.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from alexnet.layerfile import build
from alexnet.net import AlexNet
from alexnet.spec import as_run, cifar_11pct, owt2014

REAL = Path(__file__).parents[2] / "shared" / "layerfiles"
TOWERS = {
    **{f"conv{i}": (f"conv{i}a", f"conv{i}b") for i in range(1, 6)},
    **{"fc6": ("fc2048a", "fc2048b"), "fc7": ("fc2048ba", "fc2048bb"), "fc8": ("fc1000",)},
}
COLUMN = {f"conv{i}": (f"conv{i}",) for i in range(1, 6)}
DENSE = {"fc6": ("fc4096a",), "fc7": ("fc4096b",), "fc8": ("fc1000",)}
CIFAR = {"conv1": ("conv1",), "conv2": ("conv2",), "conv3": ("local3",), "conv4": ("local4",), "fc8": ("fc10",)}
PAIRS = {  # definition, parameters, our net, our layer -> theirs, pixels of a picture
    "145": ("2012/layers-145", "2012/layer-params-145", as_run().net, TOWERS, 224),
    "2gpu-model": (
        *("2014/layers-imagenet-2gpu-model", "2014/layer-params-imagenet-2gpu-model"),
        *(replace(as_run().net, dropout_inverted=True), TOWERS, 224),
    ),
    "1gpu": (
        *("2014/layers-imagenet-1gpu", "2014/layer-params-imagenet-1gpu", owt2014().net),
        *({**COLUMN, **DENSE}, 224),
    ),
    "11pct": ("2014/layers-cifar10-11pct", "2014/layer-params-cifar10-11pct", cifar_11pct().net, CIFAR, 24),
}


def file(name: str) -> Path:
    if not REAL.is_dir():
        pytest.skip("the layer files of 2012 and 2014 are not beside this repository")
    return REAL / f"{name}.cfg"


def column(net, table: dict, of=lambda parameter: parameter) -> dict[str, torch.Tensor]:
    """`of` every parameter of a net from files, under the names and in the shapes of a preset's."""
    found = {}
    for ours, names in table.items():
        weights = []
        for name in names:
            parts, seen = list(net.module(name).weights), net.by_name[name].inputs
            order = [seen.index(input) for input in sorted(seen)]  # fc2048bb names tower b's output first
            local = net.by_name[name].type == "local"
            weights.append(torch.cat([of(parts[i])[:, 0] if local else of(parts[i]) for i in order], 1))
        found[f"{ours}.weight"] = torch.cat(weights)
        found[f"{ours}.bias"] = torch.cat([of(net.module(name).bias) for name in names])
    return found


def far(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, on the scale of the largest value."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("name", PAIRS)
def test_logits_and_gradients_are_the_presets(name):
    definition, params, spec, table, size_px = PAIRS[name]
    net = build(file(definition), file(params), size_px=size_px, seed=3).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for names in table.values():
            for layer in names:
                net.module(layer).bias.normal_(0.1, 0.3, generator=draw)
        with torch.device("meta"):
            ours = AlexNet(spec).eval()
        ours.load_state_dict({key: tensor.clone() for key, tensor in column(net, table).items()}, assign=True)
    x = 50 * torch.randn(2, 3, size_px, size_px, generator=draw)
    labels = torch.tensor([3, 7])
    logits = ours(x)
    assert far(logits, net(x)) < 1e-5
    F.cross_entropy(logits, labels).backward()
    net.loss(x, labels).backward()
    theirs = column(net, table, lambda parameter: parameter.grad)
    assert {key for key, p in ours.named_parameters() if far(p.grad, theirs[key]) >= 1e-5} == set()
