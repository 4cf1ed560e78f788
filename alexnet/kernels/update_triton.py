"""The 2012 update as one Triton kernel; see update.py. Tensors are read and written in the order of their memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.elementwise_triton import rounded
from alexnet.kernels.gpu import BLOCK, on


@triton.jit
def _update(
    w, v, gradient, copy, go, numbers, n,
    COPY: tl.constexpr, GUARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if GUARD:
        n = tl.where(tl.load(go) != 0, n, 0)
    mine = i < n
    momentum, rate, rate_decay = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    weight = tl.load(w + i, mask=mine)
    velocity = momentum * tl.load(v + i, mask=mine)
    velocity = velocity - rate * tl.load(gradient + i, mask=mine).to(tl.float32) - rate_decay * weight
    weight += velocity
    tl.store(v + i, velocity, mask=mine)
    tl.store(w + i, weight, mask=mine)
    if COPY:
        tl.store(copy + i, rounded(weight, copy), mask=mine)


def update(
    w: Tensor, v: Tensor, gradient: Tensor, copy: Tensor | None, numbers: Tensor, go: Tensor | None = None
) -> None:
    """w, v and `copy` (where there is one) in place; nothing where `go` (() bool, if there is one) is False. `numbers`
    (3,) float32 on their device: momentum, rate, rate * decay.
    """
    n = w.numel()
    if not n:
        return
    with on(w.device):
        copied, guarded = copy is not None, go is not None
        flag = go.view(torch.uint8) if guarded else w
        pointers = (w, v, gradient, copy if copied else w, flag, numbers)
        _update[(triton.cdiv(n, BLOCK),)](*pointers, n, copied, guarded, BLOCK)
