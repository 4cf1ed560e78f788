"""The response norms as compiled CPU loops, one pass over memory forward and one backward, float32 and bfloat16.

    y = x * (k + a * window_sum(x^2)) ^ -beta          a = alpha / size (channels) or alpha / size^2 (same map)

Arrays are flat, channels last. Channels: a row per pixel (and tower) with its C channels; the window slides inside the
row. Same map: the window slides over height and breadth, a block of channels at a time. Both square a tile into a
zero-padded buffer that stays in cache, sum windows there by doubling (pairs, fours ...: no subtraction, so no
cancellation), and multiply. The backward pass computes the scale again: that is cheaper than storing and reading it.
bfloat16 comes as its bits (uint16), is computed in float32 and rounded to nearest even. Where the scale is 0, or
denormal (k = 0, a silent window), y and its gradient are 0. NaN goes through, inf stays non-finite.
"""

import numpy as np

from alexnet.kernels.compiled import njit, put, widen

TILE_FLOATS = 1024
CHANNEL_BLOCK = 32
ZERO, ONE, QUARTER, FIVE_32NDS = (np.float32(v) for v in (0, 1, 1 / 4, 5 / 32))
START, NEXT = np.int64(0), np.int64(1)  # typed: for a literal, numba would compile the function again
GUESS = np.uint32(0x4F58A000)
FLOAT_TINY, FLOAT_MAX = np.finfo(np.float32).tiny, np.finfo(np.float32).max


@njit
def _floats(n):
    """An own allocation for each buffer: out of one block, LLVM can not tell them apart and does not vectorise."""
    return np.zeros(n, np.float32)


@njit
def _window_sums(squares, spare, sums, length, stride):
    """sums[i] = squares[i] + squares[i + stride] + ... (`length` terms); overwrites `squares` and `spare`."""
    if length == 5:  # the paper's windows, in one loop
        one, two, three, four = squares[stride:], squares[2 * stride :], squares[3 * stride :], squares[4 * stride :]
        for i in range(len(four)):
            sums[i] = ((squares[i] + one[i]) + (two[i] + three[i])) + four[i]
        return
    taken = 0
    span = 1
    while True:
        if length & span:
            shifted = squares[taken * stride :]
            n = min(len(sums), len(shifted))
            if taken == 0:
                for i in range(n):
                    sums[i] = shifted[i]
            else:
                for i in range(n):
                    sums[i] += shifted[i]
            taken += span
        if 2 * span > length:
            return
        shifted = squares[span * stride :]
        for i in range(len(shifted)):
            spare[i] = squares[i] + shifted[i]
        squares, spare = spare, squares
        span *= 2


@njit
def _bits(value):
    return np.float32(value).view(np.uint32)


@njit
def _quarter_power(s):
    """s^(-1/4) to float32's accuracy without division or root: a guess from the exponent bits, then two cubic steps."""
    s = FLOAT_MAX if s > FLOAT_MAX else s
    q = np.uint32(GUESS - (_bits(s) >> np.uint32(2))).view(np.float32)
    e = ONE - s * ((q * q) * (q * q))
    q += q * e * (QUARTER + FIVE_32NDS * e)
    e = ONE - s * ((q * q) * (q * q))
    q += q * e * (QUARTER + FIVE_32NDS * e)
    return ZERO if s < FLOAT_TINY else q


@njit
def _powers(sums, factors, k, a, beta):
    """For s = k + a * sums: factors = s^-beta, and sums becomes 1 / s; both 0 where s is 0."""
    if beta == np.float32(0.75):
        for i in range(len(sums)):
            q = _quarter_power(k + a * sums[i])
            sums[i] = (q * q) * (q * q)
            factors[i] = q * q * q
    elif beta == ONE:
        for i in range(len(sums)):
            s = k + a * sums[i]
            r = ZERO if s < FLOAT_TINY else ONE / s
            sums[i] = r
            factors[i] = r
    else:
        for i in range(len(sums)):
            s = k + a * sums[i]
            sums[i] = ZERO if s < FLOAT_TINY else ONE / s
            factors[i] = ZERO if s < FLOAT_TINY else s ** (-beta)


@njit
def _fives(squares, factors, k, a):
    """The paper's windows and power in one loop: factors = (k + a * sum of five squares)^-0.75, 0 where that is 0."""
    one, two, three, four = squares[1:], squares[2:], squares[3:], squares[4:]
    for i in range(len(four)):
        q = _quarter_power(k + a * (((squares[i] + one[i]) + (two[i] + three[i])) + four[i]))
        factors[i] = q * q * q


@njit
def _fives_and_inverses(squares, factors, inverses, k, a):
    """The same, and inverses = (k + a * sum)^-1."""
    one, two, three, four = squares[1:], squares[2:], squares[3:], squares[4:]
    for i in range(len(four)):
        q = _quarter_power(k + a * (((squares[i] + one[i]) + (two[i] + three[i])) + four[i]))
        factors[i] = q * q * q
        inverses[i] = (q * q) * (q * q)


# The four loops below walk a tile: row r is `width` numbers at x[origin + r * step], in a buffer at [at + r * pitch].
# Indices are unsigned: a signed one might be negative, and the test for it keeps LLVM from vectorising.


@njit
def _square(x, origin, step, rows, width, out, at, pitch):
    for r in range(rows):
        row, padded = np.uintp(origin + r * step), np.uintp(at + r * pitch)
        for c in range(np.uintp(width)):
            value = widen(x[row + c])
            out[padded + c] = value * value


@njit
def _scale(x, y, origin, step, rows, width, factors, at, pitch):
    for r in range(rows):
        row, tile = np.uintp(origin + r * step), np.uintp(at + r * pitch)
        for c in range(np.uintp(width)):
            put(y, row + c, widen(x[row + c]) * factors[tile + c])


@njit
def _weigh(x, g, origin, step, rows, width, factors, inverses, at, pitch, out, out_at):
    """What the gradient's window gathers: g x s^(-beta - 1)."""
    for r in range(rows):
        row, tile, padded = np.uintp(origin + r * step), np.uintp(at + r * pitch), np.uintp(out_at + r * pitch)
        for c in range(np.uintp(width)):
            out[padded + c] = widen(g[row + c]) * widen(x[row + c]) * factors[tile + c] * inverses[tile + c]


@njit
def _gradient(x, g, dx, origin, step, rows, width, factors, gathered, at, pitch, share):
    for r in range(rows):
        row, tile = np.uintp(origin + r * step), np.uintp(at + r * pitch)
        for c in range(np.uintp(width)):
            direct = widen(g[row + c]) * factors[tile + c]
            put(dx, row + c, direct - share * widen(x[row + c]) * gathered[tile + c])


@njit
def channels_forward(x, y, first, last, channels, before, length, k, a, beta):
    """y for rows [first, last): the window of channel c is [c - before, c - before + length), cut at the row's ends."""
    pitch = channels + length - 1  # a row and its zero padding: windows of one row never see the next
    tile = max(1, TILE_FLOATS // pitch)
    n = tile * pitch
    squares, spare, sums, factors = _floats(n), _floats(n), _floats(n), _floats(n)
    usual = length == 5 and beta == np.float32(0.75)
    for start in range(first, last, tile):
        rows, origin = min(tile, last - start), start * channels
        if not usual:  # the padding around the squares stays zero, unless summing has used it
            squares[:] = 0
        _square(x, origin, channels, rows, channels, squares, before, pitch)
        if usual:
            _fives(squares, factors, k, a)
        else:
            _window_sums(squares, spare, sums, length, NEXT)
            _powers(sums, factors, k, a, beta)
        _scale(x, y, origin, channels, rows, channels, factors, START, pitch)


@njit
def channels_backward(x, g, dx, first, last, channels, before, length, k, a, beta):
    """dx = g s^-beta - 2 a beta x * sum of g x s^(-beta - 1) over the outputs whose window holds the channel."""
    pitch = channels + length - 1
    after = length - 1 - before  # the adjoint window is the mirrored one: it differs where the size is even
    tile = max(1, TILE_FLOATS // pitch)
    n = tile * pitch
    squares, spare, sums, factors, weighed = _floats(n), _floats(n), _floats(n), _floats(n), _floats(n)
    share = np.float32(2) * a * beta
    usual = length == 5 and beta == np.float32(0.75)
    for start in range(first, last, tile):
        rows, origin = min(tile, last - start), start * channels
        if not usual:
            squares[:] = 0
            weighed[:] = 0
        _square(x, origin, channels, rows, channels, squares, before, pitch)
        if usual:
            _fives_and_inverses(squares, factors, sums, k, a)
        else:
            _window_sums(squares, spare, sums, length, NEXT)
            _powers(sums, factors, k, a, beta)
        _weigh(x, g, origin, channels, rows, channels, factors, sums, START, pitch, weighed, after)
        _window_sums(weighed, spare, sums, length, NEXT)
        _gradient(x, g, dx, origin, channels, rows, channels, factors, sums, START, pitch, share)


@njit
def _square_sums(squares, spare, sums, length, width, line):
    """Sums over length x length windows, along image rows and then across them (`line` apart); answer in `squares`."""
    _window_sums(squares, spare, sums, length, width)
    _window_sums(sums, spare, squares, length, line)


@njit
def map_forward(x, y, first, last, height, breadth, channels, before, length, k, a, beta):
    """y for units [first, last), a unit being one picture's block of CHANNEL_BLOCK channels."""
    blocks = -(-channels // CHANNEL_BLOCK)
    n = (height + length - 1) * (breadth + length - 1) * CHANNEL_BLOCK
    squares, spare, sums, factors = _floats(n), _floats(n), _floats(n), _floats(n)
    for unit in range(first, last):
        channel = unit % blocks * CHANNEL_BLOCK
        width = min(CHANNEL_BLOCK, channels - channel)
        line = (breadth + length - 1) * width
        squares[:] = 0
        for h in range(height):
            origin = (unit // blocks * height + h) * breadth * channels + channel
            _square(x, origin, channels, breadth, width, squares, (h + before) * line + before * width, width)
        _square_sums(squares, spare, sums, length, width, line)
        _powers(squares, factors, k, a, beta)
        for h in range(height):
            origin = (unit // blocks * height + h) * breadth * channels + channel
            _scale(x, y, origin, channels, breadth, width, factors, h * line, width)


@njit
def map_backward(x, g, dx, first, last, height, breadth, channels, before, length, k, a, beta):
    """The gradient of `map_forward`, over the same units."""
    blocks = -(-channels // CHANNEL_BLOCK)
    n = (height + length - 1) * (breadth + length - 1) * CHANNEL_BLOCK
    squares, spare, sums, factors, weighed = _floats(n), _floats(n), _floats(n), _floats(n), _floats(n)
    after = length - 1 - before
    share = np.float32(2) * a * beta
    for unit in range(first, last):
        channel = unit % blocks * CHANNEL_BLOCK
        width = min(CHANNEL_BLOCK, channels - channel)
        line = (breadth + length - 1) * width
        squares[:] = 0
        weighed[:] = 0
        for h in range(height):
            origin = (unit // blocks * height + h) * breadth * channels + channel
            _square(x, origin, channels, breadth, width, squares, (h + before) * line + before * width, width)
        _square_sums(squares, spare, sums, length, width, line)
        _powers(squares, factors, k, a, beta)
        for h in range(height):
            origin = (unit // blocks * height + h) * breadth * channels + channel
            out_at = (h + after) * line + after * width
            _weigh(x, g, origin, channels, breadth, width, factors, squares, h * line, width, weighed, out_at)
        _square_sums(weighed, spare, sums, length, width, line)
        for h in range(height):
            origin = (unit // blocks * height + h) * breadth * channels + channel
            _gradient(x, g, dx, origin, channels, breadth, width, factors, weighed, h * line, width, share)
