"""What elementwise Triton kernels share: which numbers of an array a program has, and how a result is rounded."""

from __future__ import annotations

import triton
import triton.language as tl

from alexnet.kernels.gpu import interpreting

BY_HAND = tl.constexpr(interpreting())


@triton.jit
def numbers_of(BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """The places of this program's numbers; in 64 bits only where 32 do not suffice: dividing them is slow."""
    first = tl.program_id(0)
    if WIDE:
        first = first.to(tl.int64)
    return first * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def rounded(value, array):
    """float32 `value` in the type of the numbers that pointer `array` points to, bfloat16 rounded to nearest even.

    A GPU has an instruction for it. Triton's interpreter cuts the bits off, so there they are rounded by hand.
    """
    if BY_HAND and array.dtype.element_ty == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        quiet = (bits >> 16) | 0x40
        return tl.where(value == value, even, quiet).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return value.to(array.dtype.element_ty)
