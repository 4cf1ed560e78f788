"""The shape of every layer's output, from the records alone: (channels, height, width), (features,), None for labels.

A layer file does not say how large the pictures are; `picture_px` guesses as the authors used them. All maps are
square. Counts are capped long before they could fill the memory.
"""

from __future__ import annotations

from math import ceil, floor, isqrt, prod

from alexnet.errors import UsageError
from alexnet.layerfile.lex import shown
from alexnet.layerfile.parse import fail
from alexnet.layerfile.records import Layer, Network

Shape = tuple[int, ...] | None
MOST_VALUES = 1 << 28  # of one picture in one layer
MOST_WEIGHTS = 1 << 31  # of one matrix; the largest real one has 38 million


def picture_px(network: Network) -> int:
    """224 where a layer steps 4 pixels at a time, as all nets for ImageNet do, else CIFAR's 32."""
    strides = [layer.options.get("stride", 0) for layer in network.layers]
    return 224 if any((max(s) if isinstance(s, tuple) else s) >= 4 for s in strides) else 32


def shapes_of(network: Network, size_px: int) -> dict[str, Shape]:
    """{layer: shape of its output}. Raises UsageError, with section and key, where layers do not fit together."""
    shapes: dict[str, Shape] = {}
    for layer in network.layers:
        shape = _shape(network, layer, [shapes[name] for name in layer.inputs], size_px)
        if shape is not None and prod(shape) > MOST_VALUES:
            raise UsageError(f"{network.layers_path}, [{shown(layer.name)}]: {shape} values per picture are too many")
        shapes[layer.name] = shape
    return shapes


def maps_shape(network: Network, layer: Layer, shape: Shape, channels: int) -> tuple[int, int, int]:
    """The square maps that a layer with `channels=` makes of an input; UsageError where they are not square."""
    total = prod(shape or (0,))
    side_px = isqrt(total // channels)
    if not total or side_px**2 * channels != total:
        given = "labels" if shape is None else f"{total} values"
        fail(network.layers_path, layer.name, "channels", str(channels), f"{given} are not that many square maps")
    return channels, side_px, side_px


def sees(layer: Layer, i: int) -> int:
    """How many channels of input i one group of filters sees."""
    o = layer.options
    return (o["randsparse"][i] and o["filterchannels"][i]) or o["channels"][i] // o["groups"][i]


def _shape(network: Network, layer: Layer, inputs: list[Shape], size_px: int) -> Shape:
    o, known = layer.options, [shape for shape in inputs if shape is not None]
    if layer.type == "data":
        return _data_shape(network, layer, size_px)
    if layer.type.startswith("cost."):
        return ()
    if not known or (len(known) < len(inputs) and layer.type not in ("eltsum", "eltmax")):
        names = ",".join(layer.inputs)
        fail(network.layers_path, layer.name, "inputs", names, "labels can only go into a cost or a sum")
    if layer.type in ("conv", "local"):
        return _conv_shape(network, layer, inputs)
    if layer.type in ("fc", "treefc"):
        _limit(network, layer, max(prod(shape) for shape in known) * o["outputs"])
        return (o["outputs"],)
    if layer.type in ("eltsum", "eltmax"):
        if len({prod(shape) for shape in known}) > 1:
            fail(network.layers_path, layer.name, "inputs", ",".join(layer.inputs), f"differ in size: {known}")
        return known[0]
    if layer.type in ("concat", "pass"):
        same = len({shape[1:] for shape in known}) == 1
        return (sum(s[0] for s in known), *known[0][1:]) if same else (sum(map(prod, known)),)
    if "channels" not in o:
        return known[0]
    channels, side_px, _ = maps_shape(network, layer, known[0], o["channels"])
    if layer.type == "pool":
        side_px = _pool_px(network, layer, side_px)
    elif layer.type == "nailbed":
        side_px = (side_px + o["stride"] - 1) // o["stride"]
    elif layer.type == "resize":
        side_px = floor(side_px / o["scale"])
    elif layer.type == "crop":
        side_px = _crop_px(network, layer, side_px)
    elif layer.type == "rgb2yuv" and channels != 3:
        fail(network.layers_path, layer.name, "channels", str(channels), "pictures in R, G and B have 3")
    return channels, side_px, side_px


def _data_shape(network: Network, layer: Layer, size_px: int) -> Shape:
    o, values = layer.options, 3 * size_px**2
    if o["end"] and (o["end"] <= o["start"] or (o["dataidx"] == 0 and o["end"] > values)):
        most = f" up to {values}, the values of a picture" if o["dataidx"] == 0 else ""
        fail(network.layers_path, layer.name, "end", str(o["end"]), f"must be above start ({o['start']}){most}")
    if o["dataidx"] != 0:
        return None
    return (o["end"] - o["start"],) if o["end"] else (3, size_px, size_px)


def _limit(network: Network, layer: Layer, weights: int) -> None:
    if weights > MOST_WEIGHTS:
        raise UsageError(
            f"{network.layers_path}, [{shown(layer.name)}]: {weights} weights; at most {MOST_WEIGHTS} are allowed"
        )


def _conv_shape(network: Network, layer: Layer, inputs: list[Shape]) -> Shape:
    o, path = layer.options, network.layers_path
    sides, filters = set(), set()
    for i, shape in enumerate(inputs):
        _, size_px, _ = maps_shape(network, layer, shape, o["channels"][i])
        span_px = 2 * o["padding"][i] + size_px - o["filtersize"][i]
        if span_px < 0:
            fail(path, layer.name, "filterSize", str(o["filtersize"][i]), f"does not fit into maps of {size_px} pixels")
        if o["stride"][i] > o["filtersize"][i]:
            allowed = f"must not exceed filterSize ({o['filtersize'][i]}), or pixels would go unseen"
            fail(path, layer.name, "stride", str(o["stride"][i]), allowed)
        sides.add(o["modulesx"] or 1 + ceil(span_px / o["stride"][i]))
        filters.add(o["filters"][i] * o["groups"][i])
        reach_px = max(size_px + 2 * o["padding"][i], (max(sides) - 1) * o["stride"][i] + o["filtersize"][i])
        if reach_px**2 * o["channels"][i] > MOST_VALUES:
            fail(path, layer.name, "padding", str(o["padding"][i]), f"{reach_px} pixels with their zeros are too many")
        _check_groups(path, layer, i)
        positions = max(sides) ** 2 if layer.type == "local" else 1
        _limit(network, layer, positions * sees(layer, i) * o["filtersize"][i] ** 2 * max(filters))
    if len(sides) > 1:
        fail(path, layer.name, "stride", str(o["stride"]), f"inputs give maps of {sorted(sides)} pixels; make them one")
    if len(filters) > 1:
        fail(path, layer.name, "filters", str(o["filters"]), f"times groups gives {sorted(filters)} maps; make it one")
    side_px = sides.pop()
    return filters.pop(), side_px, side_px


def _check_groups(path: str, layer: Layer, i: int) -> None:
    o = layer.options
    channels, groups = o["channels"][i], o["groups"][i]
    if o["randsparse"][i] and groups == 1:
        fail(path, layer.name, "randSparse", "1", "needs groups of 2 or more, to draw channels for")
    if channels % groups and not (o["randsparse"][i] and o["filterchannels"][i]):
        fail(path, layer.name, "groups", str(groups), f"{channels} channels do not divide into that many")
    if o["randsparse"][i] and (channels % sees(layer, i) or groups * sees(layer, i) % channels):
        allowed = f"must divide {channels} channels, and times {groups} groups be a multiple of them"
        fail(path, layer.name, "filterChannels", str(sees(layer, i)), allowed)


def _pool_px(network: Network, layer: Layer, size_px: int) -> int:
    o, path = layer.options, network.layers_path
    if not o["stride"] <= o["sizex"] <= size_px:
        fail(path, layer.name, "sizeX", str(o["sizex"]), f"must be from stride ({o['stride']}) to {size_px} pixels")
    if not -o["sizex"] < o["start"] < size_px:
        fail(path, layer.name, "start", str(o["start"]), "every window must touch the map")
    out_px = o["outputsx"] or ceil((size_px - o["start"] - o["sizex"]) / o["stride"]) + 1
    if out_px < 1 or o["start"] + (out_px - 1) * o["stride"] >= size_px:
        fail(path, layer.name, "outputsX", str(out_px), "every window must touch the map")
    return out_px


def _crop_px(network: Network, layer: Layer, size_px: int) -> int:
    o = layer.options
    if max(o["startx"], o["starty"]) + o["sizex"] > size_px:
        fail(network.layers_path, layer.name, "sizeX", str(o["sizex"]), f"reaches beyond maps of {size_px} pixels")
    return o["sizex"]
