"""AlexNet and every variant that a NetSpec can say, as one flat list of named layers.

The names are the author's: conv1 ... conv5, rnorm1 (over maps), cnorm2 (same map), pool1, fc6, fc7, fc8; relu1, drop6.
Two towers are one grouped convolution: tower a's maps come first, then b's. `AlexNet.forward` runs the layers in order,
so any activation can be taken by name (`until="fc7"`), and `layer_table` counts what each one holds and costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from alexnet.errors import UsageError
from alexnet.kernels import plain
from alexnet.kernels.pool import pooled_px
from alexnet.layers import (
    BatchNorm1d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    LocalConv2d,
    LocalResponseNorm,
    MaxPool2d,
    SpatialResponseNorm,
)
from alexnet.spec import ConvSpec, NetSpec

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid}
CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")
HOOKS = ("forward_pre", "forward", "backward", "backward_pre")  # kinds of them, on modules
SIXTH = ConvSpec(256, 3, padding_px=1, sigma=0.03, bias=1)  # run 146's: over the last pooling layer


class AlexNet(nn.Module):
    """The net of a NetSpec. Input (N, 3, crop_px, crop_px) mean-subtracted pixels in grey levels; output (N,
    classes). Raises UsageError for layers that do not fit each other. Paper, section 3.
    """

    def __init__(self, spec: NetSpec, seed: int = 0):
        super().__init__()
        self.spec = spec
        for name, layer in _layers(spec):
            if name in self._modules:
                raise UsageError(f"{name} comes twice in this net; name each follower of a layer once")
            self.add_module(name, layer)
        initialise(self, seed)

    def forward(self, images_nchw: Tensor, until: str | None = None) -> Tensor:
        """Logits (N, classes), or the output of the layer named `until`: (N, maps, H, W) or (N, units). Raises
        UsageError for a name that the net does not have.
        """
        if until is not None and until not in self._modules:
            raise UsageError(f"this net has no layer {until!r}; its layers: {', '.join(self._modules)}")
        x, layers, rectified = images_nchw, list(self._modules.items()), False
        for i, (name, layer) in enumerate(layers):
            if rectified:  # by the layer before
                rectified = False
            elif name != until and _with_relu(layer, *layers[i + 1 : i + 2]):
                x, rectified = layer(x, rectified=True), True
            else:
                x = layer(x)
            if name == until:
                break
        return x


def _with_relu(layer: nn.Module, follower: tuple[str, nn.Module] = ("", nn.Identity())) -> bool:
    """Whether a layer and its ReLU may be computed in one pass: not where somebody looks in between."""
    relu = follower[1]
    if not isinstance(layer, Conv2d | MaxPool2d) or type(relu) is not nn.ReLU or plain.reason():
        return False
    return not (is_watched(layer, HOOKS[1:]) or is_watched(relu))


def is_watched(module: nn.Module, kinds: tuple[str, ...] = HOOKS) -> bool:
    """Whether a hook looks at what goes in or comes out, or at its gradient; PyTorch has them for all modules, too."""
    of_all = (getattr(nn.modules.module, f"_global_{kind}_hooks") for kind in kinds)
    return any(getattr(module, f"_{kind}_hooks") for kind in kinds) or any(of_all)


def _convolutions(spec: NetSpec) -> list[tuple[str, ConvSpec]]:
    convs = [(name, getattr(spec, name)) for name in CONVS if getattr(spec, name) is not None]
    before = convs[-1][1] if convs else SIXTH
    return convs + ([("conv6", _sixth(before.channels))] if spec.sixth_conv else [])


def _sixth(maps: int) -> ConvSpec:
    """Run 146's, as wide as the convolution before it, and with the same gain where that is narrower than 2012's."""
    return replace(SIXTH, channels=maps, sigma=SIXTH.sigma * (SIXTH.channels / maps) ** 0.5)


def _groups(spec: NetSpec, name: str, first: bool) -> int:
    """Towers see only themselves, except where they talk; the picture itself is seen by all."""
    return 1 if first or name in spec.talk or name == "conv6" else spec.towers


def _layers(spec: NetSpec):
    """(name, module) in the order of the forward pass."""
    channels, size_px = 3, spec.crop_px
    for i, (name, conv) in enumerate(_convolutions(spec)):
        module = _convolution(spec, name, conv, channels, size_px, first=i == 0)
        channels, size_px = conv.channels, _conv_out_px(conv, size_px, name)
        yield name, module
        for kind in conv.then:
            number = "_conv6" if name == "conv6" else name[4:]  # relu6 is fc6's
            layer = _follower(spec, kind, channels, number)
            size_px = _pool_out_px(spec, size_px, name) if kind in ("pool", "avgpool") else size_px
            if layer is not None:
                yield layer
    yield "flat", Flatten()
    yield from _dense_layers(spec, channels * size_px**2)


def _convolution(spec: NetSpec, name: str, conv: ConvSpec, channels: int, size_px: int, first: bool) -> nn.Module:
    groups = _groups(spec, name, first)
    if channels % groups or conv.channels % groups or conv.channels % spec.towers:
        raise UsageError(f"{name}: {channels} inputs and {conv.channels} maps do not divide into {spec.towers} towers")
    if conv.local:
        return LocalConv2d(channels, conv.channels, conv.kernel_px, conv.padding_px, size_px)
    options = {"stride": conv.stride, "padding": conv.padding_px, "overhang_px": conv.overhang_px, "groups": groups}
    return Conv2d(channels, conv.channels, conv.kernel_px, **options)


def _follower(spec: NetSpec, kind: str, channels: int, number: str) -> tuple[str, nn.Module] | None:
    """The layer that a word of ConvSpec.then or DenseSpec.then stands for; None where it is switched off."""
    pool = {"kernel_size": spec.pool.size_px, "stride": spec.pool.stride, "ceil_mode": spec.pool.ceil}
    if kind == "act":
        return f"{spec.activation}{number}", ACTIVATIONS[spec.activation]()
    if kind == "pool":
        return f"pool{number}", MaxPool2d(**pool)
    if kind == "avgpool":
        return f"pool{number}", nn.AvgPool2d(**pool, count_include_pad=False)
    if kind == "lrn":
        groups = spec.towers if spec.lrn and spec.lrn.span == "tower" else 1
        return (f"rnorm{number}", LocalResponseNorm(spec.lrn, groups)) if spec.lrn else None
    if kind == "rnorm":
        return (f"cnorm{number}", SpatialResponseNorm(spec.rnorm)) if spec.rnorm else None
    if kind == "bn":
        return f"bn{number}", (nn.BatchNorm2d if int(number) <= 5 else BatchNorm1d)(channels)
    if kind == "drop":
        return (f"drop{number}", Dropout(spec.dropout, spec.dropout_inverted)) if spec.dropout else None
    raise UsageError(f"{kind!r} is no layer; known: act, lrn, rnorm, bn, pool, avgpool, drop")


def _dense_layers(spec: NetSpec, inputs: int):
    for name in ("fc6", "fc7"):
        dense = getattr(spec, name)
        if dense is None:
            continue
        yield from filter(None, (_follower(spec, kind, inputs, name[2:]) for kind in dense.before))
        yield name, Linear(inputs, dense.outputs)
        yield from filter(None, (_follower(spec, kind, dense.outputs, name[2:]) for kind in dense.then))
        inputs = dense.outputs
    yield "fc8", Linear(inputs, spec.classes)


def _conv_out_px(conv: ConvSpec, size_px: int, name: str) -> int:
    out_px = (size_px + 2 * conv.padding_px + conv.overhang_px - conv.kernel_px) // conv.stride + 1
    if out_px < 1:
        raise UsageError(f"{name}: a {conv.kernel_px}-pixel kernel does not fit into {size_px} pixels")
    return out_px


def _pool_out_px(spec: NetSpec, size_px: int, name: str) -> int:
    out_px = pooled_px(size_px, spec.pool.size_px, spec.pool.stride, spec.pool.ceil)
    if out_px < 1:
        raise UsageError(f"the pooling after {name} does not fit into {size_px} pixels; use a larger net.crop_px")
    return out_px


@torch.no_grad()
def initialise(net: AlexNet, seed: int) -> None:
    """Weights and biases from (spec, seed): N(0, sigma) and constants (paper, section 5), PyTorch's own, or He's.

    Uses its own generator and draws in the order of the layers, so equal seeds give equal nets everywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, layer in net.named_children():
        if not isinstance(layer, nn.Conv2d | nn.Linear | LocalConv2d) or layer.weight.is_meta:
            continue  # a net without memory has nothing to draw, and torch would import 800 modules to find that out
        sigma, bias = _sigma_and_bias(net.spec, name)
        fan_in = layer.weight.shape[1] if isinstance(layer, LocalConv2d) else layer.weight[0].numel()
        if net.spec.init == "torch":  # torch.nn's default: uniform within 1/sqrt(fan in), weights and biases
            layer.weight.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            layer.bias.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            continue
        layer.weight.normal_(0, math.sqrt(2 / fan_in) if net.spec.init == "he" else sigma, generator=generator)
        layer.bias.fill_(bias)


def compute_in(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Casts the weights of convolutions and dense layers, in place; batch norm keeps float32 for its averages."""
    for layer in net.modules():
        if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return net


def _sigma_and_bias(spec: NetSpec, name: str) -> tuple[float, float]:
    if name == "fc8":
        return spec.fc8_sigma, spec.fc8_bias
    layer = dict(_convolutions(spec)).get(name) or getattr(spec, name)
    return layer.sigma, layer.bias


@dataclass(frozen=True)
class LayerRow:
    """One line of the layer table; `shape` without the batch, `macs` multiply-adds of one forward pass of one
    picture.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    macs: int


def layer_table(net: AlexNet) -> list[LayerRow]:
    """What every layer puts out, holds and costs; sizes by running the net on a batch of no picture."""
    rows, x = [], torch.zeros(0, 3, net.spec.crop_px, net.spec.crop_px)
    was_training = net.training
    net.eval()
    with torch.inference_mode():
        for name, layer in net.named_children():
            x = layer(x)
            shape = tuple(x.shape[1:])
            parameters = sum(p.numel() for p in layer.parameters())
            weight = getattr(layer, "weight", None)
            rows.append(LayerRow(name, type(layer).__name__, shape, parameters, _macs(layer, weight, shape)))
    net.train(was_training)
    return rows


def layer_sizes(spec: NetSpec) -> list[LayerRow]:
    """`layer_table` of a net that is never filled: quicker than running on the meta device, which imports sympy."""
    with torch.device("meta"):
        shell = AlexNet(spec)
    return layer_table(shell.to_empty(device="cpu"))


def _macs(layer: nn.Module, weight: Tensor | None, shape: tuple[int, ...]) -> int:
    if isinstance(layer, LocalConv2d | nn.Linear):
        return weight.numel()
    return weight.numel() * shape[1] * shape[2] if isinstance(layer, nn.Conv2d) else 0
