"""Blocks of side x side pixels of a picture laid together as the channels of one pixel, as a compiled CPU loop."""

import numpy as np

from alexnet.kernels.compiled import njit


@njit
def in_blocks(x, out, first, last, height, width, channels, before, side, rows, columns):
    """Pictures first to last of x (pictures, height, width, channels), with `before` zeros at the left and the top and
    as many as are needed elsewhere, to `out` (pictures, rows, columns, side * side * channels).
    """
    line, reach = np.uintp(side * channels), width * channels
    for n in range(first, last):
        for row in range(rows):
            for part in range(side):
                y = row * side + part - before
                source = (n * height + y) * reach
                for column in range(columns):
                    start = (column * side - before) * channels
                    target = np.uintp((((n * rows + row) * columns + column) * side + part) * side * channels)
                    if 0 <= y < height and start >= 0 and start + side * channels <= reach:
                        place = np.uintp(source + start)
                        for i in range(line):
                            out[target + i] = x[place + i]
                    else:
                        for i in range(side * channels):
                            inside = 0 <= y < height and 0 <= start + i < reach
                            out[target + np.uintp(i)] = x[source + start + i] if inside else 0
