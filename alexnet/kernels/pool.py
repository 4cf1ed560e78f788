"""The doors to max pooling: `max_pool`, on a GPU by kernels of our own, and the `gradient` of 2012.

In 2012 every pixel equal to its window's maximum got all of the gradient; PyTorch gives it to one of them. The two
differ where maxima are tied: flat patches of a picture, the zeros behind a ReLU, and numbers rounded to bfloat16.
"""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.kernels import gpu
from alexnet.kernels.threads import over_rows

COMPILED_TYPES = (torch.float32, torch.bfloat16)


def max_pool(x_nchw: Tensor, size: int, stride: int, ceil: bool = False) -> Tensor:
    """As torch.nn.functional.max_pool2d without padding, of (N, C, H, W); the first of equal maxima gets the gradient
    (paper, section 3.4). Kernels of our own where the pictures are on a GPU: a byte an output
    is kept for the gradient, where PyTorch keeps eight.
    """
    if x_nchw.device.type != "cuda" or x_nchw.dtype not in COMPILED_TYPES or gpu.obstacle(x_nchw.device):
        return F.max_pool2d(x_nchw, size, stride, ceil_mode=ceil)
    return on_gpu(x_nchw, size, stride, ceil)


def on_gpu(x_nchw: Tensor, size: int, stride: int, ceil: bool = False) -> Tensor:
    """`max_pool` by the kernels of pool_triton; channels_last."""
    from alexnet.kernels import pool_triton  # imports triton: only when first needed

    sides = [pooled_px(extent, size, stride, ceil) for extent in x_nchw.shape[2:]]
    return pool_triton.max_pool(x_nchw.movedim(1, -1).contiguous(), size, stride, *sides)[0].movedim(-1, 1)


def pooled_px(side_px: int, size: int, stride: int, ceil: bool) -> int:
    """Windows along a side; with `ceil` also a last one that hangs over the edge, as PyTorch counts them."""
    steps = (side_px - size) / stride
    windows = (math.ceil(steps) if ceil else math.floor(steps)) + 1
    return windows - (ceil and (windows - 1) * stride >= side_px)


def chosen(x: Tensor) -> tuple[str, str]:
    """(backend, reason) for maps like x."""
    if x.device.type != "cpu":
        return "reference", f"the compiled loop runs on the CPU, not on {x.device.type}"
    if x.dtype not in COMPILED_TYPES:
        return "reference", f"the compiled loop takes float32 and bfloat16, not {x.dtype}"
    return ("numba", "one compiled pass") if find_spec("numba") else ("reference", "numba is not installed")


def gradient(x_nchw: Tensor, y_nchw: Tensor, g_nchw: Tensor, size: int, stride: int) -> Tensor:
    """2012's gradient at x (N, C, H, W) from that at its window maxima y (N, C, H', W'), channels_last if compiled.
    Windows are size x size pixels, every `stride` pixels, all inside the map.
    """
    if chosen(x_nchw)[0] == "reference":
        return reference(x_nchw, y_nchw, g_nchw, size, stride)
    from alexnet.kernels import pool_numba
    from alexnet.kernels.compiled import flat

    n, c, h, w = x_nchw.shape
    x, y, g = (t.movedim(1, -1).contiguous() for t in (x_nchw, y_nchw, g_nchw.to(x_nchw.dtype)))
    dx = torch.empty_like(x)
    arrays, numbers = [flat(t) for t in (x, y, g, dx)], (h, w, c, *y.shape[1:3], size, stride)
    over_rows(lambda first, last: pool_numba.gradient(*arrays, first, last, *numbers), n * h)
    return dx.movedim(-1, 1)


def reference(x_nchw: Tensor, y_nchw: Tensor, g_nchw: Tensor, size: int, stride: int) -> Tensor:
    """The same in plain PyTorch, any device and type."""
    dx, (h, w), step = torch.zeros_like(x_nchw), y_nchw.shape[2:], stride
    for row in range(size):
        for column in range(size):  # the pixels that have this place in their windows
            rows, columns = (
                slice(row, row + step * h - step + 1, step),
                slice(column, column + step * w - step + 1, step),
            )
            dx[..., rows, columns] += g_nchw * (x_nchw[..., rows, columns] == y_nchw)
    return dx
