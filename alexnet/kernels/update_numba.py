"""The 2012 update as one compiled loop; see update.py."""

import numpy as np

from alexnet.kernels.compiled import njit, put, widen

BLOCK = 4096  # numbers that are still in cache when they are copied
NOTHING = np.empty(0, np.uint16)  # stands for no copy


def numbers(momentum: float, rate: float, decay: float) -> tuple[np.float32, np.float32, np.float32]:
    """(momentum, rate, rate * decay) as the loop takes them."""
    return np.float32(momentum), np.float32(rate), np.float32(rate * decay)


@njit
def update(w, v, gradient, copy, first, last, momentum, rate, rate_decay):
    """Numbers [first, last) of flat arrays; `copy` of length 0 is left alone."""
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        for i in range(np.uintp(start), np.uintp(end)):
            v[i] = momentum * v[i] - rate * widen(gradient[i]) - rate_decay * w[i]
            w[i] += v[i]
        if len(copy):
            for i in range(np.uintp(start), np.uintp(end)):
                put(copy, i, w[i])
