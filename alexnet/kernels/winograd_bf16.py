"""Convolutions with stride 1 in bfloat16 by Winograd's algorithm, on CPUs with AVX-512 BF16 and no matrix units.

A tile of 2 x 2 outputs takes 16 products for a kernel of 3 x 3 instead of 36, and 49 for one of 5 x 5 instead of 100.
What is multiplied is rounded to bfloat16 once more, at the tile's points, which adds an error about twice that of
rounding the maps themselves. The gradient of the maps is a convolution with the kernels turned round; that of the
kernels sums over tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet.kernels import memory
from alexnet.kernels import winograd_bf16_kernels as at_points
from alexnet.kernels import winograd_bf16_numba as loops
from alexnet.kernels.compiled import flat
from alexnet.kernels.threads import over_rows
from alexnet.kernels.winograd import remembered
from alexnet.kernels.winograd_matrices import products

CHUNK_BYTES = 12_000_000  # of pairs at a time, for a kernel's gradient: what fits the last cache


def conv2d(
    x_nchw: Tensor,
    weight: Tensor,
    bias: Tensor,
    padding: int,
    groups: int = 1,
    kept: dict | None = None,
    rectified: bool = False,
) -> Tensor:
    """torch.nn.functional.conv2d(x, weight, bias, padding=padding, groups=groups) of (N, C, H, W) bfloat16 on the CPU,
    for square kernels of 3 or 5 pixels and more than `padding`, 16 channels or a multiple on both sides of a group;
    channels_last. With `kept` nothing has a gradient, and the kernels' points stay in it until they change. With
    `rectified` ReLU of it.
    """
    if kept is None:
        return _Winograd.apply(x_nchw, weight, bias, padding, groups, rectified)
    panels = remembered(kept, weight, "bfloat16", lambda: _panels(weight, groups))
    x = x_nchw.contiguous(memory_format=torch.channels_last)
    return _outputs(x, panels, weight.shape, bias, padding, groups, rectified=rectified)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int, rectified: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        y = _outputs(x, _panels(weight, groups), weight.shape, bias, padding, groups, rectified=rectified)
        ctx.save_for_backward(x, weight, *([y] if rectified else []))
        ctx.padding, ctx.groups = padding, groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple:
        x, weight, *mask = ctx.saved_tensors
        mask = mask[0] if mask else None
        wants_dx, wants_dweight, wants_dbias, *_ = ctx.needs_input_grad
        g = g.contiguous(memory_format=torch.channels_last)
        dx = dweight = dbias = None
        if wants_dx:
            padding, no_bias = weight.shape[2] - 1 - ctx.padding, g.new_zeros(x.shape[1])
            sizes = (x.shape[1], len(weight) // ctx.groups, *weight.shape[2:])
            dx = _outputs(g, _panels(weight, ctx.groups, turned=True), sizes, no_bias, padding, ctx.groups, mask)
        if wants_dweight or wants_dbias:
            dweight, dbias = _Gradient(x, g, weight.shape, ctx.padding, ctx.groups, mask).sums()
        return dx, dweight, dbias, None, None, None


def _panels(weight: Tensor, groups: int, turned: bool = False) -> Tensor:
    """Kernels at points: (groups, panels, products, channels / 2, maps of a panel) of pairs. `turned`: those of the
    gradient at the inputs, turned round and from maps to channels.
    """
    weight = weight.detach().contiguous(memory_format=torch.channels_last)
    maps, channels, side, _ = weight.shape
    maps, each = maps // groups, side * side * channels
    if turned:
        apart, maps, channels = (maps * each, 1, each, -channels, each - channels), channels, maps
    else:
        apart = maps * each, each, 1, channels, 0
    kernels = at_points.Kernels(groups, maps, channels, side, loops.CHANNELS * _vectors(maps), *apart)
    blocks, number = groups * -(-maps // kernels.width) * (channels // loops.CHANNELS), len(products(side))
    panels = memory.empty((blocks * loops.CHANNELS // 2 * number * kernels.width,), torch.int32)
    arrays = flat(weight), panels.numpy().view(np.uint32)
    over_rows(lambda first, last: at_points.to_panels(*arrays, first, last, kernels, number), blocks)
    return panels


def _vectors(maps: int) -> int:
    """3 or 4 of a panel: what leaves less of the last one empty."""
    return min((4, 3), key=lambda wide: -(-maps // (loops.CHANNELS * wide)) * wide)


@lru_cache
def _sum_of(kernel_px: int) -> np.ndarray:
    """Of every product, the sum to which it is added."""
    return np.array([product.sum for product in products(kernel_px)])


def _outputs(
    x: Tensor,
    panels: Tensor,
    sizes: Sequence[int],
    bias: Tensor,
    padding: int,
    groups: int,
    mask: Tensor | None = None,
    rectified: bool = False,
) -> Tensor:
    """The convolution of x, of which counts what has no mask of 0, with kernels of `sizes` (maps, channels of a group,
    side, side), at points; `rectified` or not.
    """
    maps, _, kernel_px, _ = sizes
    height, width = (side + 2 * padding - kernel_px + 1 for side in x.shape[2:])
    y = memory.empty((len(x), maps, height, width), x.dtype, torch.channels_last)
    inputs, out = _tiling(x, y, groups, padding, kernel_px), _tiling(y, y, groups, 0, kernel_px)
    firsts = np.cumsum([0, *np.bincount(_sum_of(kernel_px))])
    arrays = *_masked(x, mask), flat(panels.view(x.dtype)), firsts, flat(bias.float()), flat(y)
    strips, wide = -(-len(x) * inputs.rows // inputs.strip), _vectors(maps // groups)
    over_rows(lambda first, last: loops.convolve(*arrays, rectified, first, last, inputs, out, wide), strips)
    return y


def _masked(x: Tensor, mask: Tensor | None) -> tuple[np.ndarray, np.ndarray, bool]:
    """As the loops take it: x, its mask or anything in its place, and whether there is one."""
    return flat(x), flat(x if mask is None else mask), mask is not None


def _tiling(maps: Tensor, y: Tensor, groups: int, padding: int, kernel_px: int) -> loops.Maps:
    """How maps are read: those of the inputs in windows, or the outputs themselves (`maps` is y)."""
    pictures, channels, height, width = maps.shape
    rows, columns = (-(-side // loops.TILE_PX) for side in y.shape[2:])
    window = loops.TILE_PX if maps is y else loops.TILE_PX + kernel_px - 1
    strip = max(loops.STRIP_TILES // max(columns, 1), 1)
    return loops.Maps(pictures, height, width, channels // groups, groups, padding, window, rows, columns, strip)


class _Gradient:
    """The gradients at kernels of `sizes` and at the biases, from inputs x and the gradient g of the outputs, of which
    counts what has no mask of 0.
    """

    def __init__(self, x: Tensor, g: Tensor, sizes: torch.Size, padding: int, groups: int, mask: Tensor | None):
        self.x, self.g, self.mask, self.sizes, self.groups = x, g, mask, sizes, groups
        maps, self.channels, self.kernel_px, _ = sizes
        self.inputs, self.out = (_tiling(t, g, groups, pad, self.kernel_px) for t, pad in ((x, padding), (g, 0)))
        self.sum_of, self.wide = _sum_of(self.kernel_px), _vectors(maps // groups)
        self.width = loops.CHANNELS * self.wide
        self.panels = -(-maps // groups // self.width)  # of a group
        self.row_pairs = -(-len(x) * self.inputs.rows // 2)

    def sums(self) -> tuple[Tensor, Tensor]:
        """(gradient at the kernels, at the biases); pairs of rows of tiles come by chunks."""
        x, g, panels, channels = self.x, self.g, self.groups * self.panels, self.channels
        numbers = len(self.sum_of) * self.groups * channels, loops.SUMS * panels * self.width  # of x and g, a pair
        chunk = max(min(CHUNK_BYTES // (4 * self.inputs.columns * sum(numbers)), self.row_pairs), 1)
        count = chunk * self.inputs.columns | 1  # odd: points a power of two apart would share few places of a cache
        tall = loops.tall_of(channels, self.wide)
        x_pairs, g_pairs = np.empty(numbers[0] * count + tall, np.uint32), np.empty(numbers[1] * count, np.uint32)
        totals = np.zeros(len(self.sum_of) * panels * tall * self.width, np.float32)
        biases = np.zeros((self.row_pairs, g.shape[1]), np.float32)
        arrays = (*_masked(x, None), x_pairs, biases.ravel()), (*_masked(g, self.mask), g_pairs, biases.ravel())
        for begin in range(0, self.row_pairs, chunk):
            used = min(chunk, self.row_pairs - begin)

            def pair(first: int, last: int, begin=begin) -> None:
                loops.to_pairs(*arrays[0], first, last, begin, self.inputs, self.wide, count)
                loops.to_pairs(*arrays[1], first, last, begin, self.out, self.wide, count)

            def multiply(first: int, last: int, begin=begin, used=used) -> None:
                settings = channels, self.panels, count, used * self.inputs.columns, self.wide, begin > 0
                loops.kernel_sums(x_pairs, g_pairs, self.sum_of, totals, first, last, *settings)

            over_rows(pair, used)
            over_rows(multiply, len(self.sum_of) * panels)
        return self._at_taps(totals, tall), torch.from_numpy(biases).sum(0).to(g.dtype)

    def _at_taps(self, totals: np.ndarray, tall: int) -> Tensor:
        """From the products' sums to the kernels."""
        maps, channels, side, _ = self.sizes
        gradient = torch.empty(self.sizes, dtype=self.g.dtype, memory_format=torch.channels_last)
        maps, each = maps // self.groups, side * side * channels
        kernels = at_points.Kernels(self.groups, maps, channels, side, self.width, maps * each, each, 1, channels, 0)
        blocks, number = self.groups * self.panels * (channels // loops.CHANNELS), len(self.sum_of)
        arrays = totals, flat(gradient)
        over_rows(lambda first, last: at_points.from_sums(*arrays, first, last, tall, kernels, number), blocks)
        return gradient
