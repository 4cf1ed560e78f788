"""Dropout's masks as a compiled loop: every place is decided by itself, so any number of threads draws the same."""

import numpy as np

from alexnet.kernels.compiled import narrow, njit

STEP, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
ZERO = np.float32(0)


@njit
def draw(mask, first, last, seed, below, value):
    """Places first to last: `value` where the upper 32 bits of SplitMix64's number (Steele, Lea and Flood 2014) of
    place and seed are below `below`, else 0.
    """
    for i in range(np.uint64(first), np.uint64(last)):
        z = seed + (i + np.uint64(1)) * STEP
        z = (z ^ (z >> np.uint64(30))) * FIRST
        z = (z ^ (z >> np.uint64(27))) * SECOND
        upper = np.uint32((z ^ (z >> np.uint64(31))) >> np.uint64(32))
        mask[i] = narrow(value if upper < below else ZERO, mask[i])
