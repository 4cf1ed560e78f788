"""Matrix products in float32 as compiled CPU loops, many at a time.

    c[p] = a[p] @ b[p]      (rows, depth) @ (depth, columns), whatever the strides of a and b

Of b a panel as wide as a block of c is copied together first, so that it stays in the nearest cache; then c is made
block by block (gemm_block.py). Blocks at the right edge are padded with zeros, the last ones of a panel overlap those
before.
"""

from typing import NamedTuple

import numpy as np

from alexnet import cores
from alexnet.kernels.compiled import has, njit
from alexnet.kernels.gemm_block import VECTOR, block_of

ROWS, ROWS_OF_THREE = (14, 8) if VECTOR == 16 else (6, 4)  # of a block: all sums and lines fill 32 registers, or 16
DEPTH = 256  # of a panel

one_vector, two_vectors, three_vectors = block_of(ROWS, 1), block_of(ROWS, 2), block_of(ROWS_OF_THREE, 3)


def pay() -> bool:
    """Whether these loops are faster than PyTorch's products. Without `fma` each multiply-add would be a call."""
    return cores.slow_library() and has("fma")


class Sizes(NamedTuple):
    """How long the sides of a product are, and how far apart neighbours lie in memory, in numbers; a line of c is
    dense.
    """

    rows: int
    depth: int
    columns: int
    a_each: int
    a_row: int
    a_depth: int
    b_each: int
    b_depth: int
    b_column: int
    c_each: int
    c_row: int


@njit
def products(a, b, c, sizes, first, last, add):
    """Products first to last of the flat arrays a, b, into c or, with `add`, onto what is there; ROWS rows or more."""
    vectors = 3 if sizes.columns % (2 * VECTOR) and sizes.columns % (3 * VECTOR) == 0 else 2
    panel, corner = np.empty(DEPTH * 3 * VECTOR, np.float32), np.empty(ROWS * 3 * VECTOR, np.float32)
    for p in range(first, last):
        for k in range(0, sizes.depth, DEPTH):
            depth = min(DEPTH, sizes.depth - k)
            a_at = p * sizes.a_each + k * sizes.a_depth
            for column in range(0, sizes.columns, vectors * VECTOR):
                columns = min(sizes.columns - column, vectors * VECTOR)
                wide = vectors if columns > VECTOR else 1
                b_at = p * sizes.b_each + k * sizes.b_depth + column * sizes.b_column
                _copy_panel(b, b_at, sizes, depth, columns, panel, wide * VECTOR)
                c_at = p * sizes.c_each + column
                _times_panel(a, a_at, panel, c, c_at, sizes, depth, columns, wide, add or k > 0, corner)


@njit
def _copy_panel(b, at, sizes, depth, columns, panel, width):
    """Lines of `columns` numbers, filled up to `width`."""
    for k in range(np.uintp(depth)):
        source, target = np.uintp(at) + k * np.uintp(sizes.b_depth), k * np.uintp(width)
        if sizes.b_column == 1:  # by itself, so that it is made of vectors
            for i in range(np.uintp(columns)):
                panel[target + i] = b[source + i]
        else:
            for i in range(np.uintp(columns)):
                panel[target + i] = b[source + i * np.uintp(sizes.b_column)]
        for i in range(np.uintp(columns), np.uintp(width)):
            panel[target + i] = 0


@njit
def _times_panel(a, a_at, panel, c, c_at, sizes, depth, columns, vectors, add, corner):
    """All rows of a times the panel. A block that hangs over an edge is made apart, and its part of c copied."""
    high, width = ROWS_OF_THREE if vectors == 3 else ROWS, vectors * VECTOR
    for i in range(0, sizes.rows, high):
        top = min(i, sizes.rows - high)
        from_a = a_at + top * sizes.a_row
        if top == i and columns == width:
            _block(vectors, a, from_a, panel, c, c_at + top * sizes.c_row, sizes.c_row, sizes, depth, add)
            continue
        _block(vectors, a, from_a, panel, corner, 0, width, sizes, depth, False)
        for row in range(i - top, high):
            for column in range(columns):
                place, value = c_at + (top + row) * sizes.c_row + column, corner[row * width + column]
                c[place] = c[place] + value if add else value


@njit
def _block(vectors, a, a_at, panel, c, c_at, c_row, sizes, depth, add):
    if vectors == 3:
        three_vectors(a, a_at, sizes.a_row, sizes.a_depth, panel, 0, c, c_at, c_row, depth, add)
    elif vectors == 2:
        two_vectors(a, a_at, sizes.a_row, sizes.a_depth, panel, 0, c, c_at, c_row, depth, add)
    else:
        one_vector(a, a_at, sizes.a_row, sizes.a_depth, panel, 0, c, c_at, c_row, depth, add)
