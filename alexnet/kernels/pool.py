"""The doors to max pooling: `max_pool`, which keeps little for its gradient, and the `gradient` of 2012.

In 2012 every pixel equal to its window's maximum got all of the gradient; PyTorch gives it to one of them. The two
differ where maxima are tied: flat patches of a picture, the zeros behind a ReLU, and numbers rounded to bfloat16.
"""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet.kernels import gpu, memory, plain
from alexnet.kernels.threads import COMPILED_TYPES, over_rows

LARGEST_MAP = 2**15  # pixels that int16 can number


def max_pool(x_nchw: Tensor, size: int, stride: int, ceil: bool = False, rectified: bool = False) -> Tensor:
    """As torch.nn.functional.max_pool2d without padding, of (N, C, H, W); the first of equal maxima gets the gradient
    (paper, section 3.4). PyTorch keeps x for it and eight bytes an output; here it is two on a CPU, one on a GPU.
    `rectified`: and ReLU of it, in the same pass where there is one.
    """
    if x_nchw.device.type == "cuda" and x_nchw.dtype in COMPILED_TYPES and not gpu.obstacle(x_nchw.device):
        y = on_gpu(x_nchw, size, stride, ceil)
    elif _keeps_little(x_nchw):
        if _has_forward_loop(x_nchw):
            return _Lean.apply(x_nchw, size, stride, ceil, rectified)
        y = _Lean.apply(x_nchw, size, stride, ceil, False)
    else:
        y = F.max_pool2d(x_nchw, size, stride, ceil_mode=ceil)
    return F.relu(y, inplace=not y.is_cuda) if rectified else y  # memory counts on a CPU; a GPU's kernels give views


def _keeps_little(x_nchw: Tensor) -> bool:
    """Whether there is a gradient to keep something for, and places in a map fit into two bytes."""
    if plain.reason():
        return False
    wants_gradient = torch.is_grad_enabled() and x_nchw.requires_grad
    return wants_gradient and x_nchw.device.type == "cpu" and math.prod(x_nchw.shape[2:]) <= LARGEST_MAP


def on_gpu(x_nchw: Tensor, size: int, stride: int, ceil: bool = False) -> Tensor:
    """`max_pool` by the kernels of pool_triton; channels_last."""
    from alexnet.kernels import pool_triton  # imports triton: only when first needed

    sides = [pooled_px(extent, size, stride, ceil) for extent in x_nchw.shape[2:]]
    return pool_triton.max_pool(x_nchw.movedim(1, -1).contiguous(), size, stride, *sides)[0].movedim(-1, 1)


def _has_forward_loop(x_nchw: Tensor) -> bool:
    return x_nchw.dtype == torch.bfloat16 and _memory_format(x_nchw) == torch.channels_last


class _Lean(torch.autograd.Function):
    """x is not kept for the gradient, and a place in its map takes two bytes instead of PyTorch's eight. By compiled
    loops, channels_last, where they are the faster ones, which in float32 they are backward alone; else by PyTorch's.
    """

    @staticmethod
    def forward(ctx, x_nchw: Tensor, size: int, stride: int, ceil: bool, rectified: bool) -> Tensor:
        ctx.shape, ctx.format = x_nchw.shape, _memory_format(x_nchw)
        ctx.numbers = [size, size], [stride, stride], [0, 0], [1, 1], ceil
        if _has_forward_loop(x_nchw):
            y, places = _pooled(x_nchw, size, stride, ceil, rectified)
        else:
            y, places = F.max_pool2d_with_indices(x_nchw, size, stride, ceil_mode=ceil)
        ctx.save_for_backward(places.to(torch.int16))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g_nchw: Tensor) -> tuple:
        (places,) = ctx.saved_tensors
        dx = memory.empty(ctx.shape, g_nchw.dtype, ctx.format)  # stands for x: its shape counts
        if dx.dtype in COMPILED_TYPES and ctx.format == torch.channels_last:
            _collect(places, g_nchw, dx, ctx.numbers[0][0], ctx.numbers[1][0])
            return dx, None, None, None, None
        torch.ops.aten.max_pool2d_with_indices_backward(g_nchw, dx, *ctx.numbers, places.long(), grad_input=dx)
        return dx, None, None, None, None


def _pooled(x_nchw: Tensor, size: int, stride: int, ceil: bool, rectified: bool) -> tuple[Tensor, Tensor]:
    """(y, places of its numbers in their maps, int16) of x, channels_last; where `rectified`, a 0 is from nowhere."""
    from alexnet.kernels import pool_numba
    from alexnet.kernels.compiled import flat

    n, c, h, w = x_nchw.shape
    sides = [pooled_px(extent, size, stride, ceil) for extent in (h, w)]
    y, places = (memory.empty((n, c, *sides), dtype, torch.channels_last) for dtype in (x_nchw.dtype, torch.int16))
    arrays = [flat(t) for t in (x_nchw, y, places)]
    numbers = h, w, c, *sides, size, stride, rectified
    over_rows(lambda a, b: pool_numba.max_pool(*arrays, a, b, *numbers), n * sides[0])
    return y, places


def _collect(places_nchw: Tensor, g_nchw: Tensor, dx_nchw: Tensor, size: int, stride: int) -> None:
    """Fills dx, channels_last, from the windows' maxima; summed in float32."""
    from alexnet.kernels import pool_numba
    from alexnet.kernels.compiled import flat

    arrays = [flat(t.contiguous(memory_format=torch.channels_last)) for t in (places_nchw, g_nchw, dx_nchw)]
    (n, c, h, w), outputs = dx_nchw.shape, places_nchw.shape[2:]
    over_rows(lambda a, b: pool_numba.gradient_at_places(*arrays, a, b, h, w, c, *outputs, size, stride), n * h)


def _memory_format(x: Tensor) -> torch.memory_format:
    last = torch.channels_last
    return last if x.is_contiguous(memory_format=last) else torch.contiguous_format


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
    dx = memory.empty_like(x)
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
