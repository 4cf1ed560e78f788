"""A pack's squares from JPEG to pixels, as a compiled loop: baseline, 8 bits, one scan, 4:2:0.

Four things make it quicker than a library that takes any JPEG: one look into a table tells a Huffman code and its
number's length, and often the next code and number too; 16 blocks are transformed at a time, one in each lane of a
vector; what no crop shows is left out; and headers are read once. The pixels are libjpeg's.

Source: ITU-T T.81, F.2.2 (Huffman codes and their numbers), A.2.3 (the order of blocks in an MCU).
"""

from typing import NamedTuple

import numpy as np

from alexnet.kernels.compiled import njit
from alexnet.kernels.jpeg_tile import BLOCKS, COLUMNS, eight_bytes, inverse_dct, pixels, put_eight_bytes

# An entry of a table, from its lowest bit on: how many bits it is about (6 bits); of them those of the first code (6)
# and of its number (6); coefficients to skip before the first (8) and the second number (8), and after both (8), all
# counted from where the first look was taken; the second number (16). One without a second repeats the first's skip.
CODE_BITS, NUMBER_BITS, SKIP, SECOND_SKIP, AFTER, SECOND = 6, 12, 18, 26, 34, 48
SHORT_BITS = 10  # that look into a table's first part; longer codes are in its second
END_OF_BLOCK, NO_CODE = 192, 64  # skips, by which it shows how a block ended
ROOM = 256  # bytes read behind a scan that ends too soon: no block takes more

MCU_PX = 16  # 4 blocks of luma, one of each chroma
MARGIN = 16  # bytes on each side of a line of chroma
GROUP = 64 * BLOCKS  # coefficients of the blocks that are transformed together

U = np.uint64
U1, U3, U8, U56, U63, U64, U255 = (U(number) for number in (1, 3, 8, 56, 63, 64, 255))
TO_SHORT, TO_LONG, SHORT = U(64 - SHORT_BITS), U(64 - 16), U(1 << SHORT_BITS)
ONES, TOPS = U(0x0101010101010101), U(0x8080808080808080)  # of eight bytes
ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i % 8 if (i // 8 + i % 8) % 2 == 0 else i // 8))
# Of coefficients in their group. Those that do not exist have the place of the DC, which is written last.
PLACES = np.array([BLOCKS * i for i in ZIGZAG] + [0] * (END_OF_BLOCK + 64), np.uint16)


class Header(NamedTuple):
    """What comes before the scan, uint8, and what it says. `codes` uint64: four tables of equal size, DC of luma and
    chroma, then AC of both. `quants` int32 (128,): what coefficients of luma and chroma are multiplied by, row by row.
    """

    start: np.ndarray
    codes: np.ndarray
    quants: np.ndarray


class Sizes(NamedTuple):
    """Of a square: pixels; MCUs in a row; groups of luma and of chroma in a row of blocks; bytes of a line of each;
    where chroma begins in the planes, and the bytes of one of its two planes.
    """

    size_px: int
    mcus: int
    luma_groups: int
    chroma_groups: int
    luma_line: int
    chroma_line: int
    chroma_at: int
    chroma_nbytes: int


class Memory(NamedTuple):
    """The scan's bytes, uint8; coefficients of a row of MCUs, int16; planes of luma and chroma, uint8; and what one row
    leaves to the next, uint64: the next byte, the bits in hand, how many, and the last DC of each plane.
    """

    scan: np.ndarray
    coefficients: np.ndarray
    planes: np.ndarray
    state: np.ndarray


class Box(NamedTuple):
    """The pixels that are wanted: rows top ... bottom - 1, columns left ... right - 1."""

    top: int
    bottom: int
    left: int
    right: int


def sizes(size_px: int) -> Sizes:
    mcus = -(-size_px // MCU_PX)
    luma, chroma = -(-2 * mcus // BLOCKS), -(-mcus // BLOCKS)
    luma_line, chroma_line = 8 * BLOCKS * luma, 8 * BLOCKS * chroma + 2 * MARGIN
    planes = MCU_PX * mcus * luma_line, MCU_PX // 2 * mcus * chroma_line
    return Sizes(size_px, mcus, luma, chroma, luma_line, chroma_line, *planes)


def memory(of: Sizes) -> Memory:
    """For squares of these sizes; noise at quality 100 takes two thirds of the scan's."""
    coefficients = np.zeros(2 * (of.luma_groups + of.chroma_groups) * GROUP, np.int16)
    planes = np.zeros(of.chroma_at + 2 * of.chroma_nbytes, np.uint8)
    scan = np.zeros(3 * (MCU_PX * of.mcus) ** 2 + ROOM, np.uint8)
    return Memory(scan, coefficients, planes, np.zeros(6, np.uint64))


@njit
def decode(data, start, end, header, of, memory, box, out):
    """The box of a square, of an even number of pixels and at least 2 * COLUMNS, stored in data[start:end], to the flat
    `out` (S * S * 3,); other pixels are undefined after it. False where anything is not as it should be.
    """
    scan, last_byte = start + header.start.size, end - 2
    if scan > last_byte or last_byte - scan > memory.scan.size - ROOM or data[last_byte] != 255 or data[end - 1] != 217:
        return False
    for i in range(header.start.size):
        if data[start + i] != header.start[i]:
            return False
    nbytes = unstuffed(data, scan, last_byte, memory.scan)
    if nbytes < 0:
        return False
    memory.state[:] = 0
    first, last = max(0, box.top - 2) // MCU_PX, min(of.mcus, box.bottom // MCU_PX + 1)
    for row in range(last):
        memory.coefficients[:] = 0
        if not read_mcus(memory.scan, nbytes, memory.state, header.codes, of, memory.coefficients):
            return False
        if row >= first:
            transform(memory.coefficients, header.quants, row, of, memory.planes)
    if last == of.mcus and 8 * nbytes - np.int64(U8 * memory.state[0] - memory.state[2]) >= 8:
        return False  # bytes are left
    repeat_edges(memory.planes, of)
    convert(memory.planes, of, box, out)
    return True


@njit
def unstuffed(data, start, end, out):
    """The scan's bytes without the 0 that follows every 255; how many, or -1 where something else follows."""
    at, end, to = U(start), U(end), U(0)
    while at < end:
        stop = at + U8
        if stop <= end:
            bits = eight_bytes(data, at)
            if (~bits - ONES) & bits & TOPS == U(0):  # none of them is 255
                put_eight_bytes(out, to, bits)
                at, to = stop, to + U8
                continue
        stop = min(stop, end)
        while at < stop:
            byte = data[at]
            out[to] = byte
            at, to = at + U1, to + U1
            if byte == 255:
                if at >= end or data[at] != 0:
                    return -1
                at += U1
    return np.int64(to)


@njit
def read_mcus(scan, nbytes, state, codes, of, coefficients):
    """The coefficients of a row of MCUs into groups (64, BLOCKS): two rows of luma, then both chromas; False for what
    is no code, blocks of too many coefficients, or a scan that has ended.

    Of the bits in hand the next is on top; after a look into the scan they are 56 to 63, and two entries take at most
    53. It is one loop, since numba counts arrays in use at every call.
    """
    at, bits, count = state[0], state[1], state[2]
    table = U(len(codes) // 4)
    longer = U(1 << 16) + SHORT - table  # than short: values of 16 bits from here on
    for mcu in range(of.mcus):
        for block in range(6):
            chroma = block > 3
            plane, column = (block - 3, mcu) if chroma else (0, 2 * mcu + block % 2)
            group = 2 * of.luma_groups + (block - 4) * of.chroma_groups if chroma else block // 2 * of.luma_groups
            to = U((group + column // BLOCKS) * GROUP + column % BLOCKS)
            dc = table if chroma else U(0)
            ac = dc + U(2) * table

            bits, at, count = bits | (eight_bytes(scan, at) >> count), at + ((U63 - count) >> U3), count | U56
            entry = codes[dc + (bits >> TO_SHORT)]
            if entry == U(0):
                entry = codes[dc + SHORT + (bits >> TO_LONG) - longer]
            if (entry >> U(SKIP)) & U255:
                return False
            state[3 + plane] += _number(bits, entry)
            bits, count, k = bits << (entry & U63), count - (entry & U63), U1

            while k < U64:
                bits, at, count = bits | (eight_bytes(scan, at) >> count), at + ((U63 - count) >> U3), count | U56
                for _ in range(2):
                    entry = codes[ac + (bits >> TO_SHORT)]
                    if entry == U(0):
                        entry = codes[ac + SHORT + (bits >> TO_LONG) - longer]
                    second, first = k + ((entry >> U(SECOND_SKIP)) & U255), k + ((entry >> U(SKIP)) & U255)
                    coefficients[to + U(PLACES[second])] = np.int64(entry) >> np.int64(SECOND)
                    coefficients[to + U(PLACES[first])] = np.int64(_number(bits, entry))
                    bits_before, count_before = bits, count
                    bits, count, k = bits << (entry & U63), count - (entry & U63), k + ((entry >> U(AFTER)) & U255)
                    if k >= U64:
                        break
            coefficients[to] = np.int64(state[3 + plane])
            if first == U63 and k != U64:  # the block was full: the second code is of the next one
                alone = ((entry >> U(CODE_BITS)) & U63) + ((entry >> U(NUMBER_BITS)) & U63)
                bits, count, k = bits_before << alone, count_before - alone, U64
            if U63 < first <= U(END_OF_BLOCK) or U64 < k <= U(END_OF_BLOCK) or U8 * at - count > U8 * U(nbytes):
                return False
    state[0], state[1], state[2] = at, bits, count
    return True


@njit
def _number(bits, entry):
    """What follows the first code; numbers that begin with a 0 are below 0 (T.81, F.2.2.1)."""
    size = (entry >> U(NUMBER_BITS)) & U63
    top = bits << ((entry >> U(CODE_BITS)) & U63)
    number = np.int64((top >> U1) >> (U63 - size))
    return U(number + (1 - (np.int64(1) << np.int64(size)) if np.int64(top) >= 0 else 0))


@njit
def transform(coefficients, quants, row, of, planes):
    """A row of MCUs to the planes. One place that calls `inverse_dct`, which is long, is compiled in half the time."""
    luma = 2 * of.luma_groups
    for group in range(luma + 2 * of.chroma_groups):
        if group < luma:
            half, column = group // of.luma_groups, group % of.luma_groups
            quants_at, line, to = 0, of.luma_line, (MCU_PX * row + 8 * half) * of.luma_line
        else:
            half, column = (group - luma) // of.chroma_groups, (group - luma) % of.chroma_groups
            quants_at, line = 64, of.chroma_line
            to = of.chroma_at + half * of.chroma_nbytes + 8 * row * line + MARGIN
        inverse_dct(coefficients, group * GROUP, quants, quants_at, planes, to + 8 * BLOCKS * column, line)


@njit
def repeat_edges(planes, of):
    """Beside the first and the last column of chroma their like, for pixels that lie between columns."""
    width = of.size_px // 2
    for line in range(of.chroma_at, of.chroma_at + 2 * of.chroma_nbytes, of.chroma_line):
        planes[line + MARGIN - 1] = planes[line + MARGIN]
        planes[line + MARGIN + width] = planes[line + MARGIN + width - 1]


@njit
def convert(planes, of, box, out):
    """The planes to red, green and blue of the box; some pixels beside it are written too."""
    size, last, chroma_at = of.size_px, of.size_px // 2 - COLUMNS, of.chroma_at + MARGIN
    for y in range(box.top, box.bottom):
        near = y // 2
        far = min(max(near + (1 if y % 2 else -1), 0), size // 2 - 1)
        near_at, far_at = chroma_at + near * of.chroma_line, chroma_at + far * of.chroma_line
        for column in range(box.left // 2, (box.right + 1) // 2, COLUMNS):
            x = min(column, last)
            luma_at, to = y * of.luma_line + 2 * x, 3 * (y * size + 2 * x)
            pixels(planes, luma_at, near_at + x, far_at + x, of.chroma_nbytes, out, to)
