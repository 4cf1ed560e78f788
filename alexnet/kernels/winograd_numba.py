"""Winograd's transforms as compiled CPU loops: maps to the points of their tiles, and back, channels last.

A tile is a window of `window` x `window` pixels, the next one `step` pixels on. `to_points` multiplies it from both
sides, matrix @ tile @ matrix.T, for every channel; `from_points` is the transpose, and adds tiles where they overlap.
Points lie as (points, groups, tiles, channels of a group), so that every point is one matrix for a product.

In between a padded copy of the picture, in cache, holds columns apart that are `step` pixels from each other. A row of
tiles is then one contiguous run of numbers for each of the matrix's terms, which is what vectors need.
"""

from typing import NamedTuple

import numpy as np

from alexnet.kernels.compiled import njit

ENOUGH_TILES, ENOUGH_CHANNELS = 128, 48  # below it transforms cost more than products are saved
BLOCK_FLOATS = 512  # of a line at a time, so that all terms of a sum stay in the first cache


class Tiling(NamedTuple):
    """Maps of height x width pixels and `channels` in `groups`, `padding` zeros around, cut into rows x columns tiles
    of `window` pixels every `step` pixels, each with side x side points.
    """

    height: int
    width: int
    channels: int
    groups: int
    padding: int
    window: int
    step: int
    rows: int
    columns: int
    side: int


@njit
def _sums(out, begin, places, add, source, base, at, n, matrix):
    """out[begin + places[row] + i] = sum_k matrix[row, k] * source[base + at[k] + i] for i < n and every row, plus what
    is there with `add`; 4, 6 or 8 terms. Indices are unsigned: numba would look whether a signed one is negative, and
    LLVM not vectorise.
    """
    n = np.uint64(n)
    p, q, r, s = np.uint64(base + at[0]), np.uint64(base + at[1]), np.uint64(base + at[2]), np.uint64(base + at[3])
    for row in range(len(places)):
        y = np.uint64(begin + places[row])
        a, b, c, d = matrix[row, 0], matrix[row, 1], matrix[row, 2], matrix[row, 3]
        if len(at) == 4:
            for i in range(n):
                total = (a * source[p + i] + b * source[q + i]) + (c * source[r + i] + d * source[s + i])
                out[y + i] = out[y + i] + total if add else total
            continue
        e, f, t, u = matrix[row, 4], matrix[row, 5], np.uint64(base + at[4]), np.uint64(base + at[5])
        if len(at) == 6:
            for i in range(n):
                total = (a * source[p + i] + b * source[q + i]) + (c * source[r + i] + d * source[s + i])
                total += e * source[t + i] + f * source[u + i]
                out[y + i] = out[y + i] + total if add else total
            continue
        g, h, v, w = matrix[row, 6], matrix[row, 7], np.uint64(base + at[6]), np.uint64(base + at[7])
        for i in range(n):
            total = (a * source[p + i] + b * source[q + i]) + (c * source[r + i] + d * source[s + i])
            total += (e * source[t + i] + f * source[u + i]) + (g * source[v + i] + h * source[w + i])
            out[y + i] = out[y + i] + total if add else total


@njit
def _multiples(count, stride, terms):
    """Where the terms of a sum lie, `stride` apart; those that only make their number even weigh nothing."""
    at = np.zeros(terms, np.int64)
    for k in range(count):
        at[k] = k * stride
    return at


@njit
def _padded(tiling):
    """(zeros for a padded picture, floats of its lines, of the columns with one remainder by `step`)."""
    columns = tiling.columns + -(-tiling.window // tiling.step) - 1
    plane = columns * (tiling.channels // tiling.groups)
    line = tiling.groups * tiling.step * plane
    return np.zeros(((tiling.rows - 1) * tiling.step + tiling.window) * line, np.float32), line, plane


@njit
def _pixel(y, x, tiling, line, plane):
    """Where pixel (y, x)'s first channel lies in a padded picture."""
    x += tiling.padding
    run = tiling.channels // tiling.groups
    return (y + tiling.padding) * line + (x % tiling.step) * plane + (x // tiling.step) * run


@njit
def _columns_at(count, step, plane, run, terms):
    """Where neighbouring columns lie, seen from the first of a tile."""
    at = np.zeros(terms, np.int64)
    for k in range(count):
        at[k] = (k % step) * plane + (k // step) * run
    return at


@njit
def to_points(x, points, first, last, tiling, matrix):
    """Pictures first to last of x (pictures, height, width, channels) to `points`; matrix (points a side, window, or
    one more of zeros).
    """
    padded, line, plane = _padded(tiling)
    side, groups, step, terms = tiling.side, tiling.groups, tiling.step, matrix.shape[1]
    run = tiling.channels // groups
    tiles = len(points) // (side * side * tiling.channels)
    rows_at = _multiples(tiling.window, line, terms)
    columns_at = _columns_at(tiling.window, step, plane, run, terms)
    lines_at, points_at = _multiples(side, line, side), _multiples(side, groups * tiles * run, side)
    lines = np.empty(side * line, np.float32)
    for picture in range(first, last):
        _spread(x, padded, picture, tiling, line, plane)
        for row in range(tiling.rows):
            for block in range(0, line, BLOCK_FLOATS):
                size = min(BLOCK_FLOATS, line - block)
                _sums(lines, block, lines_at, False, padded, row * step * line + block, rows_at, size, matrix)
            tile = (picture * tiling.rows + row) * tiling.columns
            for i in range(side):
                for group in range(groups):
                    place, start = ((i * side * groups + group) * tiles + tile) * run, i * line + group * step * plane
                    _sums(points, place, points_at, False, lines, start, columns_at, tiling.columns * run, matrix)


@njit
def _spread(x, padded, picture, tiling, line, plane):
    """One picture into the padded one, as far as tiles reach."""
    run = tiling.channels // tiling.groups
    tall = min(tiling.height, (tiling.rows - 1) * tiling.step + tiling.window - tiling.padding)
    wide = min(tiling.width, (tiling.columns - 1) * tiling.step + tiling.window - tiling.padding)
    for y in range(tall):
        for column in range(wide):
            source = ((picture * tiling.height + y) * tiling.width + column) * tiling.channels
            place = _pixel(y, column, tiling, line, plane)
            for group in range(tiling.groups):
                here, there = np.uint64(place + group * tiling.step * plane), np.uint64(source + group * run)
                for i in range(np.uint64(run)):
                    padded[here + i] = x[there + i]


@njit
def from_points(points, y, first, last, tiling, matrix, bias):
    """Pictures first to last of y (pictures, height, width, channels) from `points`, plus bias (channels,); matrix
    (window, points a side, or one more of zeros).
    """
    padded, line, plane = _padded(tiling)
    side, groups, step, window, terms = tiling.side, tiling.groups, tiling.step, tiling.window, matrix.shape[1]
    run = tiling.channels // groups
    tiles = len(points) // (side * side * tiling.channels)
    length = tiling.columns * run  # of a row of tiles at one point
    points_at = _multiples(side, side * groups * tiles * run, terms)
    sums_at, lines_at = _multiples(side, length, terms), _multiples(window, side * length, window)
    columns_at = _columns_at(window, step, plane, run, window)
    sums = np.empty(window * side * length, np.float32)
    for picture in range(first, last):
        for i in range(len(padded)):
            padded[i] = 0
        for row in range(tiling.rows):
            tile = (picture * tiling.rows + row) * tiling.columns
            for group in range(groups):
                for j in range(side):
                    start = ((j * groups + group) * tiles + tile) * run
                    _sums(sums, j * length, lines_at, False, points, start, points_at, length, matrix)
                for i in range(window):
                    place, start = (row * step + i) * line + group * step * plane, i * side * length
                    _sums(padded, place, columns_at, True, sums, start, sums_at, length, matrix)
        _gather(padded, y, picture, tiling, line, plane, bias)


@njit
def _gather(padded, y, picture, tiling, line, plane, bias):
    """The padded picture without its padding, plus bias."""
    run = tiling.channels // tiling.groups
    for row in range(tiling.height):
        for column in range(tiling.width):
            target = ((picture * tiling.height + row) * tiling.width + column) * tiling.channels
            place = _pixel(row, column, tiling, line, plane)
            for group in range(tiling.groups):
                here, there = np.uint64(place + group * tiling.step * plane), np.uint64(target + group * run)
                first = np.uint64(group * run)
                for i in range(np.uint64(run)):
                    y[there + i] = padded[here + i] + bias[first + i]
