"""A one-process net becomes one process's part of it: weights are cut, hooks exchange what layers need to see.

Going through the layers, one thing is kept in mind: how the activations are spread, by pictures (rows) or by maps and
units (columns). A layer that sees all units where they are spread gets them side by side first. Dropout draws the mask
of the whole batch and takes its part of it; batch norm takes its statistics over the pictures of all processes.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from alexnet.errors import UsageError
from alexnet.kernels import mask
from alexnet.layerfile import LayerNet
from alexnet.layerfile.layers import Drop, Pool
from alexnet.layers import Dropout, Flatten, LocalConv2d, LocalResponseNorm
from alexnet.net import AlexNet
from alexnet.parallel.exchange import Gather, Total, own, shares
from alexnet.parallel.team import Team

WEIGHTED = nn.Conv2d | nn.Linear | LocalConv2d
NORMS = nn.BatchNorm1d | nn.BatchNorm2d


def split(net: AlexNet | LayerNet, team: Team) -> None:
    """Makes `net` this process's part, in place. Raises UsageError for a net that cannot be shared out in this way."""
    team.weights = sum(p.numel() for p in net.parameters())
    if team.world == 1:
        return
    if isinstance(net, LayerNet):
        _split_files(net, team)
        return
    if team.mode == "towers" and (net.spec.towers == 1 or net.spec.towers % team.world):
        raise UsageError(
            f"{team.world} processes cannot share {net.spec.towers} towers; start one for each, or --parallel data"
        )
    rows, columns, last = team.spreads_rows, None, list(net._modules)[-1]
    for name, layer in net.named_children():
        if isinstance(layer, Flatten) and team.mode == "hybrid":
            layer.register_forward_hook(partial(_rows_together, team, name))
            rows = False
        elif isinstance(layer, WEIGHTED) and (team.mode == "towers" or (team.mode == "hybrid" and not rows)):
            small = _width(layer) < team.world  # the same on every process
            if columns and getattr(layer, "groups", 1) == 1:
                layer.register_forward_pre_hook(partial(_columns_together, team, name, columns, small))
            columns = None if small else _cut(team, name, layer)
            if name == last and columns:
                layer.register_forward_hook(partial(_logits_together, team, name, columns))
        else:
            _follow(team, name, layer, rows, columns)
            team.summed |= {f"{name}.{kind}" for kind, _ in layer.named_parameters()} if rows else set()


def _follow(team: Team, name: str, layer: nn.Module, rows: bool, columns: list[int] | None) -> None:
    """Layers that stay with the activations they are given."""
    if isinstance(layer, NORMS) and columns:
        _cut(team, name, layer)
    elif isinstance(layer, NORMS) and rows:
        layer.forward = partial(_norm_of_all, team, name, layer)
    elif isinstance(layer, Dropout):
        layer.forward = partial(_dropout, team, layer, 1 - layer.rate, rows, columns)
    elif isinstance(layer, LocalResponseNorm) and columns:
        if layer.groups == 1:
            raise UsageError(
                f"{name} runs over the maps of all towers, which are on different processes;\n"
                "give --set net.lrn.span=tower, or --parallel data"
            )
        layer.groups //= team.world


def _split_files(net: LayerNet, team: Team) -> None:
    """A net of layer files, data parallel."""
    if team.mode != "data":
        raise UsageError(f"--parallel {team.mode} takes presets; train a net of layer files with --parallel data")
    for name, layer in net.layers.items():
        neuron = getattr(layer, "neuron", None)
        if (isinstance(layer, Pool) and layer.kind == "rand") or (neuron and neuron.kind == "nrelu"):
            raise UsageError(f"{name} draws a number for every value, which only one process can do; start one alone")
        if isinstance(layer, Drop) and layer.enable:
            layer.forward = partial(_dropout, team, layer, layer.keep, True, None)
    team.summed = {name for name, _ in net.named_parameters()}


def _width(layer: nn.Module) -> int:
    return layer.weight.shape[2 if isinstance(layer, LocalConv2d) else 0]


def _cut(team: Team, name: str, layer: nn.Module) -> list[int]:
    """Leaves this process its outputs of a layer; returns how many each has."""
    local, width = isinstance(layer, LocalConv2d), _width(layer)
    sizes = shares(width, team.world)
    tensors = {**layer._parameters, **layer._buffers}
    for kind, tensor in tensors.items():
        if tensor is None or tensor.dim() == 0:  # batch norm's count of batches
            continue
        dim = 2 if local and kind == "weight" else 0
        team.cuts[f"{name}.{kind}"], team.widths[f"{name}.{kind}"] = dim, width
        part = own(tensor.detach(), dim, sizes).clone()
        setattr(layer, kind, nn.Parameter(part) if kind in layer._parameters else part)
    if getattr(layer, "groups", 1) > 1:
        layer.groups //= team.world
    return sizes


def _scaled(team: Team, columns: list[int], x: Tensor) -> list[int]:
    """How many columns of an activation each process has: `columns` maps, times their pixels once they are flat."""
    return [size * x.shape[1] // columns[team.rank] for size in columns]


def _columns_together(
    team: Team, name: str, columns: list[int], same: bool, layer: nn.Module, inputs: tuple[Tensor]
) -> Tensor:
    (x,) = inputs
    return Gather.apply(x, 1, _scaled(team, columns, x), same, partial(team.count, name))


def _logits_together(team: Team, name: str, columns: list[int], layer: nn.Module, inputs: tuple, x: Tensor) -> Tensor:
    return Gather.apply(x, 1, columns, True, partial(team.count, name))


def _rows_together(team: Team, name: str, layer: nn.Module, inputs: tuple, x: Tensor) -> Tensor:
    return Gather.apply(x, 0, team.rows, False, partial(team.count, name))


def _dropout(
    team: Team, layer: Dropout | Drop, keep: float, rows: bool, columns: list[int] | None, x: Tensor
) -> Tensor:
    """The layer's own formula, with this process's part of the mask that one process would draw for the batch."""
    if not layer.training:
        return type(layer).forward(layer, x)
    shape, widths = list(x.shape), columns and _scaled(team, columns, x)
    shape[0] = team.images if rows else shape[0]
    shape[1] = sum(widths) if columns else shape[1]
    drawn = mask.draw(x, keep, 1 / keep if layer.inverted else 1, shape)
    drawn = own(drawn, 0, team.rows) if rows else drawn
    return x * (own(drawn, 1, widths) if columns else drawn)


def _norm_of_all(team: Team, name: str, layer: NORMS, x: Tensor) -> Tensor:
    """Batch norm over the pictures of all processes, in float32."""
    wide, count = x.float(), team.images * (x.shape[2] * x.shape[3] if x.dim() == 4 else 1)
    if not layer.training or count == 1:
        return type(layer).forward(layer, x)
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [-1 if d == 1 else 1 for d in range(x.dim())]
    tell = partial(team.count, name)
    mean = Total.apply(wide.sum(dims), tell) / count
    centred = wide - mean.view(shape)
    variance = Total.apply(centred.square().sum(dims), tell) / count
    with torch.no_grad():
        layer.num_batches_tracked += 1
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(variance * (count / max(1, count - 1)), layer.momentum)
    scale = (variance + layer.eps).rsqrt() * layer.weight
    return (centred * scale.view(shape) + layer.bias.view(shape)).to(x.dtype)
