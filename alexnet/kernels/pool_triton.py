"""Max pooling as Triton kernels, channels last, float32 and bfloat16; see pool.py.

Forward keeps one byte an output: the place of its maximum in the window, the first one among equals, as PyTorch takes
it. Backward asks, for every pixel, the few windows that hold it: nothing is added atomically. NaN is a maximum. To
torch.compile each direction is one operation of its graph.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.elementwise_triton import numbers_of, rounded
from alexnet.kernels.gpu import BLOCK, on, wide


@triton.jit
def _places(i, channels: tl.constexpr, breadth: tl.constexpr, height: tl.constexpr):
    """(picture, row, column, channel) of number i of a map."""
    pixel = i // channels
    return pixel // (height * breadth), pixel // breadth % height, pixel % breadth, i % channels


@triton.jit
def _forward(
    x, y, places, n,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr,
    SIZE: tl.constexpr, STRIDE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = numbers_of(BLOCK, WIDE)
    picture, row, column, channel = _places(i, C, OW, OH)
    best = tl.full(i.shape, float("-inf"), tl.float32)
    place = tl.zeros(i.shape, tl.int32)
    for u in tl.static_range(SIZE):
        for v in tl.static_range(SIZE):
            h, w = row * STRIDE + u, column * STRIDE + v
            there = ((picture * H + h) * W + w) * C + channel
            value = tl.load(x + there, mask=(i < n) & (h < H) & (w < W), other=float("-inf")).to(tl.float32)
            larger = (value > best) | (value != value)
            best, place = tl.where(larger, value, best), tl.where(larger, u * SIZE + v, place)
    tl.store(y + i, rounded(best, y), mask=i < n)
    tl.store(places + i, place.to(tl.uint8), mask=i < n)


@triton.jit
def _backward(
    g, places, dx, n,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr,
    SIZE: tl.constexpr, STRIDE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = numbers_of(BLOCK, WIDE)
    picture, row, column, channel = _places(i, C, W, H)
    windows: tl.constexpr = (SIZE + STRIDE - 1) // STRIDE  # along an axis, that can hold one pixel
    total = tl.zeros(i.shape, tl.float32)
    for a in tl.static_range(windows):
        oh = row // STRIDE - a
        u = row - oh * STRIDE
        in_rows = (i < n) & (oh >= 0) & (oh < OH) & (u < SIZE)
        for b in tl.static_range(windows):
            ow = column // STRIDE - b
            v = column - ow * STRIDE
            holds = in_rows & (ow >= 0) & (ow < OW) & (v < SIZE)
            there = ((picture * OH + oh) * OW + ow) * C + channel
            mine = tl.load(places + there, mask=holds, other=255).to(tl.int32) == u * SIZE + v
            total += tl.where(mine, tl.load(g + there, mask=holds, other=0.0).to(tl.float32), 0.0)
    tl.store(dx + i, rounded(total, dx), mask=i < n)


@torch.library.custom_op("alexnet::max_pool", mutates_args=())
def max_pool(x_nhwc: Tensor, size: int, stride: int, out_h: int, out_w: int) -> tuple[Tensor, Tensor]:
    """(y (N, out_h, out_w, C), uint8 place of each maximum in its window) of a dense (N, H, W, C)."""
    y, places = _outputs(x_nhwc, size, stride, out_h, out_w)
    if y.numel():
        _, h, w, c = x_nhwc.shape
        with on(x_nhwc.device):
            sizes = (c, h, w, out_h, out_w, size, stride, wide(x_nhwc))
            _forward[_grid(y)](x_nhwc, y, places, y.numel(), *sizes, BLOCK)
    return y, places


@torch.library.custom_op("alexnet::max_pool_gradient", mutates_args=())
def gradient(g_nhwc: Tensor, places: Tensor, size: int, stride: int, h: int, w: int) -> Tensor:
    """The gradient at x (N, h, w, C) from that at y."""
    n, out_h, out_w, c = g_nhwc.shape
    dx = g_nhwc.new_empty((n, h, w, c))
    if dx.numel():
        with on(g_nhwc.device):
            sizes = (c, h, w, out_h, out_w, size, stride, wide(dx))
            _backward[_grid(dx)](g_nhwc, places, dx, dx.numel(), *sizes, BLOCK)
    return dx


def _outputs(x_nhwc: Tensor, size: int, stride: int, out_h: int, out_w: int) -> tuple[Tensor, Tensor]:
    shape = (x_nhwc.shape[0], out_h, out_w, x_nhwc.shape[3])
    return x_nhwc.new_empty(shape), x_nhwc.new_empty(shape, dtype=torch.uint8)


def _keep(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, ctx.size, ctx.stride, *_ = inputs
    ctx.h, ctx.w = x.shape[1:3]
    ctx.save_for_backward(output[1])


def _gradients(ctx, g: Tensor, _) -> tuple:
    return gradient(g.contiguous(), *ctx.saved_tensors, ctx.size, ctx.stride, ctx.h, ctx.w), None, None, None, None


max_pool.register_fake(_outputs)
gradient.register_fake(lambda g, places, size, stride, h, w: g.new_empty((g.shape[0], h, w, g.shape[3])))
max_pool.register_autograd(_gradients, setup_context=_keep)


def _grid(t: Tensor) -> tuple[int]:
    return (triton.cdiv(t.numel(), BLOCK),)
