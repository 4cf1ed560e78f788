"""The door to the gradient of max pooling as in 2012: every pixel equal to its window's maximum gets all of it.

PyTorch gives it to one of them. The two differ where maxima are tied: flat patches of a picture, the zeros behind a
ReLU, and numbers rounded to bfloat16. Windows are size x size pixels, every `stride` pixels, all inside the map.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from alexnet.kernels.threads import over_rows

COMPILED_TYPES = (torch.float32, torch.bfloat16)


def chosen(x: Tensor) -> tuple[str, str]:
    """(backend, reason) for maps like x."""
    if x.device.type != "cpu":
        return "reference", f"the compiled loop runs on the CPU, not on {x.device.type}"
    if x.dtype not in COMPILED_TYPES:
        return "reference", f"the compiled loop takes float32 and bfloat16, not {x.dtype}"
    return ("numba", "one compiled pass") if find_spec("numba") else ("reference", "numba is not installed")


def gradient(x_nchw: Tensor, y_nchw: Tensor, g_nchw: Tensor, size: int, stride: int) -> Tensor:
    """The gradient at x (N, C, H, W) from that at its window maxima y (N, C, H', W'), channels_last if compiled."""
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
