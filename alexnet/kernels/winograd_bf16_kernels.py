"""Kernels of `winograd_bf16` as compiled CPU loops: from their taps to points, in panels, and their gradient back.

A panel's maps lie beside each other, so that a vector holds 16 of them. In memory channels are neighbours: a block of
them is turned round at a time.
"""

from typing import NamedTuple

import numpy as np

from alexnet.kernels.compiled import njit
from alexnet.kernels.winograd_matrices import products, simple_matrices
from alexnet.kernels.winograd_tile import CHANNELS, from_sums_of, to_pairs_of

taps_of_3, taps_of_5 = (to_pairs_of(simple_matrices(px).kernels, products(px)) for px in (3, 5))
sums_of_3, sums_of_5 = (from_sums_of(simple_matrices(px).kernels.T, products(px)) for px in (3, 5))


class Kernels(NamedTuple):
    """`groups` of `maps` kernels of side x side taps for `channels` each, and how far apart in memory neighbours of
    each kind lie; panels of `width` maps. Taps begin at `first`, the last one first where kernels are turned round.
    """

    groups: int
    maps: int
    channels: int
    side: int
    width: int
    group: int
    map: int
    channel: int
    tap: int
    first: int


@njit
def to_panels(weight, panels, first, last, kernels, number):
    """Blocks of channels first to last, of all groups' panels: panels (groups, panels, `number` products, pairs of
    channels, width) of pairs, 32 bits each.
    """
    width, side, blocks = kernels.width, kernels.side, kernels.channels // CHANNELS
    size, apart = side * side * width, kernels.channels // 2 * width
    taps, unused = np.zeros(CHANNELS * size, np.uint16), np.zeros(CHANNELS, np.float32)
    for i in range(first, last):
        panel, block = i // blocks, i % blocks
        _read_block(weight, panel, block, taps, kernels)
        for c in range(0, CHANNELS, 2):
            to = panel * number * apart + (block * CHANNELS + c) // 2 * width
            for m in range(0, width, CHANNELS):
                at, other = c * size + m, (c + 1) * size + m
                if side == 3:
                    taps_of_3(taps, at, other, side * width, width, panels, to + m, apart, unused, 0)
                else:
                    taps_of_5(taps, at, other, side * width, width, panels, to + m, apart, unused, 0)


@njit
def _first_of(panel, kernels):
    """(place of a panel's first weight, how many maps it has)."""
    of_group = -(-kernels.maps // kernels.width)
    begin = panel % of_group * kernels.width
    return panel // of_group * kernels.group + begin * kernels.map, min(kernels.width, kernels.maps - begin)


@njit
def _read_block(weight, panel, block, taps, kernels):
    """Of a block of channels: taps (channels, side * side, width). Maps that there are not are 0."""
    start, maps = _first_of(panel, kernels)
    start += kernels.first + block * CHANNELS * kernels.channel
    taps[:] = 0
    for tap in range(kernels.side**2):
        at, to, size = start + tap * kernels.tap, tap * kernels.width, kernels.side**2 * kernels.width
        if kernels.map == 1:
            for c in range(CHANNELS):
                here, there = np.uintp(to + c * size), np.uintp(at + c * kernels.channel)
                for m in range(np.uintp(maps)):
                    taps[here + m] = weight[there + m]
        else:
            for m in range(maps):
                here, there = np.uintp(to + m), np.uintp(at + m * kernels.map)
                for c in range(np.uintp(CHANNELS)):
                    taps[here + c * np.uintp(size)] = weight[there + c]


@njit
def from_sums(sums, gradient, first, last, tall, kernels, number):
    """Blocks of channels first to last, of all groups' panels: the gradient at the weights from sums (`number` of
    products, groups, panels, tall, width).
    """
    width, side, blocks = kernels.width, kernels.side, kernels.channels // CHANNELS
    size, apart = side * side * width, len(sums) // number
    taps, no_bias = np.zeros(CHANNELS * size, np.uint16), np.zeros(CHANNELS, np.float32)
    for i in range(first, last):
        panel, block = i // blocks, i % blocks
        for c in range(CHANNELS):
            at = (panel * tall + block * CHANNELS + c) * width
            for m in range(0, width, CHANNELS):
                if side == 3:
                    sums_of_3(sums, at + m, apart, no_bias, 0, taps, c * size + m, side * width, width)
                else:
                    sums_of_5(sums, at + m, apart, no_bias, 0, taps, c * size + m, side * width, width)
        start, maps = _first_of(panel, kernels)
        for tap in range(side * side):
            for m in range(maps):
                here = np.uintp(tap * width + m)
                there = np.uintp(start + tap * kernels.tap + m * kernels.map + block * CHANNELS)
                for c in range(np.uintp(CHANNELS)):
                    gradient[there + c] = taps[here + c * np.uintp(size)]
