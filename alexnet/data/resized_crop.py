"""Crops of any size and shape, resized to the net's: parts of a square that hold so much of it, wide or high.

Not in the paper, whose crops are 224 px of 256 as they are; common since GoogLeNet (Szegedy et al. 2015, section 6):
a share of the square's area, evenly drawn, and a shape from 3:4 to 4:3. Pixels are blended of their four neighbours
with weights of 1/256, in whole numbers, so that the CPU and a GPU make the same bytes of them.
"""

from __future__ import annotations

import numpy as np

from alexnet.kernels.compiled import exact

WIDEST = 4 / 3  # width over height, or height over width


def boxes(size_px: int, least_share: float, uniforms_4n: np.ndarray) -> tuple[np.ndarray, ...]:
    """(tops, lefts, heights, widths), int64 (N,), in squares of `size_px`; `uniforms_4n` are in [0, 1): area, shape and
    two places. A side that would be longer than the square's is the square's.
    """
    share, shape, down, right = uniforms_4n
    side = size_px * np.sqrt(least_share + (1 - least_share) * share)
    stretch = WIDEST ** (shape - 0.5)  # its square runs from 3/4 to 4/3
    heights, widths = (np.clip(np.rint(long), 1, size_px).astype(np.int64) for long in (side / stretch, side * stretch))
    tops, lefts = (down * (size_px + 1 - heights)).astype(np.int64), (right * (size_px + 1 - widths)).astype(np.int64)
    return tops, lefts, heights, widths


@exact
def resize_loop(squares, tops, lefts, heights, widths, out, begin):
    """uint8 (N, S, S, 3), boxes begin ... begin + N of a batch, to uint8 (N, crop, crop, 3): rows are blended first,
    then the numbers of the blended row.
    """
    crop = out.shape[1]
    blended = np.empty(3 * squares.shape[2], np.uint16)
    near, far, weights = np.empty(3 * crop, np.uint16), np.empty(3 * crop, np.uint16), np.empty(3 * crop, np.uint16)
    for n in range(len(out)):
        top, left, height, width = tops[begin + n], lefts[begin + n], heights[begin + n], widths[begin + n]
        for i in range(3 * crop):
            first, weights[i] = neighbour(i // 3, width, crop)
            near[i], far[i] = 3 * first + i % 3, 3 * min(first + 1, width - 1) + i % 3
        for y in range(crop):
            first, weight = neighbour(y, height, crop)
            upper = squares[n, top + first, left : left + width].reshape(3 * width)
            lower = squares[n, top + min(first + 1, height - 1), left : left + width].reshape(3 * width)
            _blend_rows(upper, lower, np.uint16(weight), blended)
            _blend_numbers(blended, near, far, weights, out[n, y].reshape(3 * crop))


@exact
def neighbour(i, side, crop):
    """The source pixel at or before the centre of output pixel i, and what its follower weighs, in 256ths."""
    place = max(0, (2 * i + 1) * side - crop)
    return place // (2 * crop), (place % (2 * crop) * 256 + crop) // (2 * crop)


@exact
def _blend_rows(upper, lower, weight, out):
    rest = np.uint16(256) - weight
    for i in range(np.uintp(len(upper))):
        out[i] = np.uint16(upper[i] * rest) + np.uint16(lower[i] * weight)


@exact
def _blend_numbers(row, near, far, weights, out):
    for i in range(np.uintp(len(out))):
        weight = np.uint32(weights[i])
        both = np.uint32(row[near[i]]) * (np.uint32(256) - weight) + np.uint32(row[far[i]]) * weight
        out[i] = np.uint32(both + np.uint32(32768)) >> np.uint32(16)
