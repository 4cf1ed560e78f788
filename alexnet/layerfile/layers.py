"""The layer types of the 2012 and 2014 files as modules: each takes the outputs of its inputs, (N, C, H, W) or (N, K).

Convolutions and dense layers hold one matrix per input in `weights` and sum what the inputs give. The mathematics is
the old tool's where it differs from PyTorch's: last windows hang over the edge, tied maxima all get the gradient,
averages divide by the pixels inside, contrast normalisation ignores that its mean depends on the input.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.kernels import dense, lrn, mask, pool
from alexnet.kernels.conv import conv2d
from alexnet.kernels.local import local2d
from alexnet.layerfile.geometry import sees
from alexnet.layerfile.records import Layer
from alexnet.layerfile.tree import Tree


def as_maps(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x as (N, *shape), with more channels where towers lie side by side; flat order is channel-major, as NCHW's."""
    if x.dim() == len(shape) + 1 and x.shape[2:] == shape[1:]:
        return x
    channels = prod(x.shape[1:]) // prod(shape[1:])
    return x.contiguous().reshape(len(x), channels, *shape[1:])


def _slots(shapes: list[tuple[int, ...]]) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.empty(shape)) for shape in shapes)


class Windows(nn.Module):
    """What convolutions of either kind share: filters over several inputs, groups, connections, one bias.

    weights[i]: conv (filters, seen, size, size); local (positions, groups, seen * size * size, filters / groups).
    bias: (filters,), or (filters, H, W) where positions do not share it.
    """

    def __init__(self, layer: Layer, in_shapes: list[tuple[int, int, int]], out_shape: tuple[int, int, int], seed: int):
        super().__init__()
        o, filters = layer.options, out_shape[0]
        self.in_shapes, self.out_shape, self.options = in_shapes, out_shape, o
        seen = [sees(layer, i) for i in range(len(in_shapes))]
        if layer.type == "local":
            rows = [n * s**2 for n, s in zip(seen, o["filtersize"], strict=True)]
            positions = prod(out_shape[1:])
            shapes = [(positions, g, n, filters // g) for g, n in zip(o["groups"], rows, strict=True)]
        else:
            shapes = [(filters, n, s, s) for n, s in zip(seen, o["filtersize"], strict=True)]
        self.weights = _slots(shapes)
        shared = o["sharedbiases"] and layer.type == "conv"
        self.bias = nn.Parameter(torch.empty(filters if shared else out_shape))
        generator = torch.Generator("cpu").manual_seed(seed)
        for i, n in enumerate(seen):
            if o["randsparse"][i]:
                self.register_buffer(f"connections{i}", _connections(o["channels"][i], o["groups"][i] * n, generator))

    def forward(self, *inputs: Tensor) -> Tensor:
        out = sum(self._one(i, self._padded(i, x)) for i, x in enumerate(inputs))
        return out + (self.bias if self.bias.dim() == 3 else self.bias[:, None, None])

    def _padded(self, i: int, x: Tensor) -> Tensor:
        before, after = self.edges(i)
        return F.pad(self.seen(i, x), (before, after, before, after))

    def seen(self, i: int, x: Tensor) -> Tensor:
        """Input i as the maps that the groups see, in their order."""
        x = as_maps(x, self.in_shapes[i])
        return x.index_select(1, getattr(self, f"connections{i}")) if self.options["randsparse"][i] else x

    def edges(self, i: int) -> tuple[int, int]:
        """How many zeros go left and above, as written, and right and below, as many as the last window needs."""
        o, before = self.options, self.options["padding"][i]
        span = (self.out_shape[1] - 1) * o["stride"][i] + o["filtersize"][i]
        return before, span - self.in_shapes[i][1] - before


class Conv(Windows):
    """Cross-correlation with groups; every group sees its own block of channels, or its own random draw of them."""

    def _one(self, i: int, x_nchw: Tensor) -> Tensor:
        o = self.options
        return conv2d(x_nchw, self.weights[i], None, o["stride"][i], groups=o["groups"][i])


class Local(Windows):
    """Own filters at every position."""

    def _one(self, i: int, x_nchw: Tensor) -> Tensor:
        o = self.options
        return local2d(x_nchw, self.weights[i], o["filtersize"][i], o["stride"][i])


def _connections(channels: int, length: int, generator: torch.Generator) -> Tensor:
    """Channel numbers for all groups: as many whole random permutations as `length` holds (randSparse)."""
    draws = [torch.randperm(channels, generator=generator, device="cpu") for _ in range(length // channels)]
    return torch.cat(draws)


class Dense(nn.Module):
    """fc: weights[i] (outputs, values of input i), bias (outputs,). treefc without its tree is the same."""

    def __init__(self, in_values: list[int], outputs: int):
        super().__init__()
        self.weights = _slots([(outputs, n) for n in in_values])
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, *inputs: Tensor) -> Tensor:
        flat = (x.contiguous().flatten(1) for x in inputs)
        return sum(dense.linear(x, w, None) for x, w in zip(flat, self.weights, strict=True)) + self.bias


class TreeDense(Dense):
    """treefc: a class's weights are the sum of those along its way from the root of a tree, its own among them.

    weights[0] (classes, inputs) are the classes' own; nodes[j] (nodes, inputs) those of all inner nodes that have
    leaves[j] classes under them, 0 at the start. One bias per class.
    """

    def __init__(self, in_values: list[int], tree: Tree):
        super().__init__(in_values, tree.classes)
        under = sorted(tree.nodes, key=len)
        self.leaves = sorted(set(map(len, under)))
        counts = [sum(len(node) == n for node in under) for n in self.leaves]
        self.nodes = nn.ParameterList(nn.Parameter(torch.zeros(count, in_values[0])) for count in counts)
        member = torch.zeros(tree.classes, len(under), device="cpu")
        for j, node in enumerate(under):
            member[list(node), j] = 1
        self.register_buffer("member", member, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        own, nodes = self.weights[0], torch.cat(list(self.nodes))
        return F.linear(x.contiguous().flatten(1), own + self.member.to(own.dtype) @ nodes, self.bias)


class MaxPool(torch.autograd.Function):
    """Maxima of size x size windows; every pixel equal to its window's maximum gets the whole gradient."""

    @staticmethod
    def forward(ctx, x_nchw: Tensor, size: int, stride: int) -> Tensor:
        y = F.max_pool2d(x_nchw, size, stride)
        ctx.save_for_backward(x_nchw, y)
        ctx.size, ctx.stride = size, stride
        return y

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None]:
        return pool.gradient(*ctx.saved_tensors, g, ctx.size, ctx.stride), None, None


class Pool(nn.Module):
    """max, avg (or sum), maxabs, rand over windows that are cut at the map's edge; `start` may lie outside.

    rand takes a random pixel of the window, in training and test alike, unless the parameter file says doMax.
    """

    def __init__(self, layer: Layer, in_shape: tuple[int, int, int], out_px: int):
        super().__init__()
        o = layer.options
        self.in_shape, self.size, self.stride, self.total = in_shape, o["sizex"], o["stride"], o["sum"]
        self.kind = "max" if o["pool"] == "rand" and layer.params.get("domax") else o["pool"]
        end = (out_px - 1) * o["stride"] + o["sizex"] + o["start"] - in_shape[1]
        self.padding = (-o["start"], end, -o["start"], end)
        first = torch.arange(o["start"], o["start"] + out_px * self.stride, self.stride)
        inside = (first + self.size).clamp(max=in_shape[1]) - first.clamp(min=0)
        self.register_buffer("inside", (inside[:, None] * inside).float(), persistent=False)  # pixels of each window

    def forward(self, x: Tensor) -> Tensor:
        x = as_maps(x, self.in_shape)
        if self.kind == "avg":
            sums = F.avg_pool2d(F.pad(x, self.padding), self.size, self.stride, divisor_override=1)
            return sums if self.total else sums / self.inside.to(x.dtype)
        low = torch.finfo(x.dtype).min
        if self.kind == "max":
            padded = F.pad(x, self.padding, value=low) if any(self.padding) else x
            return MaxPool.apply(padded, self.size, self.stride)
        keys = x.detach().abs() if self.kind == "maxabs" else torch.rand_like(x)
        places = F.max_pool2d(F.pad(keys, self.padding, value=-1.0), self.size, self.stride, return_indices=True)[1]
        return F.pad(x, self.padding).flatten(2).gather(2, places.flatten(2)).reshape(places.shape)


class Norm(nn.Module):
    """cmrnorm (over maps), rnorm (within a map), cnorm (within a map, around the window's mean)."""

    def __init__(self, layer: Layer, in_shape: tuple[int, int, int]):
        super().__init__()
        o = layer.options
        self.kind, self.blocked, self.in_shape = layer.type, o["blocked"], in_shape
        self.size, self.scale, self.pow, self.k = o["size"], o["scale"], o["pow"], o["mindiv"]

    def forward(self, x: Tensor) -> Tensor:
        x = as_maps(x, self.in_shape)
        if self.kind == "cmrnorm" and self.blocked:
            return blocked_response_norm(x, self.size, self.scale, self.pow, self.k)
        if self.kind == "cmrnorm":
            towers = x.shape[1] // self.in_shape[0]
            return lrn.local_response_norm(x, self.size, self.scale, self.pow, self.k, groups=towers)
        if self.kind == "rnorm":
            return lrn.spatial_response_norm(x, self.size, self.scale, self.pow, self.k)
        return contrast_norm(x, self.size, self.scale, self.pow, self.k)


def blocked_response_norm(x_nchw: Tensor, size: int, scale: float, power: float, k: float) -> Tensor:
    """Response norm where a channel's window is its block of `size` channels, the last one cut short."""
    channels = x_nchw.shape[1]
    padded = F.pad(x_nchw.square(), (0, 0, 0, 0, 0, -channels % size))
    sums = padded.unflatten(1, (-1, size)).sum(2).repeat_interleave(size, 1)[:, :channels]
    return x_nchw * (k + scale / size * sums) ** -power


def contrast_norm(x_nchw: Tensor, size: int, scale: float, power: float, k: float) -> Tensor:
    """x over a power of k + scale / size^2 times the window's squared distances from the local means.

    A mean divides by the pixels inside the map. The gradient takes the means for constants, as the old tool's did.
    """
    before, after = size // 2, size - 1 - size // 2
    edges = (before, after, before, after)

    def window_sums(values: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(values, edges), size, 1, divisor_override=1)

    means = window_sums(x_nchw.detach()) / window_sums(torch.ones_like(x_nchw[:1, :1]))
    return x_nchw * (k + scale / size**2 * window_sums((x_nchw - means).square())) ** -power


class Drop(nn.Module):
    """hs and dropout2 (masked in training, times `keep` otherwise, also when switched off) and dropout (inverted)."""

    def __init__(self, layer: Layer):
        super().__init__()
        self.keep, self.enable = layer.options["keep"], layer.params["enable"]
        self.inverted = layer.type == "dropout"

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.enable:
            return x * mask.draw(x, self.keep, 1 / self.keep if self.inverted else 1)
        return x if self.inverted else x * self.keep


class Sum(nn.Module):
    """eltsum: the inputs times their coefficients, added up."""

    def __init__(self, coefficients: tuple[float, ...], shape: tuple[int, ...]):
        super().__init__()
        self.coefficients, self.shape = coefficients, shape

    def forward(self, *inputs: Tensor) -> Tensor:
        return sum(c * as_maps(x, self.shape) for c, x in zip(self.coefficients, inputs, strict=True))


class Maximum(nn.Module):
    """eltmax: the largest of the inputs."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.stack([as_maps(x, self.shape) for x in inputs]).amax(0)


class Concat(nn.Module):
    """concat and pass: the inputs one after the other."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape

    def forward(self, *inputs: Tensor) -> Tensor:
        whole = len(self.shape) == 3
        return torch.cat([x if whole else x.contiguous().flatten(1) for x in inputs], 1)


class Softmax(nn.Module):
    """exp(x) / sum, over all values of an input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x.contiguous().flatten(1), 1)
