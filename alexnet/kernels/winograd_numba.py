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

BLOCK_FLOATS = 512  # of a line at a time, so that all terms of a sum stay in the first cache


class Tiling(NamedTuple):
    """Maps of height x width pixels and `channels` in `groups`, `padding` zeros around, cut into rows x columns tiles
    of `window` pixels every `step` pixels.
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


@njit
def _add_terms(out, o, source, at, base, n, matrix, row):
    """out[o + i] += sum_k matrix[row, k] * source[base + at[k] + i] for i < n; 4, 6 or 8 terms.

    Indices are unsigned: numba would look whether a signed one is negative, and LLVM not vectorise.
    """
    m, n, y = matrix[row], np.uint64(n), np.uint64(o)
    a, b, c, d = m[0], m[1], m[2], m[3]
    p, q, r, s = _four(at, 0, base)
    if len(at) == 4:
        for i in range(n):
            out[y + i] += (a * source[p + i] + b * source[q + i]) + (c * source[r + i] + d * source[s + i])
        return
    e, f, t, u = m[4], m[5], np.uint64(base + at[4]), np.uint64(base + at[5])
    if len(at) == 6:
        for i in range(n):
            first = (a * source[p + i] + b * source[q + i]) + (c * source[r + i] + d * source[s + i])
            out[y + i] += first + (e * source[t + i] + f * source[u + i])
        return
    g, h, v, w = m[6], m[7], np.uint64(base + at[6]), np.uint64(base + at[7])
    for i in range(n):
        first = (a * source[p + i] + b * source[q + i]) + (c * source[r + i] + d * source[s + i])
        second = (e * source[t + i] + f * source[u + i]) + (g * source[v + i] + h * source[w + i])
        out[y + i] += first + second


@njit
def _put_terms(out, o, source, at, base, n, matrix, row):
    """The same, but = instead of +=."""
    m, n, y = matrix[row], np.uint64(n), np.uint64(o)
    a, b, c, d = m[0], m[1], m[2], m[3]
    p, q, r, s = _four(at, 0, base)
    if len(at) == 4:
        for i in range(n):
            out[y + i] = (a * source[p + i] + b * source[q + i]) + (c * source[r + i] + d * source[s + i])
        return
    e, f, t, u = m[4], m[5], np.uint64(base + at[4]), np.uint64(base + at[5])
    if len(at) == 6:
        for i in range(n):
            first = (a * source[p + i] + b * source[q + i]) + (c * source[r + i] + d * source[s + i])
            out[y + i] = first + (e * source[t + i] + f * source[u + i])
        return
    g, h, v, w = m[6], m[7], np.uint64(base + at[6]), np.uint64(base + at[7])
    for i in range(n):
        first = (a * source[p + i] + b * source[q + i]) + (c * source[r + i] + d * source[s + i])
        second = (e * source[t + i] + f * source[u + i]) + (g * source[v + i] + h * source[w + i])
        out[y + i] = first + second


@njit
def _four(at, k, base):
    places = at[k : k + 4] + base
    return np.uint64(places[0]), np.uint64(places[1]), np.uint64(places[2]), np.uint64(places[3])


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
def _columns_at(terms, step, plane, run):
    """Where neighbouring columns lie, seen from the first of a tile."""
    at = np.empty(terms, np.int64)
    for k in range(terms):
        at[k] = (k % step) * plane + (k // step) * run
    return at


@njit
def to_points(x, points, first, last, tiling, matrix):
    """Pictures first to last of x (pictures, height, width, channels) to `points`; matrix (points a side, window)."""
    padded, line, plane = _padded(tiling)
    side, groups, step = len(matrix), tiling.groups, tiling.step
    run = tiling.channels // groups
    tiles = len(points) // (side * side * tiling.channels)
    rows_at, columns_at = np.arange(tiling.window) * line, _columns_at(tiling.window, step, plane, run)
    lines = np.empty(side * line, np.float32)
    for picture in range(first, last):
        _spread(x, padded, picture, tiling, line, plane)
        for row in range(tiling.rows):
            for block in range(0, line, BLOCK_FLOATS):
                size = min(BLOCK_FLOATS, line - block)
                for i in range(side):
                    start = row * step * line + block
                    _put_terms(lines, i * line + block, padded, rows_at, start, size, matrix, i)
            tile = (picture * tiling.rows + row) * tiling.columns
            for i in range(side):
                for group in range(groups):
                    start = i * line + group * step * plane
                    for j in range(side):
                        place = (((i * side + j) * groups + group) * tiles + tile) * run
                        _put_terms(points, place, lines, columns_at, start, tiling.columns * run, matrix, j)


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
                here, there = place + group * tiling.step * plane, source + group * run
                padded[here : here + run] = x[there : there + run]


@njit
def from_points(points, y, first, last, tiling, matrix, bias):
    """Pictures first to last of y (pictures, height, width, channels) from `points`, plus bias (channels,); matrix
    (window, points a side).
    """
    padded, line, plane = _padded(tiling)
    side, groups, step, window = matrix.shape[1], tiling.groups, tiling.step, tiling.window
    run = tiling.channels // groups
    tiles = len(points) // (side * side * tiling.channels)
    length = tiling.columns * run  # of a row of tiles at one point
    points_at, sums_at = np.arange(side) * (side * groups * tiles * run), np.arange(side) * length
    sums = np.empty(window * side * length, np.float32)
    for picture in range(first, last):
        padded[:] = 0
        for row in range(tiling.rows):
            tile = (picture * tiling.rows + row) * tiling.columns
            for group in range(groups):
                for j in range(side):
                    start = ((j * groups + group) * tiles + tile) * run
                    for i in range(window):
                        _put_terms(sums, (i * side + j) * length, points, points_at, start, length, matrix, i)
                for i in range(window):
                    for j in range(window):
                        column = (group * step + j % step) * plane + (j // step) * run
                        place = (row * step + i) * line + column
                        _add_terms(padded, place, sums, sums_at, i * side * length, length, matrix, j)
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
                here, there = place + group * tiling.step * plane, target + group * run
                inside, outside, more = padded[here:], y[there : there + run], bias[group * run :]
                for i in range(run):
                    outside[i] = inside[i] + more[i]
