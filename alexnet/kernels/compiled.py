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
    """numba.njit, cached on disk where the machine has a place to write it."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
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


def put(array, i, value):
    raise NotImplementedError("compiled code only")


@overload(put, inline="always")
def put_compiled(array, i, value):
    """array[i] = value; into bfloat16 bits rounded to nearest even, NaN kept a (quiet) NaN."""
    if isinstance(array.dtype, numba.types.Float):

        def store(array, i, value):
            array[i] = value

    else:

        def store(array, i, value):
            bits = np.float32(value).view(np.uint32)  # numba's sums have 64 bits: cut, vectors hold more
            high = np.uint32(bits >> np.uint32(16))
            even = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + np.uint32(high & np.uint32(1)))
            array[i] = np.uint16(np.uint32(even >> np.uint32(16)) if value == value else high | np.uint32(0x40))

    return store
