"""Protocol buffers as they lie in a file, read as data: a message is a run of numbered fields.

    net = Message(path.read_bytes())
    net.messages(100)[0].text(1)        the first field 1 of the first message in field 100

Nothing is known of any schema here, and nothing nests unless it is asked for, so depth is the caller's. Lengths are
compared with what is there before a byte is taken, and one file may hold MAX_FIELDS fields in all. Whatever is wrong
with the bytes is a ValueError.
"""

from __future__ import annotations

import numpy as np

MAX_FIELDS = 100_000  # of one file; a snapshot of AlexNet has about a thousand
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_DIMS_NBYTES = 80


class Message:
    """The fields of one message by number, in the order of the file: whole numbers, or bytes not looked into."""

    def __init__(self, data: bytes | memoryview, budget: list[int] | None = None):
        self.budget = [MAX_FIELDS] if budget is None else budget
        self.fields: dict[int, list[int | memoryview]] = {}
        data, at = memoryview(data), 0
        while at < len(data):
            number, value, at = self._field(data, at)
            self.fields.setdefault(number, []).append(value)

    def _field(self, data: memoryview, at: int) -> tuple[int, int | memoryview, int]:
        """(number, value, where the next one begins)."""
        self.budget[0] -= 1
        if self.budget[0] < 0:
            raise ValueError(f"it holds more than {MAX_FIELDS:,} fields")
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            return number, value, at
        if kind not in (FIXED64, BYTES, FIXED32) or number == 0:
            raise ValueError(f"byte {at:,} begins no field")
        nbytes, at = _varint(data, at) if kind == BYTES else (8 if kind == FIXED64 else 4, at)
        if nbytes > len(data) - at:
            raise ValueError(f"it ends early: field {number} says {nbytes:,} bytes and {len(data) - at:,} are left")
        return number, data[at : at + nbytes], at + nbytes

    def messages(self, number: int) -> list[Message]:
        return [Message(value, self.budget) for value in self._all(number, memoryview)]

    def message(self, number: int) -> Message:
        """The last one, as the format wants it; an empty one where there is none."""
        values = self._all(number, memoryview)
        return Message(values[-1] if values else b"", self.budget)

    def whole(self, number: int, default: int = 0) -> int:
        return [default, *self._all(number, int)][-1]

    def wholes(self, number: int) -> list[int]:
        """A repeated whole number, one by one or packed; no more than a few, as for sizes."""
        values: list[int] = []
        for value in self.fields.get(number, []):
            values += [value] if isinstance(value, int) else _varints(value)
        return values

    def real(self, number: int, default: float) -> float:
        values = self.reals(number, "<f4")
        return float(values[-1]) if values.size else default

    def reals(self, number: int, dtype: str) -> np.ndarray:
        """A repeated real number, packed or one by one, without a copy where it lies in one piece."""
        pieces = self._all(number, memoryview)
        if any(len(piece) % np.dtype(dtype).itemsize for piece in pieces):
            raise ValueError(f"field {number} holds a broken number")
        arrays = [np.frombuffer(piece, dtype) for piece in pieces]
        return arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, dtype), *arrays])

    def text(self, number: int) -> str:
        values = self._all(number, memoryview)
        text = bytes(values[-1][:200]).decode("utf-8", "replace") if values else ""
        return "".join(letter for letter in text if letter.isprintable())

    def _all(self, number: int, kind: type) -> list:
        values = self.fields.get(number, [])
        if not all(isinstance(value, kind) for value in values):
            raise ValueError(f"field {number} is of another kind than it should be")
        return values


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends inside a number")
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(f"byte {at:,} is inside a number of more than 64 bits")


def _varints(data: memoryview) -> list[int]:
    if len(data) > MAX_DIMS_NBYTES:
        raise ValueError(f"{len(data):,} bytes of sizes")
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values
