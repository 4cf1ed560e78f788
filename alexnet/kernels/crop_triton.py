"""Crop, resize, mirror, mean, light and scale as one Triton kernel, from squares that are kept on the GPU; see crop.py.

A program makes BLOCK of a picture's crop * crop * 3 numbers. What differs from picture to picture comes as a row of
nine int32: which square, top, left, mirror, height, width, and the bits of three float32 colour shifts.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.elementwise_triton import rounded
from alexnet.kernels.gpu import BLOCK, on


@triton.jit
def _neighbours(i, side, CROP: tl.constexpr):
    """resized_crop.neighbour: two source pixels, and what the second weighs in 256ths."""
    place = tl.maximum((2 * i + 1) * side - CROP, 0)
    first = place // (2 * CROP)
    return first, tl.minimum(first + 1, side - 1), (place % (2 * CROP) * 256 + CROP) // (2 * CROP)


@triton.jit
def _cut(
    squares,
    drawn,
    mean,
    scales,
    out,
    SIZE: tl.constexpr,
    CROP: tl.constexpr,
    RESIZED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    picture = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < 3 * CROP * CROP
    y, x, colour = i // (3 * CROP), i // 3 % CROP, i % 3
    row = drawn + picture * 9
    square, top, left, mirror = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    x = tl.where(mirror != 0, CROP - 1 - x, x)
    corner = squares + square.to(tl.int64) * (3 * SIZE * SIZE) + (top * SIZE + left) * 3 + colour
    if RESIZED:
        upper, lower, down = _neighbours(y, tl.load(row + 4), CROP)
        near, far, right = _neighbours(x, tl.load(row + 5), CROP)
        above = tl.load(corner + (upper * SIZE + near) * 3, mask=inside).to(tl.int32) * (256 - right)
        above += tl.load(corner + (upper * SIZE + far) * 3, mask=inside).to(tl.int32) * right
        below = tl.load(corner + (lower * SIZE + near) * 3, mask=inside).to(tl.int32) * (256 - right)
        below += tl.load(corner + (lower * SIZE + far) * 3, mask=inside).to(tl.int32) * right
        pixel = (above * (256 - down) + below * down + 32768) >> 16
    else:
        pixel = tl.load(corner + (y * SIZE + x) * 3, mask=inside)
    shift = tl.load(row + 6 + colour, mask=inside).to(tl.float32, bitcast=True)
    value = pixel.to(tl.float32) - tl.load(mean + i, mask=inside) + shift
    value = value * tl.load(scales + colour, mask=inside)
    tl.store(out + picture * (3 * CROP * CROP) + i, rounded(value, out), mask=inside)


def cut(
    squares_mhwc: Tensor, drawn_n9: Tensor, mean_hwc: Tensor, scales: Tensor, out_nhwc: Tensor, resized: bool = False
) -> None:
    """uint8 (M, S, S, 3), int32 (N, 9), float32 (crop, crop, 3) and (3,) to float32 or bfloat16 (N, crop, crop, 3)."""
    count, crop = out_nhwc.shape[:2]
    if count:
        grid = (count, triton.cdiv(3 * crop * crop, BLOCK))
        with on(out_nhwc.device):
            _cut[grid](squares_mhwc, drawn_n9, mean_hwc, scales, out_nhwc, squares_mhwc.shape[1], crop, resized, BLOCK)
