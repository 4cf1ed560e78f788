"""The response norms as Triton kernels, one program for BLOCK numbers, float32 and bfloat16; see lrn.py.

    y = x * (k + a * window_sum(x^2)) ^ -beta          a = alpha / size (channels) or alpha / size^2 (same map)

Both norms are one kernel: a tensor is a flat, dense array in which a window moves along two axes, each with an extent,
a stride, the places before its centre and a length. Channels: an axis of one place, and the channels, stride 1. Same
map: rows and columns. A window's neighbours are loaded again and come from the cache. Only x is kept for the backward
pass, which computes the scale again; it puts g x s^(-beta - 1) into a float32 array that lives for that call.
Nothing is added atomically: the same bits every time. To torch.compile each direction is one operation of its graph.
Where the scale is 0, or denormal (k = 0, a silent window), y and its gradient are 0. NaN goes through, inf stays
non-finite.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.elementwise_triton import numbers_of, rounded
from alexnet.kernels.gpu import BLOCK, on, wide

TINY = tl.constexpr(1.1754943508222875e-38)  # the smallest float32 that is not denormal


@triton.jit
def _at(i, axis: tl.constexpr):
    """The place of number i on an axis."""
    return (i // axis[1]) % axis[0]


@triton.jit
def _window_sum(array, i, n, p, q, outer: tl.constexpr, inner: tl.constexpr, SQUARED: tl.constexpr):
    """The sum of the numbers (or their squares) in the window around each i, which is at p on the outer axis and at q
    on the inner one. What is outside the axes counts nothing and is not read.
    """
    rows: tl.constexpr = outer[3]
    columns: tl.constexpr = inner[3]
    unroll: tl.constexpr = columns if columns <= 9 else 4  # so that loads wait together
    total = tl.zeros(i.shape, tl.float32)
    for u in range(rows):
        row = p + (u - outer[2])
        in_rows = (i < n) & (row >= 0) & (row < outer[0])
        for v in tl.range(0, columns, loop_unroll_factor=unroll):
            column = q + (v - inner[2])
            there = i + ((u - outer[2]) * outer[1] + (v - inner[2]) * inner[1])
            value = tl.load(array + there, mask=in_rows & (column >= 0) & (column < inner[0]), other=0.0)
            value = value.to(tl.float32)
            total += value * value if SQUARED else value
    return total


@triton.jit
def _powers(s, beta: tl.constexpr):
    """(s^-beta, 1 / s), both 0 where s is 0."""
    silent = s < TINY
    s = tl.where(silent, 1.0, s)
    if beta == 0.75:
        root = tl.rsqrt(s)
        factor, inverse = root * tl.sqrt(root), root * root
    elif beta == 1.0:
        factor = 1.0 / s
        inverse = factor
    else:
        factor, inverse = tl.exp2(-beta * tl.log2(s)), 1.0 / s
    return tl.where(silent, 0.0, factor), tl.where(silent, 0.0, inverse)


@triton.jit
def _forward(
    x, y, n, k, a, beta: tl.constexpr, outer: tl.constexpr, inner: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = numbers_of(BLOCK, WIDE)
    sums = _window_sum(x, i, n, _at(i, outer), _at(i, inner), outer, inner, True)
    factor, _ = _powers(k + a * sums, beta)
    value = tl.load(x + i, mask=i < n, other=0.0).to(tl.float32)
    tl.store(y + i, rounded(value * factor, y), mask=i < n)


@triton.jit
def _weigh(
    x, g, t, n, k, a, beta: tl.constexpr, outer: tl.constexpr, inner: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """t = g x s^(-beta - 1)."""
    i = numbers_of(BLOCK, WIDE)
    sums = _window_sum(x, i, n, _at(i, outer), _at(i, inner), outer, inner, True)
    factor, inverse = _powers(k + a * sums, beta)
    value = tl.load(x + i, mask=i < n, other=0.0).to(tl.float32)
    gradient = tl.load(g + i, mask=i < n, other=0.0).to(tl.float32)
    tl.store(t + i, gradient * value * factor * inverse, mask=i < n)


@triton.jit
def _backward(
    x, g, t, dx, n, k, a, beta: tl.constexpr, outer: tl.constexpr, inner: tl.constexpr,
    outer_back: tl.constexpr, inner_back: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx = g s^-beta - 2 a beta x * sum of t over the outputs whose window holds the number."""
    i = numbers_of(BLOCK, WIDE)
    p, q = _at(i, outer), _at(i, inner)
    factor, _ = _powers(k + a * _window_sum(x, i, n, p, q, outer, inner, True), beta)
    gathered = _window_sum(t, i, n, p, q, outer_back, inner_back, False)
    value = tl.load(x + i, mask=i < n, other=0.0).to(tl.float32)
    gradient = tl.load(g + i, mask=i < n, other=0.0).to(tl.float32)
    tl.store(dx + i, rounded(gradient * factor - 2 * a * beta * value * gathered, dx), mask=i < n)


@torch.library.custom_op("alexnet::response_norm", mutates_args=())
def norm(x: Tensor, outer: list[int], inner: list[int], k: float, a: float, beta: float) -> Tensor:
    """y from a dense x, in the same layout. Each axis is (extent, stride, places before the centre, length)."""
    y = torch.empty_like(x)
    if x.numel():
        with on(x.device):
            _forward[_grid(x)](x, y, x.numel(), k, a, beta, tuple(outer), tuple(inner), wide(x), BLOCK)
    return y


@torch.library.custom_op("alexnet::response_norm_gradient", mutates_args=())
def gradient(x: Tensor, g: Tensor, outer: list[int], inner: list[int], k: float, a: float, beta: float) -> Tensor:
    """The gradient at x from g, the one at y."""
    dx = torch.empty_like(x)
    if x.numel():
        t = torch.empty_like(x, dtype=torch.float32)
        axes, back = (tuple(outer), tuple(inner)), (_mirrored(outer), _mirrored(inner))
        with on(x.device):
            _weigh[_grid(x)](x, g, t, x.numel(), k, a, beta, *axes, wide(x), BLOCK)
            _backward[_grid(x)](x, g, t, dx, x.numel(), k, a, beta, *axes, *back, wide(x), BLOCK)
    return dx


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    x, *ctx.window = inputs
    ctx.save_for_backward(x)


def _gradients(ctx, g: Tensor) -> tuple:
    return gradient(*ctx.saved_tensors, g.contiguous(), *ctx.window), *[None] * len(ctx.window)


norm.register_fake(lambda x, *window: torch.empty_like(x))
gradient.register_fake(lambda x, g, *window: torch.empty_like(x))
norm.register_autograd(_gradients, setup_context=_keep)


def _mirrored(axis: list[int]) -> tuple[int, ...]:
    """The axis with its window turned round, which is another one where its length is even."""
    extent, stride, before, length = axis
    return extent, stride, length - 1 - before, length


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), BLOCK),)
