"""Winograd's algorithm in bfloat16 as compiled CPU loops: a few rows of tiles from maps to maps, within the caches.

Tiles of 2 x 2 outputs; points in bfloat16, their products summed in float32. A strip is a few rows of tiles, maybe of
several pictures: its windows are transformed to points, these multiplied with those of the kernels (gemm_block.py), and
the 16 sums of each tile transformed to outputs, before the next strip. Kernels at points lie in panels, in the order in
which products read them.

The gradient of the kernels sums over tiles: there two tiles are a pair, and rows of tiles of many pictures are paired
before they are multiplied.
"""

from typing import NamedTuple

import numpy as np

from alexnet.kernels.compiled import has, njit
from alexnet.kernels.gemm_block import PAIR, block_of
from alexnet.kernels.winograd_matrices import products, simple_matrices
from alexnet.kernels.winograd_tile import CHANNELS, from_sums_of, to_pairs_of, to_points_of

TILE_PX = 2
NOTHING, MINUS_NOTHING, MINUS_INFINITY = (np.uint16(bits) for bits in (0, 0x8000, 0xFF80))
SUMS = 16  # of a tile
STRIP_TILES = 84  # at most, of a strip with more than one row: what fits the second cache, in whole blocks
DEPTH = 128  # of a panel at a time: it stays in the first cache
ROWS_OF_FOUR, ROWS_OF_THREE = 6, 7  # of a block of products, by its vectors: all sums and lines fill 32 registers

four_vectors, three_vectors = block_of(ROWS_OF_FOUR, 4, PAIR), block_of(ROWS_OF_THREE, 3, PAIR)
inputs_of_3, inputs_of_5 = (to_points_of(simple_matrices(px).inputs, products(px)) for px in (3, 5))
pairs_of_3, pairs_of_5 = (to_pairs_of(simple_matrices(px).inputs, products(px)) for px in (3, 5))
gradient_pairs = to_pairs_of(simple_matrices(3).outputs.T, products(3), summed=True)  # those of 5 would be the same
sums_to_outputs = from_sums_of(simple_matrices(3).outputs, products(3))


def pay() -> bool:
    """Whether these loops beat oneDNN's: not where the processor has matrix units (AMX), which only it can use."""
    return has("avx512bf16") and not has("amx-bf16")


class Maps(NamedTuple):
    """Maps of height x width pixels and `channels` in each of `groups`, read with `padding` zeros around in windows of
    `window` pixels, one every TILE_PX; rows x columns tiles a picture, `strip` rows at a time.
    """

    pictures: int
    height: int
    width: int
    channels: int
    groups: int
    padding: int
    window: int
    rows: int
    columns: int
    strip: int


@njit
def tall_of(tiles, wide):
    """Tiles, filled up to whole blocks of products."""
    high = ROWS_OF_FOUR if wide == 4 else ROWS_OF_THREE
    return -(-tiles // high) * high


@njit
def convolve(x, mask, masked, kernels, firsts, bias, y, rectified, first, last, maps, out, wide):
    """Strips first to last of y (pictures, height, width, channels) as `out` says, from x as `maps` says; kernels
    (groups, panels, products, channels / 2, 16 wide, 2), bias (channels of y,) in float32. `firsts` has each sum's
    first product, and at the end their number. x counts where the mask is not 0, if `masked`; y is `rectified` or not.
    """
    width, tall = wide * CHANNELS, tall_of(maps.strip * maps.columns, wide)
    panels, half = -(-out.channels // width), maps.channels // 2
    points = np.empty(firsts[SUMS] * tall * maps.channels, np.uint16)
    sums = np.empty(SUMS * tall * width, np.float32)
    rows = np.empty(TILE_PX * TILE_PX * out.columns * width, np.uint16)
    for strip in range(first, last):
        begin, end = strip * maps.strip, min((strip + 1) * maps.strip, maps.pictures * maps.rows)
        for group in range(maps.groups):
            _strip_to_points(x, mask, masked, points, begin, end, group, tall, maps)
            for panel in range(panels):
                kernels_at = (group * panels + panel) * firsts[SUMS] * half * width
                for i in range(SUMS):
                    at, to, depth = firsts[i] * half, i * tall * width, (firsts[i + 1] - firsts[i]) * half
                    from_panel = kernels_at + at * width
                    _times(points, at * tall, depth, 1, kernels, from_panel, sums, to, tall, depth, wide, False)
                channel = group * out.channels + panel * width
                channels = min(width, out.channels - panel * width)
                for row in range(begin, end):
                    at = (row - begin) * maps.columns * width
                    _row_from_sums(sums, at, tall * width, width, rows, bias, channel, channels, out)
                    _write_rows(rows, width, y, rectified, row, channel, channels, out)


@njit
def _times(a, a_at, a_row, a_depth, panel, panel_at, c, c_at, rows, depth, wide, add):
    """c (rows, 16 wide) = a @ panel, of pairs; rows are whole blocks."""
    line = wide * CHANNELS
    if wide == 4:
        for i in range(0, rows, ROWS_OF_FOUR):
            at, to = a_at + i * a_row, c_at + i * line
            four_vectors(a, at, a_row, a_depth, panel, panel_at, c, to, line, depth, add)
    else:
        for i in range(0, rows, ROWS_OF_THREE):
            at, to = a_at + i * a_row, c_at + i * line
            three_vectors(a, at, a_row, a_depth, panel, panel_at, c, to, line, depth, add)


@njit
def _strip_to_points(x, mask, masked, points, begin, end, group, tall, maps):
    """One group's rows of tiles begin to end to points (products, tall, channels), products of a sum beside each other
    in every line.
    """
    pixel, line = maps.channels, ((maps.columns - 1) * TILE_PX + maps.window) * maps.channels
    window = np.zeros(maps.window * line, np.uint16)
    for row in range(begin, end):
        _copy_window(x, mask, masked, window, 0, row // maps.rows, row % maps.rows, group, line, maps)
        for column in range(maps.columns):
            source, tile = column * TILE_PX * pixel, (row - begin) * maps.columns + column
            for c in range(0, maps.channels, CHANNELS):
                if maps.window == 4:
                    inputs_of_3(window, source + c, line, pixel, points, tile, tall, maps.channels, c)
                else:
                    inputs_of_5(window, source + c, line, pixel, points, tile, tall, maps.channels, c)


@njit
def _copy_window(x, mask, masked, window, at, picture, row, group, line, maps):
    """What a row of tiles sees, zeros beyond the picture. Columns of zeros stay from the beginning."""
    wide = min(maps.width, line // maps.channels - maps.padding)
    for i in range(maps.window):
        y, target = row * TILE_PX - maps.padding + i, at + i * line
        if y < 0 or y >= maps.height or picture >= maps.pictures:
            window[target : target + line] = 0
            continue
        source = ((picture * maps.height + y) * maps.width * maps.groups + group) * maps.channels
        for column in range(wide):
            here = np.uintp(target + (maps.padding + column) * maps.channels)
            there = np.uintp(source + column * maps.groups * maps.channels)
            if masked:
                for c in range(np.uintp(maps.channels)):
                    window[here + c] = x[there + c] if mask[there + c] != NOTHING else NOTHING
            else:
                for c in range(np.uintp(maps.channels)):
                    window[here + c] = x[there + c]


@njit
def _row_from_sums(sums, at, apart, width, rows, bias, channel, channels, out):
    """A row of tiles to its rows (TILE_PX, pixels, width)."""
    line = TILE_PX * out.columns * width
    for column in range(out.columns):
        for c in range(0, channels, CHANNELS):
            source, target = at + column * width + c, column * TILE_PX * width + c
            sums_to_outputs(sums, source, apart, bias, channel + c, rows, target, line, width)


@njit
def _write_rows(rows, width, y, rectified, row, channel, channels, out):
    """Those that the maps have, of a panel's channels; `rectified`, 0 in place of what is negative, as by ReLU."""
    picture, first = row // out.rows, row % out.rows * TILE_PX
    for i in range(min(TILE_PX, out.height - first)):
        for column in range(out.width):
            source = (i * TILE_PX * out.columns + column) * width
            target = ((picture * out.height + first + i) * out.width + column) * out.groups * out.channels + channel
            here, there = np.uintp(source), np.uintp(target)
            if rectified:
                for c in range(np.uintp(channels)):
                    bits = rows[here + c]
                    y[there + c] = NOTHING if (bits >= MINUS_NOTHING) & (bits <= MINUS_INFINITY) else bits
            else:
                for c in range(np.uintp(channels)):
                    y[there + c] = rows[here + c]


@njit
def to_pairs(x, mask, masked, pairs, sums, first, last, begin, maps, wide, count):
    """Pairs of rows of tiles first to last, counted from pair `begin` on, to pairs of tiles, 32 bits each: (products,
    groups, count, channels), or, for a gradient, (sums, groups, panels, count, 16 wide). A gradient's numbers are
    summed too over the pixels of each pair of rows, in sums (pairs of rows, groups * channels).
    """
    of_gradient = maps.window == TILE_PX
    width = wide * CHANNELS if of_gradient else maps.channels
    panels = -(-maps.channels // width)
    pixel, line = maps.channels, ((maps.columns - 1) * TILE_PX + maps.window) * maps.channels
    size, apart = maps.window * line, maps.groups * panels * count * width
    window = np.zeros(2 * size, np.uint16)
    for pair in range(first, last):
        for group in range(maps.groups):
            for i in range(2):
                row = 2 * (begin + pair) + i
                _copy_window(x, mask, masked, window, i * size, row // maps.rows, row % maps.rows, group, line, maps)
            sums_at = ((begin + pair) * maps.groups + group) * maps.channels
            for column in range(maps.columns):
                for c in range(0, maps.channels, CHANNELS):
                    at, sum_at = column * TILE_PX * pixel + c, sums_at + c
                    to = ((group * panels + c // width) * count + pair * maps.columns + column) * width + c % width
                    if of_gradient:
                        gradient_pairs(window, at, at + size, line, pixel, pairs, to, apart, sums, sum_at)
                    elif maps.window == 4:
                        pairs_of_3(window, at, at + size, line, pixel, pairs, to, apart, sums, sum_at)
                    else:
                        pairs_of_5(window, at, at + size, line, pixel, pairs, to, apart, sums, sum_at)


@njit
def kernel_sums(x_pairs, g_panels, sum_of, sums, first, last, channels, panels, count, used, wide, add):
    """Products first to last of (products * panels of all groups) into sums (.., channels in whole blocks, 16 wide),
    from x (products, groups, count, channels) and g (sums, panels of all groups, count, 16 wide), the first `used`
    pairs of both. `sum_of` says to which sum a product belongs.
    """
    width, tall = wide * CHANNELS, tall_of(channels, wide)
    all_panels = len(sums) // (len(sum_of) * tall * width)
    for i in range(first, last):
        product, panel = i // all_panels, i % all_panels
        for k in range(0, used, DEPTH):
            at = (i // panels * count + k) * channels
            from_panel = ((sum_of[product] * all_panels + panel) * count + k) * width
            depth, to, more = min(DEPTH, used - k), i * tall * width, add or k > 0
            _times(x_pairs, at, 1, channels, g_panels, from_panel, sums, to, tall, depth, wide, more)
