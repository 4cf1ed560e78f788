"""Mutated pictures and weight files, given to the functions that read strangers' files, in a child with an alarm and
little memory.

    pictures(first, last, report)      image.decode: uint8 (h, w, 3), or a DataError
    weights(first, last, report)       convert.read, predict.load: a model, or an AlexnetError

Case i is made from a sound file by a Generator seeded with i, so a report names everything needed to see it again. What
ends the child (a crash, an alarm, another exception) is seen from outside: the case's number is in the report first.
"""

import io
import json
import os
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from alexnet import checkpoint, convert, predict
from alexnet.data import image
from alexnet.errors import AlexnetError, DataError
from alexnet.weights.torchfile import tensors_of
from alexnet.weights.torchvision import NAMES, SHAPES
from faults import damage

CASE_S = 20
MORE_MEMORY_NBYTES = 3 << 30
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.forkpty",
    "pty.spawn",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
)


def guard() -> None:
    """Bounds this process's memory; a program started, or a connection made, ends it with status 99."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_MEMORY_NBYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def hear(event: str, arguments: tuple) -> None:
        if event in FORBIDDEN:
            os.write(2, f"{event} {arguments}\n".encode())
            os._exit(99)

    sys.addaudithook(hear)


def cases(first: int, last: int, report: str, judge: Callable[[int], str]) -> None:
    """Writes `number word` for each case: `judge` says what came of it."""
    guard()
    with open(report, "a", buffering=1) as file:
        for number in range(first, last):
            file.write(f"\n{number} ")
            signal.alarm(CASE_S)  # its default action ends the process
            file.write(judge(number))
            signal.alarm(0)


# Pictures.


def scene(height: int = 48, width: int = 64) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([128 + 100 * np.sin(x / 5 + y / 9), 2 * x + y, 255 - 3 * y], axis=-1)
    return Image.fromarray(waves.clip(0, 255).astype(np.uint8))


def _saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@lru_cache
def sound_pictures() -> list[tuple[str, bytes]]:
    """(format, file) of every kind of file the decoder takes."""
    rgb, exif = scene(), Image.Exif()
    exif[image.EXIF_ORIENTATION] = 6
    grey_16 = Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20)
    rgba = rgb.copy()
    rgba.putalpha(rgb.convert("L"))
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    kinds = [
        ("JPEG", rgb, {}), ("JPEG", rgb, {"progressive": True}), ("JPEG", rgb.convert("L"), {}),
        ("JPEG", rgb.convert("CMYK"), {}), ("JPEG", rgb, {"exif": exif, "subsampling": 0}),
        ("PNG", rgb, {}), ("PNG", rgba, {}), ("PNG", rgb.convert("P"), {"transparency": 3}), ("PNG", grey_16, {}),
        ("PNG", rgb.convert("1"), {}), ("GIF", rgb, frames), ("GIF", rgb.convert("L"), {"transparency": 0}),
        ("BMP", rgb, {}), ("BMP", rgb.convert("P"), {}), ("WEBP", rgb, {}), ("WEBP", rgba, {"lossless": True}),
        ("WEBP", rgb, frames), ("TIFF", rgb, {}), ("TIFF", rgb, {"compression": "tiff_lzw"}),
        ("TIFF", rgb, {"compression": "jpeg"}), ("TIFF", grey_16, {"compression": "tiff_deflate"}),
        ("TIFF", rgba, {"compression": "packbits"}), ("PPM", rgb, {}), ("PPM", rgb.convert("1"), {}),
    ]  # fmt: skip
    return [(kind, _saved(picture, kind, **options)) for kind, picture, options in kinds]


def _extreme(data: bytearray, random: np.random.Generator) -> None:
    """A number in the header, where sizes are, made as large or small as it can be."""
    place = int(random.integers(4, min(len(data) - 4, 200)))
    others = (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff\xff", b"\0\1")
    number = others[random.integers(len(others))]
    data[place : place + len(number)] = number


def _spliced(data: bytearray, random: np.random.Generator) -> None:
    """Its head, and the tail of another kind of file."""
    sound = sound_pictures()
    other = sound[random.integers(len(sound))][1]
    place = int(random.integers(2, len(data)))
    data[place:] = other[min(place, len(other) - 1) :]


def mutated_picture(number: int) -> tuple[int, bytes]:
    """(which of the sound pictures it was made from, the file)."""
    sound, random = sound_pictures(), np.random.default_rng(number)
    which = number % len(sound)
    return which, damage.changed(sound[which][1], random, (*damage.BYTES, _extreme, _spliced))


def pictures(first: int, last: int, report: str) -> None:
    """Words: `KIND refused`, `KIND same`, `KIND other` (decoded to other pixels), or what was wrong."""
    sound = sound_pictures()
    expected = [image.decode(data) for _, data in sound]

    def judge(number: int) -> str:
        which, data = mutated_picture(number)
        kind = sound[which][0]
        try:
            pixels = image.decode(data)
        except DataError:
            return f"{kind} refused"
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            return f"WRONG {pixels.dtype} {pixels.shape}"
        same = pixels.shape == expected[which].shape and np.array_equal(pixels, expected[which])
        return f"{kind} {'same' if same else 'other'}"

    cases(first, last, report, judge)


# Weight files.


def torchvision_state(classes: int = 3) -> dict[str, torch.Tensor]:
    """The names and shapes of torchvision's AlexNet, each tensor a single number in the file."""
    half = torch.full((1,), 0.5)
    shapes = {name: (SHAPES[layer][0] or classes, *SHAPES[layer][1:]) for layer, name in NAMES.items()}
    kinds = (("weight", slice(None)), ("bias", slice(1)))
    return {f"{name}.{kind}": half.expand(shape[part]) for name, shape in shapes.items() for kind, part in kinds}


def sound_weights(model: Path, folder: Path) -> list[tuple[str, bytes]]:
    """(kind, file): torch's zip, another tool's safetensors, and `model`, one of our own."""
    small = {"a": torch.arange(64.0), "b": torch.ones(3, 5, dtype=torch.float16)}
    torch.save({**torchvision_state(), "features.0.bias": torch.ones(64)}, folder / "full.pth")
    torch.save({"state_dict": small, "epoch": 3}, folder / "small.pt")
    files = [("pth", (folder / name).read_bytes()) for name in ("full.pth", "small.pt")]
    files.append(("safetensors", safetensors.torch.save(small)))
    return [*files, ("model", model.read_bytes())]


def _with_sound_checksums(data: bytes, random: np.random.Generator) -> bytes:
    """A torch zip whose pickle was changed and whose checksums were made right again."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, damage.changed(content, random) if name.endswith(".pkl") else content)
    return file.getvalue()


def _with_another_header(data: bytes, random: np.random.Generator) -> bytes:
    """A safetensors file whose header was changed and its length made right again."""
    nbytes = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + nbytes]
    numbers = list(re.finditer(rb"\d+", header))
    if numbers and random.random() < 0.7:
        place = numbers[random.integers(len(numbers))]
        others = (b"0", b"-1", b"1e9", b"18446744073709551615", b"4294967296", b"null", b'"7"', b"[]", b"2", b"NaN")
        header = header[: place.start()] + others[random.integers(len(others))] + header[place.end() :]
    else:
        header = damage.changed(header, random)
    return struct.pack("<Q", len(header)) + header + data[8 + nbytes :]


def _with_another_passport(data: bytes, random: np.random.Generator) -> bytes:
    """One of our models, sound as a file, whose passport says something else somewhere: what a stranger would write."""
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    passport = json.loads(header["__metadata__"]["alexnet"])
    passport.pop("sha256", None)
    place, key = passport, list(passport)[random.integers(len(passport))]
    while isinstance(place[key], dict | list) and place[key] and random.random() < 0.8:
        place = place[key]
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = keys[random.integers(len(keys))]
    others = (None, -1, 0, 10**12, 1e300, "x", [], {}, True, [[1]], "../../x", {"a": 1}, [None], 3)
    if isinstance(place, dict) and random.random() < 0.2:
        del place[key]
    else:
        place[key] = others[random.integers(len(others))]
    return safetensors.torch.save(tensors, {"alexnet": json.dumps(passport)})


def weights(first: int, last: int, report: str, model: str) -> None:
    """Words: `KIND refused`, `KIND same`, `KIND other` (read as other numbers), or what was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        sound = sound_weights(Path(model), Path(folder))
        _weights(first, last, report, sound, Path(folder))


def _weights(first: int, last: int, report: str, sound: list[tuple[str, bytes]], folder: Path) -> None:
    structural = {"pth": (_with_sound_checksums,), "safetensors": (_with_another_header,)}
    structural["model"] = (_with_another_header, _with_another_passport)
    expected = [_read(kind, data, folder) for kind, data in sound]

    def judge(number: int) -> str:
        random = np.random.default_rng(number)
        kind, data = sound[number % len(sound)]
        ways = (damage.changed, damage.changed, *structural[kind])
        try:
            content = _read(kind, ways[random.integers(len(ways))](data, random), folder)
        except AlexnetError as error:
            return f"{kind} refused" if len(str(error).splitlines()) <= 2 else f"WRONG {len(str(error))} lines"
        return f"{kind} {'same' if _equal(content, expected[number % len(sound)]) else 'other'}"

    cases(first, last, report, judge)


def _read(kind: str, data: bytes, folder: Path) -> dict:
    """The tensors as the program would take them."""
    path = folder / f"case.{'pth' if kind == 'pth' else 'safetensors'}"
    path.write_bytes(data)
    if kind != "model":
        with suppress(AlexnetError):  # most are not torchvision's
            convert.read(path)
        return _own(tensors_of(path))
    predict.load(path, "cpu", "fp32").top5(np.zeros((16, 16, 3), np.uint8), 1)
    return _own(checkpoint.load_model(path)[0])


def _own(content: object) -> object:
    """Copies of tensors that may be maps of the file, which the next case overwrites."""
    if isinstance(content, dict):
        return {name: _own(value) for name, value in content.items()}
    return content.clone() if isinstance(content, torch.Tensor) and content.numel() < 1 << 20 else content


def _equal(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    return type(a) is type(b) and a == b


def misbehaving(first: int, last: int, report: str) -> None:
    """Every second case does something that the tests must see."""
    acts = {
        1: lambda: os.kill(os.getpid(), signal.SIGSEGV),
        3: lambda: (signal.alarm(1), time.sleep(9))[1],
        5: lambda: os.system("true"),
        7: lambda: {}["missing"],
    }
    cases(first, last, report, lambda number: (acts.get(number, lambda: None)() or "") + "fine")
