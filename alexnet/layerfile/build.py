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
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet.errors import UsageError
from alexnet.layerfile import images, layers, merge
from alexnet.layerfile.costs import cost
from alexnet.layerfile.geometry import Shape, maps_shape, picture_px, shapes_of
from alexnet.layerfile.lex import shown
from alexnet.layerfile.neurons import Activation
from alexnet.layerfile.parse import fail, read
from alexnet.layerfile.records import Layer, Network, SgdGroup
from alexnet.layerfile.tops import is_logistic, last_hidden_of, on_labels_of, tops_of, with_classes
from alexnet.net import is_watched
from alexnet.spec import LayerFile


def build(
    layers_path: str | Path | LayerFile,
    params_path: str | Path | LayerFile | None = None,
    *,
    classes: int | None = None,
    size_px: int | None = None,
    seed: int = 0,
) -> LayerNet:
    """The net of a definition file and its parameter file; without one, as for a start from scratch.

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
    """`input_shape` (C, H, W), `records` in order, `tops`: the outputs that the costs look at, before any softmax. Its
    input is (N, C, H, W) mean-subtracted pixels in grey levels.
    """

    def __init__(self, network: Network, size_px: int, seed: int = 0):
        super().__init__()
        self.network, self.records, self.input_shape = network, network.layers, (3, size_px, size_px)
        self.shapes = shapes_of(network, size_px)
        self.groups, self.merged = merge.groups_of(network.layers, self.shapes), True
        self.by_name = {layer.name: layer for layer in self.records}
        self.on_labels = on_labels_of(network)
        self.tops = tops_of(network, self.on_labels)
        self.layers = nn.ModuleDict()
        self.keys: dict[str, str] = {}  # a layer's name -> its name in `layers`
        self.borrowed: dict[tuple[str, int], tuple[str, int]] = {}  # (layer, input) -> whose matrix it is
        for number, layer in enumerate(self.records):
            module = _module(network, layer, self.shapes, seed + number)
            if module is not None:
                self.keys[layer.name] = _free_key(self.layers, layer.name)
                self.layers[self.keys[layer.name]] = module
                self._share(layer, module)
        self._initialise(seed)
        self.register_state_dict_post_hook(_leave_out_borrowed)
        self.register_load_state_dict_pre_hook(_fill_in_borrowed)

    def forward(self, images_nchw: Tensor, until: str | None = None) -> Tensor | tuple[Tensor, ...]:
        """The top output, a tuple where there are several, or that of the layer named `until`: (N, units) or (N, maps,
        H, W). Raises UsageError for a layer that does not exist or needs labels.
        """
        wanted = self.tops if until is None else (until,)
        for name in wanted:
            if name not in self.shapes or name in self.on_labels:
                reason = "needs labels" if name in self.shapes else "does not exist"
                known = ", ".join(n for n in self.shapes if n not in self.on_labels)
                raise UsageError(f"layer {shown(name)} {reason}; the layers to stop at: {known}")
        values = self._run(wanted, images_nchw)
        return values[wanted[0]] if len(wanted) == 1 else tuple(values[name] for name in wanted)

    def outputs(self, names: Iterable[str], images_nchw: Tensor) -> dict[str, Tensor]:
        """{layer: output} of several layers from one pass."""
        return self._run(names, images_nchw)

    def costs(self, images_nchw: Tensor, targets: Tensor | tuple[Tensor, ...]) -> dict[str, tuple[Tensor, ...]]:
        """{cost layer: its sums over the cases}; `targets` is the data of dataIdx 1, or a tuple for 1, 2, ..."""
        return self._costs(images_nchw, targets)[0]

    def _costs(self, images_nchw: Tensor, targets: Tensor | tuple) -> tuple[dict[str, tuple[Tensor, ...]], Tensor]:
        """`costs`, and the first top output; where the net computes in bfloat16, costs are taken in float32."""
        found = [layer for layer in self.records if layer.type.startswith("cost.")]
        below = {layer.name: self._below(layer) for layer in found}
        wanted = {name for layer in found for name in layer.inputs} | (set(below.values()) - {None}) | {self.tops[0]}
        values = self._run(wanted, images_nchw, targets)
        wide = {name: values[name].to(_wide(values[name].dtype)) for name in wanted}
        sums = {
            layer.name: cost(
                layer.type,
                [wide[name] for name in layer.inputs],
                wide.get(below[layer.name]),
                layer.params.get("topk", 1),
            )
            for layer in found
        }
        return sums, wide[self.tops[0]]

    def loss(self, images_nchw: Tensor, targets: Tensor | tuple[Tensor, ...]) -> Tensor:
        """What training minimises: the sum of coeff * cost over the cost layers, divided by the number of cases."""
        return self.loss_and_logits(images_nchw, targets)[0]

    def loss_and_logits(self, images_nchw: Tensor, targets: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """`loss` and, from the same pass, the first top output (N, K)."""
        sums, top = self._costs(images_nchw, targets)
        total = sum(self.by_name[name].params["coeff"] * s[0] for name, s in sums.items())
        return total / len(images_nchw), top.flatten(1)

    def targets(self, labels_n: Tensor) -> tuple[Tensor, ...]:
        """Data 1, 2, ... for pictures with one label each: its number for a cost.logreg, else a row of 0 and 1."""
        numbers = {layer.inputs[0] for layer in self.records if layer.type == "cost.logreg"}
        places = {layer.options["dataidx"]: layer.name for layer in self.records if layer.type == "data"}
        units = torch.arange(prod(self.shapes[self.tops[0]]), device=labels_n.device)
        rows = (labels_n[:, None] == units).float()  # one_hot would wait for a GPU, to look at the labels
        return tuple(labels_n if places.get(i) in numbers else rows for i in range(1, max(places) + 1))

    def sgd_groups(self) -> list[SgdGroup]:
        """One record per tensor of the net, in order; a matrix that is borrowed (weightSource) is its owner's."""
        groups = []
        for layer in self.records:
            if layer.bias_update is None:
                continue
            for i, update in enumerate(layer.weight_updates):
                if (layer.name, i) not in self.borrowed:
                    groups.append(SgdGroup(layer.name, i, self.parameter_name(layer.name, i), update))
            groups.append(SgdGroup(layer.name, None, self.parameter_name(layer.name, None), layer.bias_update))
            if layer.options.get("tree"):
                groups += self._node_groups(layer)
        return groups

    def _node_groups(self, layer: Layer) -> list[SgdGroup]:
        """Inner nodes of a treefc: rate and decay of a leaf, each divided by how many classes are under the node."""
        update, groups = layer.weight_updates[0], []
        for j, leaves in enumerate(self.module(layer.name).leaves):
            schedule = replace(update.schedule, base=update.schedule.base / leaves)
            slower = replace(update, schedule=schedule, decay=update.decay / leaves)
            groups.append(SgdGroup(layer.name, None, f"layers.{self.keys[layer.name]}.nodes.{j}", slower))
        return groups

    def parameter_name(self, layer: str, i: int | None) -> str:
        """The state-dict name of a layer's matrix for input i, or of its biases for None."""
        return f"layers.{self.keys[layer]}.bias" if i is None else f"layers.{self.keys[layer]}.weights.{i}"

    def colour_kernels(self) -> dict[str, Tensor]:
        """{layer: its filters (n, 3, size, size)} of the convolutions that look at the pictures themselves."""
        pictures = {layer.name for layer in self.records if layer.options.get("dataidx") == 0}
        found = {}
        for layer in self.records:
            if (
                layer.type == "conv"
                and layer.inputs[0] in pictures
                and self.module(layer.name).weights[0].shape[1] == 3
            ):
                found[layer.name] = self.module(layer.name).weights[0]
        return found

    @property
    def last_hidden(self) -> tuple[str, ...]:
        """The layers that go into the dense layers of the first top output: hs2a and hs2b of run 145."""
        return last_hidden_of(self.network, self.tops[0])

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
        values = merge.Values()
        merged = self.merged and not any(map(is_watched, self.layers.values()))  # hooks see one module's own
        for group in self.groups if merged else zip(self.records, strict=True):
            group = tuple(layer for layer in group if layer.name in needed)
            if group:
                values.keep(tuple(layer.name for layer in group), self._value(group, values, sources, merged))
            for name in (name for layer in group for name in layer.inputs):
                uses[name] -= 1
                if not uses[name] and name not in wanted:
                    values.drop(name)
        return {name: values[name] for name in wanted}

    def _value(
        self, group: tuple[Layer, ...], values: merge.Values, sources: tuple[Tensor, ...], merged: bool
    ) -> Tensor:
        """The output of layers that are computed together; where nothing is merged, of one by its own module."""
        layer = group[0]
        if layer.type != "data" and merged:
            return merge.compute(group, [self.module(layer.name) for layer in group], values)
        if layer.type != "data":
            return self.module(layer.name)(*(values[name] for name in layer.inputs))
        index = layer.options["dataidx"]
        if index >= len(sources):
            given = f"targets holds numbers 1 to {len(sources) - 1}"
            raise UsageError(f"layer {shown(layer.name)} takes data number {index}; {given}")
        first, last = layer.options["start"], layer.options["end"]
        source = sources[index]
        return source.contiguous().flatten(1)[:, first:last] if last and source.dim() > 1 else source

    def _below(self, layer: Layer) -> str | None:
        """The layer under a cost's softmax or logistic function, where there is one."""
        last = self.by_name[layer.inputs[-1]]
        softmax = layer.type in ("cost.logreg", "cost.crossent") and last.type == "softmax"
        return last.inputs[0] if softmax or (layer.type == "cost.crossent2" and is_logistic(last)) else None

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
            self.borrowed[layer.name, i] = (name, j)

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


def _leave_out_borrowed(net: LayerNet, state: dict[str, Tensor], prefix: str, metadata: dict) -> None:
    """A matrix that is shared is saved once, under its owner's name."""
    for place in net.borrowed:
        del state[prefix + net.parameter_name(*place)]


def _fill_in_borrowed(net: LayerNet, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
    for place, owner in net.borrowed.items():
        if prefix + net.parameter_name(*owner) in state:
            state[prefix + net.parameter_name(*place)] = state[prefix + net.parameter_name(*owner)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


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
        values = [prod(s) for s in inputs]
        return layers.TreeDense(values, o["tree"]) if o.get("tree") else layers.Dense(values, o["outputs"])
    if layer.type in ("eltsum", "eltmax"):
        return layers.Sum(o["coeffs"], shape) if layer.type == "eltsum" else layers.Maximum(shape)
    if layer.type in ("concat", "pass"):
        return layers.Concat(shape)
    if layer.type in ("hs", "dropout", "dropout2"):
        return layers.Drop(layer)
    if layer.type in ("softmax", "neuron"):
        return layers.Softmax() if layer.type == "softmax" else Activation(layer.neuron)
    maps = maps_shape(network, layer, inputs[0], o["channels"])
    if layer.type in ("cmrnorm", "rnorm", "cnorm"):
        return layers.Norm(layer, maps)
    if layer.type == "pool":
        return layers.Pool(layer, maps, shape[1])
    return images.module(layer, maps, shape[1])
