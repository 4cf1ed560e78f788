"""Float32 to what an array holds, inside a Triton kernel: float32 as it is, bfloat16 rounded to nearest even.

A GPU has an instruction for it. Triton's interpreter cuts the bits off, so there they are rounded by hand.
"""

from __future__ import annotations

import triton
import triton.language as tl

from alexnet.kernels.gpu import interpreting

BY_HAND = tl.constexpr(interpreting())


@triton.jit
def rounded(value, array):
    """float32 `value` in the type of the numbers that pointer `array` points to."""
    if BY_HAND and array.dtype.element_ty == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        quiet = (bits >> 16) | 0x40
        return tl.where(value == value, even, quiet).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return value.to(array.dtype.element_ty)
