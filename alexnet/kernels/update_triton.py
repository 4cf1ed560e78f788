"""The 2012 update as one Triton kernel; see update.py. Tensors are read and written in the order of their memory."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.gpu import BLOCK, on
from alexnet.kernels.rounded_triton import rounded


@triton.jit
def _update(w, v, gradient, copy, n, momentum, rate, rate_decay, COPY: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    weight = tl.load(w + i, mask=i < n)
    velocity = momentum * tl.load(v + i, mask=i < n)
    velocity = velocity - rate * tl.load(gradient + i, mask=i < n).to(tl.float32) - rate_decay * weight
    weight += velocity
    tl.store(v + i, velocity, mask=i < n)
    tl.store(w + i, weight, mask=i < n)
    if COPY:
        tl.store(copy + i, rounded(weight, copy), mask=i < n)


def update(
    w: Tensor, v: Tensor, gradient: Tensor, copy: Tensor | None, momentum: float, rate: float, decay: float
) -> None:
    """w, v and `copy` (where there is one) in place."""
    if not w.numel():
        return
    n, numbers = w.numel(), (float(momentum), float(rate), float(rate * decay))
    with on(w.device):
        copied = copy is not None
        _update[(triton.cdiv(n, BLOCK),)](w, v, gradient, copy if copied else w, n, *numbers, copied, BLOCK)
