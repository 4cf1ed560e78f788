"""Thousands of mutated pictures and weight files: refused in words, or read; never a crash, a hang or a program run.

What a format lets pass cannot be refused: a flipped bit among JPEG's entropy-coded data, in BMP, GIF, PPM, WebP or
uncompressed TIFF gives other pixels and no sign of it (PNG has checksums, which the decoder compares). Weight files of
other tools: safetensors has no checksum, so other numbers may be read; .pth has one for each part.
"""

from collections import Counter
from pathlib import Path

import pytest

from alexnet.errors import DataError
from faults import fuzz
from faults.children import Child
from faults.tier import count

CHILDREN = 2


def outcomes(function, total: int, folder: Path, *args) -> tuple[Counter, list[str]]:
    """How often each word, and what went wrong; a child that ends is replaced and goes on after the case it was at."""
    words, wrong, size = Counter(), [], -(-total // CHILDREN)
    waiting = [(first, min(first + size, total)) for first in range(0, total, size)]
    while waiting:
        running = [(span, folder / f"{span[0]}.txt") for span in waiting[:CHILDREN]]
        del waiting[:CHILDREN]
        started = [Child(function, *span, str(report), *args) for span, report in running]
        for ((_, last), report), child in zip(running, started, strict=True):
            ended = child.end()
            lines = [line.split(maxsplit=1) for line in report.read_text().splitlines() if line]
            words.update(line[1] for line in lines if len(line) == 2)
            wrong += [f"case {' '.join(line)}" for line in lines if len(line) == 2 and line[1].startswith("WRONG")]
            if ended.status != 0:
                at = int(lines[-1][0])
                wrong.append(f"case {at}: status {ended.status}: {ended.told[-2000:]}")
                waiting += [(at + 1, last)] if at + 1 < last else []
    return words, wrong


def test_pictures(tmp_path, figures):
    total = count("pictures")
    words, wrong = outcomes(fuzz.pictures, total, tmp_path)
    silent = {word.split()[0]: n for word, n in sorted(words.items()) if word.endswith(" other")}
    refused = sum(n for word, n in words.items() if word.endswith(" refused"))
    figures.add("pictures", total, total - len(wrong), refused=refused, other_pixels=silent)
    assert not wrong, "\n".join(wrong)
    assert words.total() == total
    assert refused > total / 4


def test_weight_files(tmp_path, model, figures):
    total = count("weight files")
    words, wrong = outcomes(fuzz.weights, total, tmp_path, str(model))
    silent = {word.split()[0]: n for word, n in sorted(words.items()) if word.endswith(" other")}
    refused = sum(n for word, n in words.items() if word.endswith(" refused"))
    figures.add("weight files", total, total - len(wrong), refused=refused, other_numbers=silent)
    assert not wrong, "\n".join(wrong)
    assert words.total() == total
    assert refused > total / 2


def test_a_changed_byte_of_a_png_is_found():
    """Pillow alone lets some pass."""
    for data in (data for kind, data in fuzz.sound_pictures() if kind == "PNG"):
        start = data.index(b"IDAT")
        for place in range(start + 4, len(data) - 12, 97):
            damaged = bytearray(data)
            damaged[place] ^= 0x55
            with pytest.raises(DataError):
                fuzz.image.decode(bytes(damaged))


def test_a_crash_a_hang_and_a_started_program_are_seen(tmp_path):
    words, wrong = outcomes(fuzz.misbehaving, 8, tmp_path)
    assert words == {"fine": 4}
    assert [line.split(":")[0] + line.split(":")[1] for line in sorted(wrong)] == [
        "case 1 status -11", "case 3 status -14", "case 5 status 99", "case 7 status 1",
    ]  # fmt: skip


def test_sound_pictures_are_read():
    shapes = {fuzz.image.decode(data).shape for _, data in fuzz.sound_pictures()}
    assert shapes == {(48, 64, 3), (64, 48, 3)}  # one is turned by its EXIF tag
