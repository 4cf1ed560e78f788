"""The same-map response norm as compiled CPU loops: windows over height and breadth.

A picture goes by row by row. Each row is squared, summed along the row, and takes the place of the oldest of the last
`length` of such sums, which stay in cache; their sum over the rows is the window's. The gradient's windows go the same
way, some rows behind. Arithmetic, types and silent windows as in `lrn_numba`.
"""

import numpy as np

from alexnet.kernels.compiled import njit
from alexnet.kernels.lrn_numba import START, _floats, _gradient, _powers, _scale, _square, _weigh, _window_sums


@njit
def _sum_of_rows(rows, sums, length, line):
    """sums = the sum of `length` rows of `line` numbers."""
    if length == 5:
        one, two, three, four = rows[line:], rows[2 * line :], rows[3 * line :], rows[4 * line :]
        for i in range(line):
            sums[i] = ((rows[i] + one[i]) + (two[i] + three[i])) + four[i]
        return
    for i in range(line):
        sums[i] = rows[i]
    for row in range(1, length):
        more = rows[row * line :]
        for i in range(line):
            sums[i] += more[i]


@njit
def _sums_along(padded, spare, sums, before, length, channels, line):
    """Window sums along one row of `line` numbers, which lies `before` pixels into `padded`."""
    padded[: before * channels] = 0  # summing may have used the padding
    padded[before * channels + line :] = 0
    _window_sums(padded, spare, sums[:line], length, channels)


@njit
def map_forward(x, y, first, last, height, breadth, channels, before, length, k, a, beta):
    """y for pictures [first, last)."""
    line, after = breadth * channels, length - 1 - before
    padded, spare = _floats(line + (length - 1) * channels), _floats(line + (length - 1) * channels)
    rows, sums, factors = _floats(length * line), _floats(line), _floats(line)
    for picture in range(first, last):
        start = picture * height * line
        rows[:] = 0
        for h in range(height + after):
            newest = rows[h % length * line :]
            if h < height:
                _square(x, start + h * line, line, 1, line, padded, before * channels, line)
                _sums_along(padded, spare, newest, before, length, channels, line)
            else:
                newest[:line] = 0
            if h >= after:
                _sum_of_rows(rows, sums, length, line)
                _powers(sums, factors, k, a, beta)
                _scale(x, y, start + (h - after) * line, line, 1, line, factors, START, line)


@njit
def map_backward(x, g, dx, first, last, height, breadth, channels, before, length, k, a, beta):
    """The gradient of `map_forward`, for pictures [first, last)."""
    line, after, share = breadth * channels, length - 1 - before, np.float32(2) * a * beta
    padded, spare = _floats(line + (length - 1) * channels), _floats(line + (length - 1) * channels)
    weighed, sums = _floats(line + (length - 1) * channels), _floats(line)
    rows, gathered = _floats(length * line), _floats(length * line)
    factors = _floats((before + 1) * line)  # of the rows whose gradient is not written yet
    for picture in range(first, last):
        start = picture * height * line
        rows[:] = 0
        gathered[:] = 0
        for h in range(height + length - 1):
            newest, out, done = rows[h % length * line :], h - after, h - after - before
            if h < height:
                _square(x, start + h * line, line, 1, line, padded, before * channels, line)
                _sums_along(padded, spare, newest, before, length, channels, line)
            else:
                newest[:line] = 0
            if 0 <= out < height:
                factor, origin = factors[out % (before + 1) * line :], start + out * line
                _sum_of_rows(rows, sums, length, line)
                _powers(sums, factor, k, a, beta)
                _weigh(x, g, origin, line, 1, line, factor, sums, START, line, weighed, after * channels)
                _sums_along(weighed, spare, gathered[out % length * line :], after, length, channels, line)
            elif out >= height:
                gathered[out % length * line :][:line] = 0
            if done >= 0:
                _sum_of_rows(gathered, sums, length, line)
                factor = factors[done % (before + 1) * line :]
                _gradient(x, g, dx, start + done * line, line, 1, line, factor, sums, START, line, share)
