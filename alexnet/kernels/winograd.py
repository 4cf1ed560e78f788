"""Convolutions with stride 1 by Winograd's algorithm: fewer multiplications than the definition has, on the CPU.

    y = A^T [ (G w G^T) * (B^T x B) ] A          on tiles of 4 x 4 to 6 x 6 outputs, summed over the input channels

A 5 x 5 kernel takes 64 products a tile of 4 x 4 and pair of channels instead of 400, a 3 x 3 one 36 instead of 144,
49 instead of 225 for 5 x 5, or 64 instead of 324 for 6 x 6 (Lavin and Gray 2016). Each of these points is one matrix
product over all tiles (kernels/gemm.py). The gradients are the transposed maps. Only rounding differs from the
definition: a few times as much.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet.kernels import gemm, memory
from alexnet.kernels.compiled import flat
from alexnet.kernels.threads import over_rows
from alexnet.kernels.winograd_matrices import POINTS, matrices

LEAST_TILE_PX = 4  # smaller ones save too few products
CHUNK_BYTES = 96_000_000  # of points at a time: with more a step is hardly quicker


def conv2d(
    x_nchw: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int = 1, kept: dict | None = None
) -> Tensor:
    """torch.nn.functional.conv2d(x, weight, bias, padding=padding, groups=groups) of (N, C, H, W) float32 on the CPU,
    for square kernels of 3 or 5 pixels; channels_last. With `kept` nothing has a gradient, and the kernels' points stay
    in it until they change.
    """
    if kept is None:
        return _Winograd.apply(x_nchw, weight, bias, padding, groups)
    work = Work(x_nchw.shape, weight.shape, padding, groups)
    at_points = remembered(kept, weight, work.x.step, lambda: work.kernels_at_points(weight))
    return work.outputs(x_nchw.contiguous(memory_format=torch.channels_last), at_points, bias)


def remembered(kept: dict, weight: Tensor, kind: object, make: Callable[[], Tensor]) -> Tensor:
    """What was made of a weight, of some kind, as long as the weight has the same numbers, which are looked at: there
    are many ways to change them that nothing tells of. Other threads may be here too.
    """
    dense = weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
    key = (kind, weight.shape, weight.stride(), zlib.crc32(flat(weight if dense else weight.contiguous())))
    made = kept.get(key)
    if made is None:
        with torch.inference_mode(False):  # an ordinary tensor, which may be copied anywhere
            made = make()
        kept.clear()
        kept[key] = made
    return made


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        work = Work(x.shape, weight.shape, padding, groups)
        at_points = work.kernels_at_points(weight)
        ctx.save_for_backward(x, at_points)
        ctx.work = work
        return work.outputs(x, at_points, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple:
        x, at_points = ctx.saved_tensors
        wants_dx, wants_dweight, wants_dbias, *_ = ctx.needs_input_grad
        g = g.contiguous(memory_format=torch.channels_last)
        dx, dweight = ctx.work.gradients(x, at_points, g, wants_dx, wants_dweight)
        return dx, dweight, g.sum((0, 2, 3)) if wants_dbias else None, None, None


class Work:
    """The passes of one convolution over its pictures, some pictures at a time.

    Tensors at points are (points * groups, tiles, channels of a group): a batch of matrices.
    """

    def __init__(self, x_shape: torch.Size, weight_shape: torch.Size, padding: int, groups: int):
        from alexnet.kernels.winograd_numba import Tiling  # imports numba: only when first needed

        _, channels, *sides = x_shape
        maps, self.group_channels, self.kernel_px, _ = weight_shape
        out_sides = [side + 2 * padding - self.kernel_px + 1 for side in sides]
        tile_px, self.side, *tiles = _tiles(self.kernel_px, *out_sides)
        self.groups = groups
        self.x = Tiling(*sides, channels, groups, padding, self.side, tile_px, *tiles, self.side)
        self.y = Tiling(*out_sides, maps, groups, 0, tile_px, tile_px, *tiles, self.side)
        numbers = matrices(tile_px, self.kernel_px)
        self.a, self.b = numbers.outputs, numbers.inputs
        self.g = torch.from_numpy(np.kron(numbers.kernels, numbers.kernels)).float()  # from both sides at once

    def kernels_at_points(self, weight: Tensor) -> Tensor:
        """(points * groups, maps of a group, channels of a group)."""
        taps = weight.detach().permute(2, 3, 0, 1).reshape(self.kernel_px**2, -1)
        return (self.g @ taps).view(self.side**2 * self.groups, -1, self.group_channels)

    def _kernel_gradient(self, at_points: Tensor) -> Tensor:
        """The transpose of `kernels_at_points`."""
        taps = self.g.T @ at_points.view(self.side**2, -1)
        return taps.view(self.kernel_px, self.kernel_px, -1, self.group_channels).permute(2, 3, 0, 1)

    def outputs(self, x: Tensor, at_points: Tensor, bias: Tensor) -> Tensor:
        y = _maps(len(x), self.y)
        for chunk in self._chunks(len(x)):
            v = self._to_points(x[chunk], self.x, self.b)
            m = memory.empty((*v.shape[:2], at_points.shape[1]), v.dtype)
            gemm.batched(v, at_points.transpose(1, 2), m)
            self._from_points(m, y[chunk], self.y, self.a, bias)
        return y

    def gradients(self, x: Tensor, at_points: Tensor, g: Tensor, wants_dx: bool, wants_dweight: bool) -> tuple:
        """(gradient at x, gradient at the kernels), None where it is not wanted."""
        dx, total, no_bias = _maps(len(x), self.x), torch.zeros_like(at_points), g.new_zeros(self.x.channels)
        for chunk in self._chunks(len(x)):
            m, v = self._to_points(g[chunk], self.y, self.a.T), None
            if wants_dweight:
                v = self._to_points(x[chunk], self.x, self.b)  # again: that is cheaper than to keep it
                gemm.batched(m.transpose(1, 2), v, total, add=True)
            if wants_dx:
                if v is None:  # else its memory is in cache
                    v = memory.empty((*m.shape[:2], self.group_channels), m.dtype)
                gemm.batched(m, at_points, v)
                self._from_points(v, dx[chunk], self.x, self.b.T, no_bias)
        return dx if wants_dx else None, self._kernel_gradient(total) if wants_dweight else None

    def _chunks(self, pictures: int) -> list[slice]:
        bytes_each = 4 * self.side**2 * self.x.rows * self.x.columns * (self.x.channels + self.y.channels)
        threads = torch.get_num_threads()
        size = max(CHUNK_BYTES // bytes_each // threads, 1) * threads
        return [slice(i, min(i + size, pictures)) for i in range(0, pictures, size)]

    def _to_points(self, maps: Tensor, tiling, matrix: np.ndarray) -> Tensor:
        from alexnet.kernels import winograd_numba

        tiles = len(maps) * tiling.rows * tiling.columns
        sizes = (self.side**2 * tiling.groups, tiles, tiling.channels // tiling.groups)
        points = memory.empty(sizes, torch.float32)
        arrays, matrix = (flat(maps), flat(points)), _even(matrix)
        over_rows(lambda first, last: winograd_numba.to_points(*arrays, first, last, tiling, matrix), len(maps))
        return points

    def _from_points(self, points: Tensor, maps: Tensor, tiling, matrix: np.ndarray, bias: Tensor) -> None:
        """Writes into `maps`, where tiles overlap their sums."""
        from alexnet.kernels import winograd_numba

        arrays, bias, matrix = (flat(points), flat(maps)), flat(bias), _even(matrix)
        over_rows(lambda first, last: winograd_numba.from_points(*arrays, first, last, tiling, matrix, bias), len(maps))


def _tiles(kernel_px: int, *out_sides: int) -> tuple[int, int, int, int]:
    """(outputs along a tile's side, its points, rows, columns) with the fewest points in all."""
    found = []
    for tile_px in (tile for tile, kernel in POINTS if kernel == kernel_px and tile >= LEAST_TILE_PX):
        side, tiles = tile_px + kernel_px - 1, [-(-extent // tile_px) for extent in out_sides]
        found.append((side**2 * tiles[0] * tiles[1], (tile_px, side, *tiles)))
    return min(found)[1]


def _even(matrix: np.ndarray) -> np.ndarray:
    """float32, with a column of zeros where their number is odd: the compiled sums have 4, 6 or 8 terms. Row by row in
    memory, also of a transposed one: the loops would be compiled once more for another order.
    """
    return np.pad(matrix, ((0, 0), (0, matrix.shape[1] % 2))).astype(np.float32, order="C")


def _maps(pictures: int, tiling) -> Tensor:
    sizes = (pictures, tiling.channels, tiling.height, tiling.width)
    return memory.empty(sizes, torch.float32, torch.channels_last)
