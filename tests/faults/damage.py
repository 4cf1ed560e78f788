"""Ways in which bytes, files and pairs of files get damaged; a numpy Generator chooses, so that all can be redone."""

import os
import shutil
from pathlib import Path

import numpy as np

PAGE_NBYTES = 4096


def flip(data: bytearray, random: np.random.Generator) -> None:
    data[random.integers(len(data))] ^= 1 << int(random.integers(8))


def scribble(data: bytearray, random: np.random.Generator) -> None:
    """Up to eight bytes set to anything."""
    for place in random.integers(len(data), size=random.integers(1, 9)):
        data[place] = random.integers(256)


def cut(data: bytearray, random: np.random.Generator) -> None:
    del data[random.integers(len(data)) :]


def zero(data: bytearray, random: np.random.Generator) -> None:
    """A page, as a crash of the system leaves them."""
    start = int(random.integers(len(data))) // PAGE_NBYTES * PAGE_NBYTES
    data[start : start + PAGE_NBYTES] = bytes(len(data[start : start + PAGE_NBYTES]))


def append(data: bytearray, random: np.random.Generator) -> None:
    data += random.bytes(int(random.integers(1, 100)))


def repeat(data: bytearray, random: np.random.Generator) -> None:
    """A part once more, further on."""
    start, nbytes, to = random.integers(len(data)), random.integers(1, 65), random.integers(len(data))
    data[to:to] = data[start : start + nbytes]


def remove(data: bytearray, random: np.random.Generator) -> None:
    """A part from within."""
    start = random.integers(len(data))
    del data[start : start + random.integers(1, 65)]


BYTES = (flip, scribble, cut, zero, append, repeat, remove)


def changed(data: bytes, random: np.random.Generator, ways=BYTES) -> bytes:
    """`data` damaged in one of the ways, never as it was."""
    while True:
        damaged = bytearray(data)
        ways[random.integers(len(ways))](damaged, random)
        if damaged != data:
            return bytes(damaged)


def spoil(path: Path, other: Path, random: np.random.Generator) -> str:
    """Damages the file `path`, perhaps by exchanging it with `other`, deleting it, or putting a folder in its place;
    says how.
    """
    whole = path.read_bytes()
    kind = int(random.integers(10))
    if kind == 0:
        path.unlink()
        return "deleted"
    if kind == 1 and other.read_bytes() != whole:
        between = path.with_name("between")
        os.rename(path, between), os.rename(other, path), os.rename(between, other)
        return "exchanged"
    if kind == 2:
        path.unlink()
        path.mkdir()
        return "folder"
    if kind == 3:
        path.write_bytes(b"")
        return "emptied"
    path.write_bytes(changed(whole, random))
    return "changed"


def copied(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to))
