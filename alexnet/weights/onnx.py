"""A net as an ONNX graph: one or a few standard operators per named layer, written directly.

    graph = model(net, prep, None, {})        input "images" float32 (N, 3, crop, crop), output "logits" (N, classes)
    graph = model(net, prep, "square", {})    input "pixels" uint8 (N, S, S, 3), cut and mean-subtracted inside

Not traced by torch.onnx.export: that needs a further package, and takes the response norm apart where ONNX has an
operator for it. Every tensor in the graph is named after the layer that puts it out (conv1, rnorm1 ... drop7), every
weight as in the state dict. Opset 17: six years of runtimes read it. The batch is free.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from alexnet.data import augment, shapes
from alexnet.data.augment import Preprocessing
from alexnet.errors import CheckpointError
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
from alexnet.net import AlexNet

OPSET, IR_VERSION = 17, 8
TOLERANCE = 1e-4  # of the largest logit
TRIED = 8  # painted pictures that a graph is tried with


class Graph:
    """Nodes and weights as they are added; `add` and `weight` return the name of what they made."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name: str, values: Tensor | np.ndarray | float) -> str:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float32)
        return self._constant(name, np.ascontiguousarray(array, np.float32))

    def sizes(self, name: str, values: list[int]) -> str:
        return self._constant(name, np.array(values, np.int64))

    def _constant(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name


def model(net: AlexNet, prep: Preprocessing, pixels: str | None, facts: dict) -> onnx.ModelProto:
    """The net in inference as a graph, with `facts` and the preprocessing as JSON in its metadata.

    `pixels` None: images as the net takes them; "crop": uint8 (N, crop, crop, 3) red, green, blue; "square": uint8
    (N, S, S, 3), of which the centre is cut.
    """
    graph, crop = Graph(), prep.crop_px
    x, taken = "images", helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, crop, crop])
    if pixels is not None:
        side = prep.size_px if pixels == "square" else crop
        x, taken = (
            _see(graph, prep, side),
            helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", side, side, 3]),
        )
    with torch.inference_mode():
        values = torch.zeros(1, 3, crop, crop)
        for name, layer in net.named_children():
            before, values = values.shape, layer(values)
            x = EMIT[type(layer)](graph, name, layer, x, before, values.shape)
    graph.nodes[-1].output[0] = "logits"
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", net.spec.classes])
    whole = helper.make_graph(graph.nodes, "alexnet", [taken], [given], graph.weights)
    proto = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    proto.producer_name = "alexnet"
    facts = {**facts, "preprocessing": _numbers(prep), "input": how_to_feed(prep, pixels)}
    helper.set_model_props(proto, {name: json.dumps(fact) for name, fact in facts.items()})
    return proto


def how_to_feed(prep: Preprocessing, pixels: str | None) -> str:
    if pixels is not None:
        side = prep.size_px if pixels == "square" else prep.crop_px
        return f"pixels: uint8 (N, {side}, {side}, 3), red, green, blue; the mean is subtracted inside"
    crop, means = prep.crop_px, ", ".join(f"{x:.4g}" for x in prep.mean.mean((0, 1)))
    divided = "" if (prep.stds == 1).all() else f" divided by {', '.join(f'{x:.4g}' for x in prep.stds)}"
    return (
        f"images: float32 (N, 3, {crop}, {crop}), grey levels 0-255 less the mean image ({means} on average){divided}"
    )


def _numbers(prep: Preprocessing) -> dict:
    means = prep.mean.mean((0, 1), dtype=np.float64).tolist()
    return {"size_px": prep.size_px, "crop_px": prep.crop_px, "channel_means": means, "stds": prep.stds.tolist()}


def difference(graph: bytes, net: AlexNet, prep: Preprocessing, pixels: str | None) -> float:
    """Largest difference between onnxruntime's logits and the net's over painted pictures, as a part of the largest
    logit. Raises CheckpointError where it is more than TOLERANCE.
    """
    squares = np.stack([shapes.render(i, seed=0, size_px=prep.size_px) for i in range(TRIED)])
    crops = np.empty((TRIED, prep.crop_px, prep.crop_px, 3), np.float32)
    augment.cut(squares, augment.view_draws(prep, TRIED, augment.CENTRE_VIEW), prep, crops)
    images = torch.from_numpy(crops).permute(0, 3, 1, 2)
    with torch.inference_mode():
        ours = net(images).numpy()
    first = prep.border_px // 2
    fed = {"square": squares, "crop": squares[:, first : first + prep.crop_px, first : first + prep.crop_px]}
    theirs = run(graph, images.contiguous().numpy() if pixels is None else np.ascontiguousarray(fed[pixels]))
    relative = float(np.abs(theirs - ours).max() / max(np.abs(ours).max(), 1e-30))
    if not relative <= TOLERANCE:
        raise CheckpointError(f"onnxruntime gives other logits: {relative:.1e} of the largest; the graph was not kept")
    return relative


def run(graph: bytes | Path, batch: np.ndarray) -> np.ndarray:
    """The logits (N, classes) that onnxruntime gives on the CPU, for a graph or the file of one."""
    import onnxruntime

    graph = graph if isinstance(graph, bytes) else str(graph)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {session.get_inputs()[0].name: batch})[0]


def _see(g: Graph, prep: Preprocessing, side: int) -> str:
    """augment.cut for the centre view, in its order of operations: the same floats."""
    x, crop = "pixels", prep.crop_px
    if side > crop:
        first = prep.border_px // 2
        ends = [g.sizes(f"crop.{word}", [at, at]) for word, at in (("first", first), ("last", first + crop))]
        x = g.add("Slice", [x, *ends, g.sizes("crop.axes", [1, 2])], "crop")
    x = g.add("Cast", [x], "grey_levels", to=TensorProto.FLOAT)
    x = g.add("Sub", [x, g.weight("preprocessing.mean", prep.central_mean())], "mean_subtracted")
    if (prep.stds != 1).any():
        x = g.add("Mul", [x, g.weight("preprocessing.scales", 1 / prep.stds)], "scaled")
    return g.add("Transpose", [x], "images", perm=[0, 3, 1, 2])


def _convolution(g: Graph, name: str, layer: Conv2d, x: str, before, after) -> str:
    """Overhang is padding at the bottom and the right alone."""
    pad, over = layer.padding[0], layer.overhang_px
    inputs = [x, g.weight(f"{name}.weight", layer.weight), g.weight(f"{name}.bias", layer.bias)]
    options = {"kernel_shape": list(layer.kernel_size), "strides": list(layer.stride), "group": layer.groups}
    return g.add("Conv", inputs, name, pads=[pad, pad, pad + over, pad + over], **options)


def _local(g: Graph, name: str, layer: LocalConv2d, x: str, before, after) -> str:
    """A convolution with one-hot kernels lays the windows out; then a matrix for each position."""
    channels, places, window = before[1], layer.out_px**2, layer.kernel_px**2
    one_hot = np.tile(np.eye(window, dtype=np.float32), (channels, 1))
    kernels = g.weight(f"{name}.windows", one_hot.reshape(-1, 1, layer.kernel_px, layer.kernel_px))
    options = {"pads": [layer.padding_px] * 4, "group": channels}
    x = g.add("Conv", [x, kernels], f"{name}.laid_out", **options)
    x = g.add("Reshape", [x, g.sizes(f"{name}.rows", [0, channels * window, places])], f"{name}.windows_nfp")
    x = g.add("Transpose", [x], f"{name}.windows_pnf", perm=[2, 0, 1])
    x = g.add("MatMul", [x, g.weight(f"{name}.weight", layer.weight)], f"{name}.out_pnf")
    x = g.add("Transpose", [x], f"{name}.out_nfp", perm=[1, 2, 0])
    x = g.add("Reshape", [x, g.sizes(f"{name}.shape", [0, *after[1:]])], f"{name}.out_nchw")
    return g.add("Add", [x, g.weight(f"{name}.bias", layer.bias)], name)


def _response_norm(g: Graph, name: str, layer: LocalResponseNorm, x: str, before, after) -> str:
    """ONNX's own operator, one for each tower; it too divides alpha by the size. An even window lies differently there,
    and k = 0 divides by zero where all is silent: those are spelt out.
    """
    s, towers = layer.spec, layer.groups
    if s.size % 2 == 0 or s.k == 0:
        return _banded_norm(g, name, layer, x, before[1])
    options = {"size": s.size, "alpha": layer.alpha, "beta": s.beta, "bias": float(s.k)}
    if towers == 1:
        return g.add("LRN", [x], name, **options)
    parts = [f"{name}.in_{i}" for i in range(towers)]
    sizes = g.sizes(f"{name}.maps", [before[1] // towers] * towers)
    g.nodes.append(helper.make_node("Split", [x, sizes], parts, name=f"{name}.split", axis=1))
    normed = [g.add("LRN", [part], f"{name}.out_{i}", **options) for i, part in enumerate(parts)]
    return g.add("Concat", normed, name, axis=1)


def _banded_norm(g: Graph, name: str, layer: LocalResponseNorm, x: str, channels: int) -> str:
    """The sum over maps as a 1 x 1 convolution with a band of ones."""
    s, width = layer.spec, channels // layer.groups
    offset = np.arange(width)[None, :] - np.arange(width)[:, None] + s.size // 2
    band = np.tile((offset >= 0) & (offset < s.size), (layer.groups, 1)) * (layer.alpha / s.size)
    kernels = g.weight(f"{name}.band", band[:, :, None, None])
    squares = g.add("Mul", [x, x], f"{name}.squares")
    inputs = [squares, kernels, g.weight(f"{name}.k", np.full(channels, s.k))]
    return _divided(g, name, x, g.add("Conv", inputs, f"{name}.scale", group=layer.groups), s.beta)


def _same_map_norm(g: Graph, name: str, layer: SpatialResponseNorm, x: str, before, after) -> str:
    """alpha / size^2 times the sum over a window is alpha times its average, zeros at the border counted."""
    s = layer.spec
    first, last = s.size // 2, s.size - 1 - s.size // 2
    options = {"kernel_shape": [s.size] * 2, "pads": [first, first, last, last], "count_include_pad": 1}
    average = g.add("AveragePool", [g.add("Mul", [x, x], f"{name}.squares")], f"{name}.average", **options)
    scaled = g.add("Mul", [average, g.weight(f"{name}.alpha", s.alpha)], f"{name}.weighted")
    return _divided(g, name, x, g.add("Add", [scaled, g.weight(f"{name}.k", s.k)], f"{name}.scale"), s.beta)


def _divided(g: Graph, name: str, x: str, scale: str, beta: float) -> str:
    """x * scale^-beta; a scale of 0 comes with an x of 0 and gives 0, so it is kept off zero."""
    least = g.weight(f"{name}.least", 10 ** (-30 / max(beta, 1)))
    scale = g.add("Max", [scale, least], f"{name}.above_zero")
    return g.add("Mul", [x, g.add("Pow", [scale, g.weight(f"{name}.power", -beta)], f"{name}.factor")], name)


def _pool(g: Graph, name: str, layer: nn.MaxPool2d | nn.AvgPool2d, x: str, before, after) -> str:
    """Windows over the border are said as padding at the end, which no runtime rounds its own way."""
    size, stride = layer.kernel_size, layer.stride
    over = [max(0, (o - 1) * stride + size - i) for i, o in zip(before[2:], after[2:], strict=True)]
    kind = "MaxPool" if isinstance(layer, nn.MaxPool2d) else "AveragePool"
    return g.add(kind, [x], name, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[0, 0, *over])


def _dense(g: Graph, name: str, layer: nn.Linear, x: str, before, after) -> str:
    inputs = [x, g.weight(f"{name}.weight", layer.weight), g.weight(f"{name}.bias", layer.bias)]
    return g.add("Gemm", inputs, name, transB=1)


def _batch_norm(g: Graph, name: str, layer: nn.BatchNorm2d, x: str, before, after) -> str:
    tensors = {"weight": layer.weight, "bias": layer.bias, "running_mean": layer.running_mean}
    tensors["running_var"] = layer.running_var
    inputs = [x, *(g.weight(f"{name}.{word}", tensor) for word, tensor in tensors.items())]
    return g.add("BatchNormalization", inputs, name, epsilon=layer.eps)


def _dropout(g: Graph, name: str, layer: Dropout, x: str, before, after) -> str:
    """That of 2012 halves at test; inverted, it does nothing."""
    return x if layer.inverted else g.add("Mul", [x, g.weight(f"{name}.keep", 1 - layer.rate)], name)


def _plain(kind: str):
    return lambda g, name, layer, x, before, after: g.add(kind, [x], name)


EMIT = {
    **{Conv2d: _convolution, LocalConv2d: _local, Linear: _dense},
    **{nn.ReLU: _plain("Relu"), nn.Tanh: _plain("Tanh"), nn.Sigmoid: _plain("Sigmoid"), Flatten: _plain("Flatten")},
    **{LocalResponseNorm: _response_norm, SpatialResponseNorm: _same_map_norm, Dropout: _dropout},
    **{MaxPool2d: _pool, nn.AvgPool2d: _pool, nn.BatchNorm2d: _batch_norm, BatchNorm1d: _batch_norm},
}
