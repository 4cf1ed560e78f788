"""The response norm over channels as compiled CPU loops, one pass over memory forward and one backward.

    y = x * (k + a * window_sum(x^2)) ^ -beta          a = alpha / size (channels) or alpha / size^2 (same map)

Arrays are flat, channels last: a row per pixel (and tower) with its C channels; the window slides inside the row. Some
rows at a time are squared into a zero-padded buffer that stays in cache; windows are summed there by doubling (pairs,
fours ...: no subtraction, so no cancellation), or, five wide, where they are used. The backward pass computes the scale
again: that is cheaper than storing and reading it. bfloat16 comes as its bits (uint16), is computed in float32 and
rounded to nearest even. Where the scale is 0, or denormal (k = 0, a silent window), y and its gradient are 0. NaN goes
through, inf stays non-finite. The norm within a map (`lrn_map_numba`) has its sums and powers from here.
"""

import numpy as np

from alexnet.kernels.compiled import narrow, njit, widen

TILE_FLOATS = 1024
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
            y[row + c] = narrow(widen(x[row + c]) * factors[tile + c], y[row + c])


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
            dx[row + c] = narrow(direct - share * widen(x[row + c]) * gathered[tile + c], dx[row + c])


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


# The paper's window of five and power of 0.75: sums and powers in the loops that read and write the maps. Without
# AVX-512, bfloat16's conversions make them too long for a processor to have enough of their rounds in work.


@njit
def _five(values, at):
    """The sum of five neighbours."""
    two, three, four = at + np.uintp(2), at + np.uintp(3), at + np.uintp(4)
    return ((values[at] + values[at + np.uintp(1)]) + (values[two] + values[three])) + values[four]


@njit
def _scale_fives(x, y, origin, rows, width, squares, pitch, k, a):
    for r in range(rows):
        row, tile = np.uintp(origin + r * width), np.uintp(r * pitch)
        for c in range(np.uintp(width)):
            q = _quarter_power(k + a * _five(squares, tile + c))
            y[row + c] = narrow(widen(x[row + c]) * (q * q * q), y[row + c])


@njit
def _weigh_fives(x, g, origin, rows, width, squares, pitch, k, a, direct, weighed):
    """direct = g s^-0.75 and, two places on, weighed = g x s^-1.75."""
    for r in range(rows):
        row, tile, padded = np.uintp(origin + r * width), np.uintp(r * pitch), np.uintp(r * pitch + 2)
        for c in range(np.uintp(width)):
            q = _quarter_power(k + a * _five(squares, tile + c))
            scaled = widen(g[row + c]) * (q * q * q)
            direct[tile + c] = scaled
            weighed[padded + c] = scaled * widen(x[row + c]) * ((q * q) * (q * q))


@njit
def _gradient_fives(x, dx, origin, rows, width, direct, weighed, pitch, share):
    for r in range(rows):
        row, tile = np.uintp(origin + r * width), np.uintp(r * pitch)
        for c in range(np.uintp(width)):
            dx[row + c] = narrow(direct[tile + c] - share * widen(x[row + c]) * _five(weighed, tile + c), dx[row + c])


@njit
def fives_forward(x, y, first, last, channels, k, a):
    """`channels_forward` with before = 2, length = 5, beta = 0.75."""
    pitch = channels + 4
    tile = max(1, TILE_FLOATS // pitch)
    squares = _floats(tile * pitch)  # the padding stays zero
    for start in range(first, last, tile):
        rows, origin = min(tile, last - start), start * channels
        _square(x, origin, channels, rows, channels, squares, 2, pitch)
        _scale_fives(x, y, origin, rows, channels, squares, pitch, k, a)


@njit
def fives_backward(x, g, dx, first, last, channels, k, a):
    """`channels_backward` with before = 2, length = 5, beta = 0.75."""
    pitch = channels + 4
    tile = max(1, TILE_FLOATS // pitch)
    squares, direct, weighed = _floats(tile * pitch), _floats(tile * pitch), _floats(tile * pitch)
    share = np.float32(1.5) * a
    for start in range(first, last, tile):
        rows, origin = min(tile, last - start), start * channels
        _square(x, origin, channels, rows, channels, squares, 2, pitch)
        _weigh_fives(x, g, origin, rows, channels, squares, pitch, k, a, direct, weighed)
        _gradient_fives(x, dx, origin, rows, channels, direct, weighed, pitch, share)
