"""What the compiled CPU loops share: how they are compiled, and bfloat16, which numba and numpy do not have.

bfloat16 comes as its bits (uint16), is computed with in float32, and rounded to nearest even when it is stored.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numba
import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba.extending import overload

if TYPE_CHECKING:
    from torch import Tensor


def flat(t: Tensor) -> np.ndarray:
    """The memory of a dense tensor as a flat array, in the order in which it lies there; bfloat16 as its bits."""
    import torch  # some seconds, which `compile_ahead` uses

    t = t.detach().as_strided((t.numel(),), (1,))
    return (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy()


@lru_cache
def has(feature: str) -> bool:
    """Whether this processor has what LLVM calls by that name."""
    try:
        return get_host_cpu_features().get(feature, False)
    except RuntimeError:  # LLVM does not know this processor
        return False


def wide_vectors() -> bool:
    """Whether vectors are of 16 float32 here, and there are 32 of them (AVX-512)."""
    return has("avx512f")


def njit(function):
    """numba.njit of sums and products, which it may join into one operation."""
    return exact(function, fastmath={"contract", "nsz"})


def exact(function, **options):
    """numba.njit, every operation as it is written; cached on disk where the machine has a place to write it."""
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "no locator available": neither the package's folder nor a user cache can be written
        return numba.njit(**options)(function)


def widen(value):
    raise NotImplementedError("compiled code only")


@overload(widen, inline="always")
def widen_compiled(value):
    """float32 as it is; bfloat16 bits to float32."""
    if isinstance(value, numba.types.Float):
        return lambda value: value
    return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)


def narrow(value, like):
    raise NotImplementedError("compiled code only")


@overload(narrow, inline="always")
def narrow_compiled(value, like):
    """float32 as it is where `like` is float32; else bfloat16 bits, rounded to nearest even, NaN kept a (quiet) NaN.

    It is given numbers alone: an array would be counted as in use, in calls that keep loops from having vectors; and
    so would sums of 64 bits, which numba makes of any two.
    """
    if isinstance(like, numba.types.Float):
        return lambda value, like: value

    def bits_of(value, like):
        bits = np.float32(value).view(np.uint32)
        high = np.uint32(bits >> np.uint32(16))
        even = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + np.uint32(high & np.uint32(1)))
        is_nan = np.uint32(bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        return np.uint16(np.uint32(high | np.uint32(0x40)) if is_nan else np.uint32(even >> np.uint32(16)))

    return bits_of
