"""Stored pictures to what the net sees, without Python in between, for which threads would wait for each other.

A picture is decoded as far as something is cut from it, and cut while its pixels are still in cache.
"""

from __future__ import annotations

import numpy as np

from alexnet.data.augment import Draws, cut_loop
from alexnet.data.resized_crop import resize_loop
from alexnet.kernels.compiled import njit
from alexnet.kernels.jpeg import Box, Decoder, decode


def cut_jpegs(
    decoder: Decoder,
    stored: list[bytes],
    draws: Draws,
    mean_scales: tuple[np.ndarray, np.ndarray],
    out_nhwc: np.ndarray,
    first: int,
) -> int:
    """`augment.cut_part` for the pictures [first, first + len(stored)) of a batch. How many were cut; where that is not
    all, the next one is another kind of JPEG, or damaged.
    """
    header = decoder.learn(stored[0])
    if header is None:
        return 0
    data, ends = np.frombuffer(b"".join(stored), np.uint8), np.cumsum([len(one) for one in stored])
    resized, crop = draws.heights is not None, np.full_like(draws.tops, out_nhwc.shape[1])
    boxes = np.stack([draws.tops, draws.lefts, *((draws.heights, draws.widths) if resized else (crop, crop))])
    places = (boxes, resized, draws.mirrors, mean_scales[0], draws.shifts, mean_scales[1])
    return cut_loop_of_jpegs(data, ends, header, decoder.sizes, decoder.memory, *places, out_nhwc, first)


@njit
def cut_loop_of_jpegs(data, ends, header, of, memory, boxes, resized, mirrors, mean, shifts, scales, out, first):
    """`boxes` int64 (4, N): tops, lefts, heights and widths in the squares."""
    tops, lefts, heights, widths = boxes[0], boxes[1], boxes[2], boxes[3]
    square, zeros = np.empty((1, of.size_px, of.size_px, 3), np.uint8), np.zeros_like(tops)
    whole = np.empty((1, *mean.shape) if resized else (1, 1, 1, 3), np.uint8)
    start = 0
    for i in range(ends.size):
        n = first + i
        box = Box(tops[n], tops[n] + heights[n], lefts[n], lefts[n] + widths[n])
        if not decode(data, start, ends[i], header, of, memory, box, square.reshape(-1)):
            return i
        if resized:
            resize_loop(square, tops, lefts, heights, widths, whole, n)
            cut_loop(whole, zeros, zeros, mirrors, mean, shifts, scales, out, n, n + 1)
        else:
            cut_loop(square, tops, lefts, mirrors, mean, shifts, scales, out, n, n + 1)
        start = ends[i]
    return ends.size
