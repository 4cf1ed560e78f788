"""Towers run as one: layers that are alike, at the same height of a net, are computed together.

The files of 2012 give every tower layers of its own (conv1a on one GPU, conv1b on the other). Here siblings share one
operation over their maps side by side, (N, towers * C, H, W), the first tower's first: one convolution (grouped where
each tower has its own input), one norm whose windows leave no tower, one pooling, one neuron.

Parameters stay the layers' own tensors, so that names, update rules and checkpoints know nothing of this. A
convolution's weights are small (9 MB in run 145) and are joined anew for every batch; dense weights are not (210 MB),
and two products cost what one does: they stay apart. So does whatever draws random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from alexnet.kernels.conv import conv2d
from alexnet.layerfile.geometry import Shape
from alexnet.layerfile.layers import Conv
from alexnet.layerfile.records import Layer

Names = tuple[str, ...]
INITIAL = ("initw", "initb", "initwfunc", "initbfunc", "initcfunc", "weightsource")  # say nothing of the operation


def groups_of(layers: Sequence[Layer], shapes: dict[str, Shape]) -> tuple[tuple[Layer, ...], ...]:
    """The layers in an order they can be computed in; those of one tuple are to be computed together.

    A layer's height is the longest way from it to an end of the net: layers of the same height do not need each other.
    """
    heights = _heights(layers)
    groups: list[tuple[Layer, ...]] = []
    home: dict[str, Names] = {}
    for _, level in groupby(sorted(layers, key=lambda layer: -heights[layer.name]), lambda layer: heights[layer.name]):
        alike: dict[object, list[Layer]] = {}
        for layer in level:
            alike.setdefault(_likeness(layer, shapes, home), []).append(layer)
        for group in alike.values():
            for together in [tuple(group)] if _fit(group, home) else [(layer,) for layer in group]:
                groups.append(together)
                home |= dict.fromkeys((layer.name for layer in together), tuple(layer.name for layer in together))
    return tuple(groups)


def _fit(group: list[Layer], home: dict[str, Names]) -> bool:
    """Are their inputs one whole group, in its order? For a convolution it is worth putting others side by side."""
    names = tuple(name for layer in group for name in layer.inputs)
    return group[0].type == "conv" or (names != () and home[names[0]] == names)


def _heights(layers: Sequence[Layer]) -> dict[str, int]:
    heights = {layer.name: 0 for layer in layers}
    for layer in reversed(layers):
        for name in layer.inputs:
            heights[name] = max(heights[name], heights[layer.name] + 1)
    return heights


def _likeness(layer: Layer, shapes: dict[str, Shape], home: dict[str, Names]) -> object:
    """Equal for layers that can be computed together; a layer's own name where it can not be with any."""
    options = tuple(sorted((key, value) for key, value in layer.options.items() if key not in INITIAL))
    inputs = tuple(shapes[name] for name in layer.inputs)
    if layer.type == "conv":
        return layer.type, options, inputs
    neuron, numbers = layer.neuron if layer.type == "neuron" else None, tuple(sorted(layer.params.items()))
    random = (layer.options.get("pool") == "rand" and not layer.params["domax"]) or (neuron and neuron.kind == "nrelu")
    if random or layer.options.get("blocked") or layer.type not in ("cmrnorm", "rnorm", "cnorm", "pool", "neuron"):
        return layer.name
    return layer.type, options, numbers, inputs, neuron, home[layer.inputs[0]]


class Values:
    """Outputs by layer name; those computed together stay one tensor until one of them is asked for alone."""

    def __init__(self) -> None:
        self.alone: dict[str, Tensor] = {}
        self.joined: dict[Names, Tensor] = {}
        self.dropped: set[str] = set()

    def keep(self, names: Names, value: Tensor) -> None:
        if len(names) == 1:
            self.alone[names[0]] = value
        else:
            self.joined[names] = value

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.alone:
            names = next(names for names in self.joined if name in names)
            self.alone |= zip(names, self.joined[names].chunk(len(names), 1), strict=True)
        return self.alone[name]

    def together(self, names: Names) -> Tensor:
        """The outputs side by side: as they were computed, or put there."""
        if names in self.joined:
            return self.joined[names]
        return torch.cat([self[name] for name in names], 1) if len(names) > 1 else self[names[0]]

    def drop(self, name: str) -> None:
        self.alone.pop(name, None)
        self.dropped.add(name)
        for names in [names for names in self.joined if self.dropped.issuperset(names)]:
            del self.joined[names]


def compute(group: tuple[Layer, ...], modules: list[nn.Module], values: Values) -> Tensor:
    """The output of a group's layers side by side (of a single layer: its output)."""
    slots = list(zip(*(layer.inputs for layer in group), strict=True))  # per input: the layers' names for it
    if isinstance(modules[0], Conv):
        return convolve(modules, slots, values)
    return modules[0](*(values.together(names) for names in slots))


def convolve(convs: list[Conv], slots: list[Names], values: Values) -> Tensor:
    """The convolutions of a group as one per input, or as a single one where all see the same towers, added up.

    Equal to the convolutions' own `forward`, side by side; biases go in with the first input.
    """
    if _see_one_group(convs[0], slots, values):
        parts = [_whole(convs, slots, values)]
    else:
        parts = [_part(convs, i, names, values) for i, names in enumerate(slots)]
    biases = torch.cat([conv.bias for conv in convs])
    bias, out = biases if biases.dim() == 1 else None, None
    for i, (x, weights, groups) in enumerate(parts):
        before, after = convs[0].edges(i)
        stride = convs[0].options["stride"][i]
        y = conv2d(x, weights, None if i else bias, stride, before, groups, after - before)
        out = y if out is None else out + y
    return out + biases if bias is None else out


def _part(convs: list[Conv], i: int, names: Names, values: Values) -> tuple[Tensor, Tensor, int]:
    """(input, weights, groups) of the convolution for input i: one input for all, or each conv's own side by side."""
    o, weights = convs[0].options, torch.cat([conv.weights[i] for conv in convs])
    if o["randsparse"][i]:
        x = torch.cat([conv.seen(i, values[name]) for conv, name in zip(convs, names, strict=True)], 1)
    elif o["groups"][i] == 1 and len(set(names)) == 1:
        return convs[0].seen(i, values[names[0]]), weights, 1
    else:
        x = convs[0].seen(i, values.together(names))
    return x, weights, o["groups"][i] * len(convs)


def _see_one_group(conv: Conv, slots: list[Names], values: Values) -> bool:
    """Do all convolutions see the same whole group of towers, and every tower in the same way?"""
    o = conv.options
    alike = all(len(set(o[key])) == 1 for key in ("filtersize", "stride", "padding"))
    plain = set(o["groups"]) == {1} and not any(o["randsparse"])
    shared = all(len(set(names)) == 1 for names in slots)
    return alike and plain and shared and _first_of(slots) in values.joined


def _first_of(slots: list[Names]) -> Names:
    return tuple(names[0] for names in slots)


def _whole(convs: list[Conv], slots: list[Names], values: Values) -> tuple[Tensor, Tensor, int]:
    """As `_part`, for all inputs at once."""
    weights = torch.cat([torch.cat(list(conv.weights), 1) for conv in convs])
    return convs[0].seen(0, values.joined[_first_of(slots)]), weights, 1
