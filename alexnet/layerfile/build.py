"""A net from layer files: the records of parse.py become modules, computed in the files' order and named as there.

net = build("layers-145.cfg", "layer-params-145.cfg")
logits = net(images_nchw)                    # (N, 1000); mean-subtracted pixels of net.input_shape
features = net(images_nchw, until="fc2048ba_neuron")
net.loss(images_nchw, labels_n).backward()   # the sum of coeff * cost, per case
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet.errors import UsageError
from alexnet.layerfile import layers
from alexnet.layerfile.costs import cost
from alexnet.layerfile.geometry import Shape, maps_shape, picture_px, shapes_of
from alexnet.layerfile.lex import shown
from alexnet.layerfile.neurons import Activation
from alexnet.layerfile.parse import fail, read
from alexnet.layerfile.records import Layer, Network, SgdGroup

PASSING = ("softmax", "neuron", "hs", "dropout", "dropout2", "href")  # as wide as their input


def build(
    layers_path: str | Path,
    params_path: str | Path | None = None,
    *,
    classes: int | None = None,
    size_px: int | None = None,
    seed: int = 0,
) -> LayerNet:
    """The net of a definition file and its parameter file (without one: as for a start from scratch, see `read`).

    `classes` gives the output layers that many units, split over several in proportion. `size_px` is the side of the
    pictures, which the files do not say: 224 where a layer steps by 4 pixels, else 32. Raises UsageError for files
    that are wrong or whose layers do not fit together.
    """
    network = read(layers_path, params_path)
    size_px = picture_px(network) if size_px is None else size_px
    if not 1 <= size_px <= 4096:
        raise UsageError(f"size_px={size_px}: give the side of the pictures, from 1 to 4096 pixels")
    if classes is not None:
        network = with_classes(network, classes, size_px)
    return LayerNet(network, size_px, seed)


class LayerNet(nn.Module):
    """`input_shape` (C, H, W), `records` in order, `tops`: the outputs that the costs look at, before any softmax."""

    def __init__(self, network: Network, size_px: int, seed: int = 0):
        super().__init__()
        self.network, self.records, self.input_shape = network, network.layers, (3, size_px, size_px)
        self.shapes = shapes_of(network, size_px)
        self.by_name = {layer.name: layer for layer in self.records}
        self.on_labels = _on_labels(network)
        self.tops = _tops(network, self.on_labels)
        self.layers = nn.ModuleDict()
        self.keys: dict[str, str] = {}  # a layer's name -> its name in `layers`
        self.borrowed: set[tuple[str, int]] = set()
        for number, layer in enumerate(self.records):
            module = _module(network, layer, self.shapes, seed + number)
            if module is not None:
                self.keys[layer.name] = _free_key(self.layers, layer.name)
                self.layers[self.keys[layer.name]] = module
                self._share(layer, module)
        self._initialise(seed)

    def forward(self, images_nchw: Tensor, until: str | None = None) -> Tensor | tuple[Tensor, ...]:
        """The top output, a tuple where there are several, or that of the layer named `until`."""
        wanted = self.tops if until is None else (until,)
        for name in wanted:
            if name not in self.shapes or name in self.on_labels:
                reason = "needs labels" if name in self.shapes else "does not exist"
                known = ", ".join(n for n in self.shapes if n not in self.on_labels)
                raise UsageError(f"layer {shown(name)} {reason}; the layers to stop at: {known}")
        values = self._run(wanted, images_nchw)
        return values[wanted[0]] if len(wanted) == 1 else tuple(values[name] for name in wanted)

    def costs(self, images_nchw: Tensor, targets: Tensor | tuple[Tensor, ...]) -> dict[str, tuple[Tensor, ...]]:
        """{cost layer: its sums over the cases}; `targets` is the data of dataIdx 1, or a tuple for 1, 2, ..."""
        found = [layer for layer in self.records if layer.type.startswith("cost.")]
        below = {layer.name: self._below(layer) for layer in found}
        wanted = {name for layer in found for name in layer.inputs} | (set(below.values()) - {None})
        values = self._run(wanted, images_nchw, targets)
        return {
            layer.name: cost(
                layer.type,
                [values[name] for name in layer.inputs],
                values.get(below[layer.name]),
                layer.params.get("topk", 1),
            )
            for layer in found
        }

    def loss(self, images_nchw: Tensor, targets: Tensor | tuple[Tensor, ...]) -> Tensor:
        """What training minimises: the sum of coeff * cost over the cost layers, divided by the number of cases."""
        sums = self.costs(images_nchw, targets)
        return sum(self.by_name[name].params["coeff"] * s[0] for name, s in sums.items()) / len(images_nchw)

    def sgd_groups(self) -> list[SgdGroup]:
        """One record per tensor of the net, in order; a matrix that is borrowed (weightSource) is its owner's."""
        groups = []
        for layer in self.records:
            if layer.bias_update is None:
                continue
            path = f"layers.{self.keys[layer.name]}"
            for i, update in enumerate(layer.weight_updates):
                if (layer.name, i) not in self.borrowed:
                    groups.append(SgdGroup(layer.name, i, f"{path}.weights.{i}", update))
            groups.append(SgdGroup(layer.name, None, f"{path}.bias", layer.bias_update))
        return groups

    def module(self, name: str) -> nn.Module:
        """The module of a layer, by the layer's own name."""
        return self.layers[self.keys[name]]

    def _run(self, wanted: Iterable[str], images_nchw: Tensor, targets: Tensor | tuple = ()) -> dict[str, Tensor]:
        """{layer: output} for the wanted layers; computes only what they need, and forgets what is used up."""
        if tuple(images_nchw.shape[1:]) != self.input_shape:
            raise UsageError(f"this net takes pictures (N, {self.input_shape}), not {tuple(images_nchw.shape)}")
        wanted, needed = set(wanted), set(wanted)
        for layer in reversed(self.records):
            needed |= set(layer.inputs) if layer.name in needed else set()
        uses = Counter(name for layer in self.records if layer.name in needed for name in layer.inputs)
        sources = (images_nchw, *(targets if isinstance(targets, tuple) else (targets,)))
        values: dict[str, Tensor] = {}
        for layer in self.records:
            if layer.name not in needed:
                continue
            values[layer.name] = self._value(layer, values, sources)
            for name in layer.inputs:
                uses[name] -= 1
                if not uses[name] and name not in wanted:
                    del values[name]
        return values

    def _value(self, layer: Layer, values: dict[str, Tensor], sources: tuple[Tensor, ...]) -> Tensor:
        if layer.type != "data":
            return self.module(layer.name)(*(values[name] for name in layer.inputs))
        index = layer.options["dataidx"]
        if index >= len(sources):
            given = f"targets holds numbers 1 to {len(sources) - 1}"
            raise UsageError(f"layer {shown(layer.name)} takes data number {index}; {given}")
        return sources[index]

    def _below(self, layer: Layer) -> str | None:
        """The layer under a cost's softmax or logistic function, where there is one."""
        last = self.by_name[layer.inputs[-1]]
        softmax = layer.type in ("cost.logreg", "cost.crossent") and last.type == "softmax"
        return last.inputs[0] if softmax or (layer.type == "cost.crossent2" and _is_logistic(last)) else None

    def _share(self, layer: Layer, module: nn.Module) -> None:
        """Puts the matrices that weightSource names (`layer` or `layer[input]`) into the place of the layer's own."""
        for i, source in enumerate(layer.options.get("weightsource", ())):
            if not source:
                continue
            name, index = re.fullmatch(r"(.*?)(?:\[(\d{1,4})\])?", source).groups()
            weights = getattr(self.layers[self.keys[name]], "weights", ()) if name in self.keys else ()
            j = int(index or 0)
            if j >= len(weights) or weights[j].shape != module.weights[i].shape:
                allowed = "needs a layer above with weights of the same shape, as layer or layer[input]"
                fail(self.network.layers_path, layer.name, "weightSource", source, allowed)
            module.weights[i] = weights[j]
            self.borrowed.add((layer.name, i))

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Normal weights of deviation initW and biases of initB; initWFunc asks for a checkpoint that is not here."""
        generator = torch.Generator("cpu").manual_seed(seed)
        for layer in self.records:
            if layer.bias_update is None or self.module(layer.name).bias.is_meta:
                continue
            module = self.module(layer.name)
            for i, weight in enumerate(module.weights):
                if (layer.name, i) not in self.borrowed:
                    weight.normal_(0, layer.options["initw"][i], generator=generator)
            module.bias.fill_(layer.options["initb"])


def _free_key(modules: nn.ModuleDict, name: str) -> str:
    """A section's name as torch can use it: no dots, and none of the words that ModuleDict itself answers to."""
    key = name.replace(".", "_")
    while hasattr(modules, key):
        key += "_"
    return key


def _module(network: Network, layer: Layer, shapes: dict[str, Shape], seed: int) -> nn.Module | None:
    """The module of a layer; None for data and costs, which have none."""
    o, shape, inputs = layer.options, shapes[layer.name], [shapes[name] for name in layer.inputs]
    if layer.type == "data" or layer.type.startswith("cost."):
        return None
    if layer.type in ("conv", "local"):
        maps = [maps_shape(network, layer, s, c) for s, c in zip(inputs, o["channels"], strict=True)]
        return (layers.Conv if layer.type == "conv" else layers.Local)(layer, maps, shape, seed)
    if layer.type in ("fc", "treefc"):
        return layers.Dense([prod(s) for s in inputs], o["outputs"])
    if layer.type in ("eltsum", "eltmax"):
        return layers.Sum(o["coeffs"], shape) if layer.type == "eltsum" else layers.Maximum(shape)
    if layer.type in ("concat", "pass"):
        return layers.Concat(shape)
    if layer.type in ("hs", "dropout", "dropout2"):
        return layers.Drop(layer)
    if layer.type in ("softmax", "neuron"):
        return layers.Softmax() if layer.type == "softmax" else Activation(layer.neuron)
    maps = maps_shape(network, layer, inputs[0], o["channels"])
    if layer.type in ("pool", "nailbed"):
        return (layers.Pool if layer.type == "pool" else layers.Nailbed)(layer, maps, shape[1])
    if layer.type in ("blur", "href"):
        return layers.Blur(layer, maps) if layer.type == "blur" else layers.Mirror(maps)
    return layers.Norm(layer, maps)


def _is_logistic(layer: Layer) -> bool:
    return layer.type == "neuron" and layer.neuron.kind == "logistic"


def _on_labels(network: Network) -> set[str]:
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


def _tops(network: Network, on_labels: set[str]) -> tuple[str, ...]:
    """The outputs the costs look at, without the softmax or logistic function on top, in the file's order."""
    by_name = {layer.name: layer for layer in network.layers}
    left, found = [name for layer in _costs(network, on_labels) for name in layer.inputs], set()
    seen = set()
    while left:
        layer = by_name[left.pop()]
        if layer.name in seen:
            continue
        seen.add(layer.name)
        if layer.name in on_labels or layer.type == "softmax" or _is_logistic(layer):
            left += layer.inputs
        else:
            found.add(layer.name)
    return tuple(layer.name for layer in network.layers if layer.name in found)


def with_classes(network: Network, classes: int, size_px: int) -> Network:
    """The network with output layers of `classes` units; where a concat joins several, in their old proportion."""
    if not 1 <= classes <= 1_000_000:
        raise UsageError(f"classes={classes}: give a whole number from 1 to 1000000")
    shapes, by_name = shapes_of(network, size_px), {layer.name: layer for layer in network.layers}
    on_labels, widths = _on_labels(network), {}
    left = [(n, classes) for layer in _costs(network, on_labels) for n in layer.inputs if shapes[n] is not None]
    while left:
        name, width = left.pop()
        layer = by_name[name]
        if layer.type in ("fc", "treefc"):
            widths[name] = width
        elif layer.type in PASSING or layer.type in ("eltsum", "eltmax"):
            left += [(n, width) for n in layer.inputs if shapes[n] is not None]
        elif layer.type in ("concat", "pass"):
            left += zip(layer.inputs, _shares(width, [prod(shapes[n]) for n in layer.inputs]), strict=True)
        else:
            fail(network.layers_path, name, "type", layer.type, "classes can only change fc and treefc layers")
        if width < 1:
            raise UsageError(f"{network.layers_path}: {classes} classes do not suffice for all its output layers")
    changed = (
        replace(layer, options={**layer.options, "outputs": widths[layer.name]}) if layer.name in widths else layer
        for layer in network.layers
    )
    return replace(network, layers=tuple(changed))


def _shares(total: int, sizes: list[int]) -> list[int]:
    cuts = [round(total * before / sum(sizes)) for before in accumulate(sizes, initial=0)]
    return [after - before for before, after in pairwise(cuts)]
