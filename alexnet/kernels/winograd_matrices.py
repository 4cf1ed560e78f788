"""The matrices of Winograd's algorithm, in float64, by the outputs and the kernel along a tile's side.

    y = A^T [ (G w) * (B^T x) ]         the correlation of x with w, by as many products as A^T has columns

Those of Toom and Cook take a product of polynomials from its values at a few points. Whole numbers of these grow with
the number of points, and with them rounding; bfloat16 allows only 0, 1 and -1. So for it a kernel of 5 is one of 3 and
one of 2 beside each other, whose products are added: at the same points, of which the one of 2 needs three.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

HALF = Fraction(1, 2)
POINTS = {  # by outputs and kernel along a side, with infinity; small numbers and their inverses round best
    (2, 2): (Fraction(0), Fraction(1)),
    (2, 3): (Fraction(0), Fraction(1), Fraction(-1)),
    (4, 3): (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), -HALF),
    (5, 3): (Fraction(0), Fraction(1), Fraction(-1), Fraction(-2), -HALF, 3 * HALF),
    (6, 3): (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2), HALF, -HALF),
    (4, 5): (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2), HALF, -HALF),
}


class Matrices(NamedTuple):
    """A^T (outputs, products), G (products, kernel), B^T (products, outputs + kernel - 1)."""

    outputs: np.ndarray
    kernels: np.ndarray
    inputs: np.ndarray


@lru_cache
def matrices(tile_px: int, kernel_px: int) -> Matrices:
    """Those of Toom and Cook, for correlations of `kernel_px` taps with `tile_px` outputs."""
    points = POINTS[tile_px, kernel_px]
    outputs = [[p**i for p in points] + [Fraction(i == tile_px - 1)] for i in range(tile_px)]
    kernels, inputs = [], []
    for p in points:
        others = [q for q in points if q != p]
        scale = np.prod([p - q for q in others])
        kernels.append([p**k / scale for k in range(kernel_px)])
        inputs.append([*_polynomial(others), Fraction(0)])
    kernels.append([Fraction(k == kernel_px - 1) for k in range(kernel_px)])
    inputs.append(_polynomial(points))
    return Matrices(*(np.array(rows, dtype=np.float64) for rows in (outputs, kernels, inputs)))


class Simple(NamedTuple):
    """Matrices for 2 outputs: A^T (2, 4), G (products, kernel), B^T (products, 1 + kernel), and to which of the four
    columns of A^T each product is added.
    """

    outputs: np.ndarray
    kernels: np.ndarray
    inputs: np.ndarray
    sum_of: tuple[int, ...]


@lru_cache
def simple_matrices(kernel_px: int) -> Simple:
    """Those with 0, 1 and -1 alone in A and B, for kernels of 3 or 5."""
    three, two = matrices(2, 3), matrices(2, 2)
    if kernel_px == 3:
        return Simple(*three, sum_of=(0, 1, 2, 3))
    kernels = np.block([[three.kernels, np.zeros((4, 2))], [np.zeros((3, 3)), two.kernels]])
    inputs = np.vstack([np.pad(three.inputs, ((0, 0), (0, 2))), np.pad(two.inputs, ((0, 0), (3, 0)))])
    order, sum_of = (0, 4, 1, 5, 2, 3, 6), (0, 0, 1, 1, 2, 3, 3)  # columns of both that are the same, together
    return Simple(three.outputs, kernels[list(order)], inputs[list(order)], sum_of)


class Product(NamedTuple):
    """Of row and column in the points of a tile, one of those which are added to make one of the 16 sums."""

    row: int
    column: int
    sum: int


@lru_cache
def products(kernel_px: int) -> tuple[Product, ...]:
    """All of a tile by `simple_matrices`, those of one sum together."""
    sum_of = simple_matrices(kernel_px).sum_of
    found = [Product(i, j, 4 * sum_of[i] + sum_of[j]) for i in range(len(sum_of)) for j in range(len(sum_of))]
    return tuple(sorted(found, key=lambda product: product.sum))


def _polynomial(roots) -> list[Fraction]:
    """Coefficients of the product of (x - root), lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [s - root * c for s, c in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients
