"""The 2012 update as one compiled loop; see update.py."""

import numpy as np

from alexnet.kernels.compiled import narrow, njit, widen

NOTHING = np.empty(0, np.uint16)  # stands for no copy


def numbers(momentum: float, rate: float, decay: float) -> tuple[np.float32, np.float32, np.float32]:
    """(momentum, rate, rate * decay) as the loop takes them."""
    return np.float32(momentum), np.float32(rate), np.float32(rate * decay)


@njit
def update(w, v, gradient, copy, first, last, momentum, rate, rate_decay):
    """Numbers [first, last) of flat arrays; `copy` of length 0 is left alone."""
    for i in range(np.uintp(first), np.uintp(last)):
        v[i] = momentum * v[i] - rate * widen(gradient[i]) - rate_decay * w[i]
        w[i] += v[i]
        if len(copy):
            copy[i] = narrow(w[i], copy[i])
