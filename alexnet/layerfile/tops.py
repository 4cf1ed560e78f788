"""What a net of layer files is asked for: the outputs that its costs look at, and how to give them other widths."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise
from math import prod

from alexnet.errors import UsageError
from alexnet.layerfile.geometry import shapes_of
from alexnet.layerfile.parse import fail
from alexnet.layerfile.records import Layer, Network

PASSING = ("softmax", "neuron", "hs", "dropout", "dropout2", "href")  # as wide as their input


def is_logistic(layer: Layer) -> bool:
    return layer.type == "neuron" and layer.neuron.kind == "logistic"


def on_labels_of(network: Network) -> set[str]:
    """The layers that can not be computed without labels: other data than the pictures, and all that uses it."""
    found: set[str] = set()
    for layer in network.layers:
        if layer.options.get("dataidx", 0) or found & set(layer.inputs) or layer.type.startswith("cost."):
            found.add(layer.name)
    return found


def _costs(network: Network, on_labels: set[str]) -> list[Layer]:
    """The cost layers that compare with labels; all of them where none does."""
    found = [layer for layer in network.layers if layer.type.startswith("cost.")]
    if not found:
        raise UsageError(f"{network.layers_path} has no cost layer; end the net in one, e.g. type=cost.logreg")
    return [layer for layer in found if on_labels & set(layer.inputs)] or found


def tops_of(network: Network, on_labels: set[str]) -> tuple[str, ...]:
    """The outputs the costs look at, without the softmax or logistic function on top, in the file's order."""
    by_name = {layer.name: layer for layer in network.layers}
    left, found = [name for layer in _costs(network, on_labels) for name in layer.inputs], set()
    seen = set()
    while left:
        layer = by_name[left.pop()]
        if layer.name in seen:
            continue
        seen.add(layer.name)
        if layer.name in on_labels or layer.type == "softmax" or is_logistic(layer):
            left += layer.inputs
        else:
            found.add(layer.name)
    return tuple(layer.name for layer in network.layers if layer.name in found)


def last_hidden_of(network: Network, top: str) -> tuple[str, ...]:
    """The inputs of the dense layers nearest to a top output, each once, in the file's order."""
    by_name = {layer.name: layer for layer in network.layers}
    left, found = [by_name[top]], set()
    while left:
        layer = left.pop()
        if layer.type in ("concat", "pass", "eltsum", "eltmax", *PASSING):
            left += [by_name[name] for name in layer.inputs]
        else:
            found |= set(layer.inputs)
    return tuple(layer.name for layer in network.layers if layer.name in found)


def with_classes(network: Network, classes: int, size_px: int) -> Network:
    """The network with output layers of `classes` units; where a concat joins several, in their old proportion."""
    if not 1 <= classes <= 1_000_000:
        raise UsageError(f"classes={classes}: give a whole number from 1 to 1000000")
    shapes, by_name = shapes_of(network, size_px), {layer.name: layer for layer in network.layers}
    on_labels, widths = on_labels_of(network), {}
    left = [(n, classes) for layer in _costs(network, on_labels) for n in layer.inputs if shapes[n] is not None]
    while left:
        name, width = left.pop()
        layer = by_name[name]
        if layer.options.get("tree") and width != layer.options["outputs"]:
            given = f"{layer.options['outputs']} classes"
            fail(network.layers_path, name, "tree", given, f"the data has {width}; give their tree, or none")
        if layer.type in ("fc", "treefc"):
            widths[name] = width
        elif layer.type in PASSING or layer.type in ("eltsum", "eltmax"):
            left += [(n, width) for n in layer.inputs if shapes[n] is not None]
        elif layer.type in ("concat", "pass"):
            left += zip(layer.inputs, shares_of(width, [prod(shapes[n]) for n in layer.inputs]), strict=True)
        else:
            fail(network.layers_path, name, "type", layer.type, "classes can only change fc and treefc layers")
        if width < 1:
            raise UsageError(f"{network.layers_path}: {classes} classes do not suffice for all its output layers")
    changed = (
        replace(layer, options={**layer.options, "outputs": widths[layer.name]}) if layer.name in widths else layer
        for layer in network.layers
    )
    return replace(network, layers=tuple(changed))


def shares_of(total: int, sizes: list[int]) -> list[int]:
    cuts = [round(total * before / sum(sizes)) for before in accumulate(sizes, initial=0)]
    return [after - before for before, after in pairwise(cuts)]
