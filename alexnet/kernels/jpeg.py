"""The door to decoding the JPEGs of a pack; all begin with the same bytes, which are read once.

    decoder = Decoder(256)                  one thread's
    decoder.decode(stored, out_hwc)         True: the picture is in `out_hwc`
    decode(...)                             the same for compiled loops, and for parts of a picture

False says that it is another kind of JPEG, or damaged: libjpeg-turbo is to decide. Of what an encoder wrote, both make
the same pixels. Source: ITU-T T.81, annex B (segments) and C.2 (codes from their lengths).
"""

from __future__ import annotations

import numpy as np

from alexnet.kernels import jpeg_numba
from alexnet.kernels.jpeg_numba import (
    AFTER,
    CODE_BITS,
    END_OF_BLOCK,
    NO_CODE,
    NUMBER_BITS,
    SECOND,
    SECOND_SKIP,
    SHORT_BITS,
    SKIP,
    Box,
    Header,
    decode,
)  # fmt: skip
from alexnet.kernels.jpeg_tile import COLUMNS

START = b"\xff\xd8"
QUANTS, FRAME, HUFFMAN, SCAN, JFIF = 0xDB, 0xC0, 0xC4, 0xDA, 0xE0  # segments: DQT, SOF0, DHT, SOS, APP0
SAMPLED = bytes([3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])  # each component's number, sampling (4:2:0), quants
CODED = bytes([3, 1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0])  # each component's number and tables; all coefficients at once
DC, AC = 0, 1
TABLES = ((DC, 0), (DC, 1), (AC, 0), (AC, 1))  # 0 of luma, 1 of chroma
MOST_BITS = (11, 10)  # of the number of a DC and an AC


class Decoder:
    """A thread's memory for squares of `size_px`, and the last header that it met."""

    def __init__(self, size_px: int) -> None:
        self.sizes = jpeg_numba.sizes(size_px)
        self.memory = jpeg_numba.memory(self.sizes)
        self.start, self.header = b"", None

    def decode(self, stored: bytes, out_hwc: np.ndarray) -> bool:
        """The picture into `out_hwc` (S, S, 3) uint8, C-contiguous; or False."""
        header, size, data = self.learn(stored), self.sizes.size_px, np.frombuffer(stored, np.uint8)
        place = self.sizes, self.memory, Box(0, size, 0, size), out_hwc.reshape(-1)
        return header is not None and decode(data, 0, len(stored), header, *place)

    def learn(self, stored: bytes) -> Header | None:
        """The header of a picture, read where it is not the last one; None for another kind of JPEG."""
        if self.header is None or not stored.startswith(self.start):
            self.header = read_header(stored, self.sizes.size_px)
            self.start = b"" if self.header is None else self.header.start.tobytes()
        return self.header


def serves(size_px: int) -> bool:
    """Whether squares of this size are decoded here."""
    return size_px % 2 == 0 and size_px >= 2 * COLUMNS


def read_header(stored: bytes, size_px: int) -> Header | None:
    """What the bytes before the scan say; None where `jpeg_numba.decode` cannot do what they ask for."""
    if not serves(size_px) or not stored.startswith(START):
        return None
    try:
        return _read_segments(stored, size_px)
    except (IndexError, KeyError, ValueError):  # cut short, or a table is missing or impossible
        return None


def _read_segments(stored: bytes, size_px: int) -> Header | None:
    quants, codes, at = {}, {}, len(START)
    seen = {bytes([8]) + 2 * size_px.to_bytes(2) + SAMPLED: 0, CODED: 0}
    while stored[at] == 0xFF:
        kind, end = stored[at + 1], at + 2 + int.from_bytes(stored[at + 2 : at + 4])
        body, at = stored[at + 4 : end], end
        if kind == QUANTS:
            quants |= {body[i]: body[i + 1 : i + 65] for i in range(0, len(body), 65)}
        elif kind == HUFFMAN:
            codes |= _codes(body)
        elif kind in (FRAME, SCAN):
            seen[body] += 1
        elif kind != JFIF or not body.startswith(b"JFIF\0\1"):
            return None
        if kind == SCAN:
            once = set(seen.values()) == {1}
            return Header(np.frombuffer(stored[:at], np.uint8), _tables(codes), _row_by_row(quants)) if once else None
    return None


def _codes(body: bytes) -> dict[tuple[int, int], np.ndarray]:
    """By kind and number of a Huffman table: the entries of all 65,536 values of the next 16 bits."""
    found = {}
    while body:
        kind, number, counts = body[0] >> 4, body[0] & 15, list(body[1:17])
        symbols, body = body[17 : 17 + sum(counts)], body[17 + sum(counts) :]
        lengths = np.repeat(np.arange(1, 17), counts)
        values = 1 << (16 - lengths)  # that begin with a code of this length
        if values.sum() >= 1 << 16:  # the last one begins with no code
            raise ValueError
        entries = [_entry(kind, int(length), symbol) for length, symbol in zip(lengths, symbols, strict=True)]
        found[kind, number] = np.full(1 << 16, NO_CODE << SKIP | (NO_CODE + 1) << AFTER, np.uint64)
        found[kind, number][: values.sum()] = np.repeat(np.array(entries, np.uint64), values)
    return found


def _entry(kind: int, code_bits: int, symbol: int) -> int:
    skip, number_bits = symbol >> 4, symbol & 15
    if number_bits > MOST_BITS[kind] or (kind == DC and skip):
        raise ValueError
    if kind == AC and number_bits == 0 and skip != 15:
        skip = END_OF_BLOCK
    skips = skip << SKIP | skip << SECOND_SKIP | (skip + 1) << AFTER
    return code_bits + number_bits | code_bits << CODE_BITS | number_bits << NUMBER_BITS | skips


def _tables(codes: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    """The four tables in their two parts: the entries of the first bits, as far as these tell a code, 0 beyond; and the
    entries of all 16 bits, from where the first table ends to do so.
    """
    entries = [codes[table] for table in TABLES]
    ends = [int(np.argmax((_part(all_, CODE_BITS) > SHORT_BITS) | (_part(all_, SKIP) == NO_CODE))) for all_ in entries]
    parts = []
    for (kind, _), all_, end in zip(TABLES, entries, ends, strict=True):
        short = np.where(np.arange(1 << 16) < end, all_, 0)[:: 1 << (16 - SHORT_BITS)]
        parts += [_with_seconds(short) if kind == AC else short, all_[min(ends) :]]
    return np.concatenate(parts)


def _with_seconds(short: np.ndarray) -> np.ndarray:
    """Entries that tell of the next code and its number too, where their bits hold both whole."""
    told, mask = _part(short, 0), short.size - 1
    rest = np.arange(short.size) << told & mask
    then = short[rest]
    code_bits, number_bits, skip = (_part(then, part) for part in (CODE_BITS, NUMBER_BITS, SKIP))
    number = (rest << code_bits & mask) >> SHORT_BITS - number_bits
    number += np.where(number >> np.maximum(number_bits - 1, 0), 0, 1 - (1 << number_bits))
    both = told + code_bits + number_bits
    after = _part(short, AFTER)
    entries = both | (after + skip) << SECOND_SKIP | (after + skip + 1) << AFTER | number << SECOND
    entries |= (short & np.uint64((1 << SECOND_SKIP) - (1 << CODE_BITS))).astype(np.int64)
    alone = (short == 0) | (then == 0) | (_part(short, SKIP) == END_OF_BLOCK) | (both > SHORT_BITS)
    return np.where(alone, short, entries.astype(np.uint64))


def _part(entries: np.ndarray, first_bit: int) -> np.ndarray:
    return (entries >> np.uint64(first_bit)).astype(np.int64) & (63 if first_bit < SKIP else 255)


def _row_by_row(quants: dict[int, bytes]) -> np.ndarray:
    """Of luma and chroma, which come in zigzag order."""
    rows = np.zeros((2, 64), np.int32)
    rows[:, jpeg_numba.ZIGZAG] = [np.frombuffer(quants[table], np.uint8) for table in (0, 1)]
    return rows.reshape(-1)
