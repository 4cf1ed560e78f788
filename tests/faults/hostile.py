"""Files made to do harm: programs dressed as weights, bombs, names that lead out of the folder, lying headers.

`ZOO` maps a name to (make, take): `make(folder)` writes the file, `take(path, out)` gives it to the program as a user
would, with `out` the folder that may be written to. Every one must be refused, with nothing run and nothing written
elsewhere; the programs among them would touch `folder/FLAG`.
"""

import bz2
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from alexnet import convert
from alexnet.data import packfile
from alexnet.data.pack import pack
from alexnet.data.sources import open_source
from alexnet.predict import pixels
from faults import fuzz

FLAG = "FLAG"


class Program:
    """Unpickled, it runs `touch`."""

    def __init__(self, folder: Path, function=os.system):
        self.function, self.command = function, f"touch '{folder / FLAG}'"

    def __reduce__(self):
        return self.function, (self.command,)


def touch(folder: Path) -> bytes:
    return f"touch '{folder / FLAG}'".encode()


def zip_of(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def in_zip(program: bytes) -> bytes:
    return zip_of({"a/data.pkl": program, "a/version": b"3\n", "a/data/0": bytes(4)})


def tar_of(members: list[tuple[str, bytes, bytes]], **options) -> bytes:
    """(name, type, content or link name) each."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.REGTYPE:
                member.size = len(content)
            else:
                member.linkname = content.decode()
            archive.addfile(member, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return file.getvalue()


def saved(content: object, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def header(entries: dict, nbytes: int = 64) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(nbytes)


def tensor(shape: list[int], start: int, end: int) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _objects(folder: Path) -> bytes:
    return _npy(np.array([Program(folder)], object))


WEIGHTS: dict[str, Callable[[Path], bytes]] = {
    "reduce, by GLOBAL": lambda f: saved({"features.0.weight": Program(f)}),
    "reduce, by STACK_GLOBAL": lambda f: saved([Program(f)], pickle_protocol=4),
    "exec of builtins": lambda f: saved({"a": Program(f, exec)}),
    "eval in the middle of a state": lambda f: saved({**fuzz.torchvision_state(), "x": {"deep": [Program(f, eval)]}}),
    "INST": lambda f: in_zip(b"(S" + repr(touch(f).decode()).encode() + b"\niposix\nsystem\n."),
    "OBJ": lambda f: in_zip(b"(cposix\nsystem\nS" + repr(touch(f).decode()).encode() + b"\no."),
    "EXT1": lambda f: in_zip(b"\x80\x02\x82\x01)R."),
    "EXT4": lambda f: in_zip(b"\x80\x02\x84\x01\0\0\0)R."),
    "names through the memo": lambda f: in_zip(
        b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x9400h\0h\x01\x93\x8c" + bytes([len(touch(f))]) + touch(f) + b"\x85R."
    ),
    "getattr": lambda f: in_zip(b"\x80\x02cbuiltins\ngetattr\ncposix\n_exit\nX\x06\0\0\0systemq\x86R."),
    "allowed name, hostile module": lambda f: in_zip(b"\x80\x02cos\nOrderedDict\n)R."),
    "dotted name": lambda f: in_zip(b"\x80\x04ctorch\nstorage.os.system\nX\x02\0\0\0ls\x85R."),
    "numpy object": lambda f: saved({"a": np.array([1, "x"], object)}),
    "claims 10^9 rows": lambda f: saved({"a": torch.zeros(1).expand(10**9, 1)}),
    "bare pickle": lambda f: pickle.dumps(Program(f)),
    "bare pickle, protocol 0": lambda f: pickle.dumps(Program(f), 0),
    "before torch 1.6": lambda f: saved(Program(f), _use_new_zipfile_serialization=False),
    "tar of the first torches": lambda f: tar_of([("storages", tarfile.REGTYPE, pickle.dumps(Program(f)))]),
    "TorchScript": lambda f: zip_of({"a/data.pkl": b"N.", "a/constants.pkl": b"N.", "a/code/__torch__.py": touch(f)}),
    "two pickles": lambda f: zip_of({"a/data.pkl": b"}.", "b/data.pkl": pickle.dumps(Program(f), 2)}),
    "packed bomb": lambda f: zip_of({"a/data.pkl": bytes(200 << 20)}, zipfile.ZIP_DEFLATED),
    "names that lead out": lambda f: zip_of({"../data.pkl": pickle.dumps(Program(f), 2), "../../x": b"x"}),
    "object array": _objects,
    "header of 2^63 bytes": lambda f: struct.pack("<Q", 1 << 63) + b"{" + bytes(99),
    "header of 100 MB": lambda f: struct.pack("<Q", 100_000_000) + b"{" + bytes(99),
    "header 100,000 deep": lambda f: struct.pack("<Q", 100_000) + b'{"a":' + b"[" * 99_995,
    "overlapping tensors": lambda f: header({"a": tensor([8], 0, 32), "b": tensor([8], 16, 48)}, 48),
    "tensor of 10^12 numbers": lambda f: header({"a": tensor([10**6, 10**6], 0, 64)}),
    "offsets beyond the end": lambda f: header({"a": tensor([1 << 40], 0, 1 << 42)}),
    "shape that overflows": lambda f: header({"a": tensor([1 << 33, 1 << 33], 0, 64)}),
    "passport of an endless net": lambda f: _passport(fc6=10**9),
}


def _passport(fc6: int) -> bytes:
    from tiny import spec

    from alexnet import spec as spec_module

    net = spec_module.to_dict(spec())["net"]
    net["fc6"]["outputs"] = fc6
    preprocessing = {"size_px": 16, "stds": [1, 1, 1], "colour_stds": [1, 1, 1], "colour_axes": np.eye(3).tolist()}
    passport = {"format": "alexnet 1", "spec": {"net": net}, "classes": ["../../a", "b", "c"]}
    passport |= {"preprocessing": preprocessing, "accuracy": None, "trained": {}}
    tensors = {"preprocessing.mean": torch.zeros(16, 16, 3)}
    return safetensors.torch.save(tensors, {"alexnet": json.dumps(passport)})


def picture(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(file, "PNG")
    return file.getvalue()


KINDS = ((1, tarfile.CHRTYPE), (2, tarfile.FIFOTYPE))
REGULAR, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def _sparse() -> bytes:
    """A header of the GNU kind that says its file is 2^40 bytes of holes."""
    data = bytearray(tar_of([("a/1.png", REGULAR, picture())], format=tarfile.GNU_FORMAT))
    data[156:157] = b"S"
    data[483:495] = b"20000000000\0"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


ARCHIVES: dict[str, Callable[[Path], bytes]] = {
    "tar of ..": lambda f: tar_of([(f"../{c}/{i}.png", REGULAR, picture()) for c in "ab" for i in range(3)]),
    "tar of absolute names": lambda f: tar_of([(f"{f}/out{c}/1.png", REGULAR, picture()) for c in "ab"]),
    "tar of links": lambda f: tar_of([(f"{c}/{i}.png", LINK, b"/etc/passwd") for c in "ab" for i in range(3)]),
    "tar of hard links": lambda f: tar_of([(f"{c}/{i}.png", HARD, b"../../etc/passwd") for c in "ab" for i in "12"]),
    "tar of devices": lambda f: tar_of([(f"{c}/{i}.png", kind, b"") for c in "ab" for i, kind in KINDS]),
    "tar through a link": lambda f: tar_of([("a", LINK, b"/tmp"), ("../a/x.png", REGULAR, picture())]),
    "tar of one name twice": lambda f: tar_of([("a/1.png", REGULAR, picture())] * 2),
    "sparse tar of 2^40 bytes": lambda f: _sparse(),
    "gzip bomb": lambda f: gzip.compress(bytes(400 << 20), 1),
    "bzip2 bomb": lambda f: bz2.compress(bytes(200 << 20), 1),
}  # fmt: skip


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + b"".join(chunks) + _chunk(b"IEND", b"")


def _at(data: bytes, place: int, number: bytes) -> bytes:
    return data[:place] + number + data[place + len(number) :]


def _jpeg_of_9000() -> bytes:
    data = fuzz.sound_pictures()[0][1]
    return _at(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", 9000, 9000))


PICTURES: dict[str, Callable[[Path], bytes]] = {
    "PNG of 400 megapixels": lambda f: png(20_000, 20_000, _chunk(b"IDAT", zlib.compress(bytes(20_000 * 2501)))),
    "PNG with a text bomb": lambda f: png(
        8, 8, _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20))), _chunk(b"IDAT", zlib.compress(bytes(16)))
    ),
    "GIF of 4 gigapixels": lambda f: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2\x44\1\0;",
    "JPEG that says 9000 x 9000": lambda f: _jpeg_of_9000(),
    "BMP of 2^31 rows": lambda f: _at(fuzz.sound_pictures()[12][1], 18, b"\xff\xff\xff\x7f\xff\xff\xff\x7f"),
    "PostScript": lambda f: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(" + touch(f) + b") run\n",
    "SVG": lambda f: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
}


def _sound_pack(folder: Path) -> Path:
    out, rest = folder / "hostile.pack", np.random.default_rng(0)
    if not out.exists():
        from alexnet.data.sources import Item, Source

        squares = rest.integers(0, 256, (6, 16, 16, 3), np.uint8)
        items = [Item(f"{i}", i % 2, squares.__getitem__, i) for i in range(6)]
        pack(Source("x", ["../../a", "b"], {"train": items, "val": items}, 16), out, workers=1)
    return out


def _meta(**changes) -> Callable[[Path], None]:
    """pack.json as a stranger would write it, with the right checksum."""

    def make(path: Path) -> None:
        meta = json.loads((path / "pack.json").read_text())
        meta["shards"][0] |= {key: value for key, value in changes.items() if key in meta["shards"][0]}
        meta |= {key: value for key, value in changes.items() if key in meta}
        (path / "pack.json").write_text(json.dumps(meta | {"checksum": packfile.checksum(meta)}))

    return make


def _huge(path: Path) -> None:
    os.truncate(path / "pack.json", 100 << 30)  # a hole: it costs nothing


PACKS: dict[str, Callable[[Path], None]] = {
    "pack: shard elsewhere": _meta(file="../../../../etc/passwd"),
    "pack: shard by an absolute path": _meta(file="/etc/train-00000.arrow"),
    "pack: mean image elsewhere": _meta(mean_image="../mean.npy"),
    "pack: 10^12 rows": _meta(rows=10**12),
    "pack: negative rows": _meta(rows=-1),
    "pack: square of 2^31": _meta(size_px=1 << 31),
    "pack: record of 100 GB": _huge,
    "pack: record a million deep": lambda path: (path / "pack.json").write_bytes(b"[" * 1_000_000),
    "pack: mean image is a program": lambda path: (path / "mean.npy").write_bytes(_objects(path)),
}  # fmt: skip


def _cifar(folder: Path) -> bytes:
    files = {"data_batch_1": Program(folder), "test_batch": Program(folder), "batches.meta": Program(folder)}
    return tar_of([(f"cifar-10-batches-py/{name}", REGULAR, pickle.dumps(p, 2)) for name, p in files.items()])


def _ilsvrc(member: tuple[str, bytes, bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "in").mkdir()
        classes = [(f"n0000000{i}.tar", REGULAR, tar_of([("x.JPEG", REGULAR, picture())])) for i in (1, 2)]
        (folder / "in" / "ILSVRC2012_img_train.tar").write_bytes(tar_of([*classes, member]))
        return folder / "in"

    return make


def _file(name: str, make: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(make(folder))
        return folder / name

    return write


def _in_pack(spoil: Callable[[Path], None]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = _sound_pack(folder)
        spoil(path)
        return path

    return write


def take_weights(path: Path, out: Path) -> None:
    convert.convert(path, out / "model.safetensors")


def take_source(path: Path, out: Path) -> None:
    pack(open_source(path), out / "out.pack", workers=1)


def take_picture(path: Path, out: Path) -> None:
    pixels(path)


def take_pack(path: Path, out: Path) -> None:
    packfile.open_pack(path)


def take_endless_net(path: Path, out: Path) -> None:
    from alexnet.predict import load

    load(path, "cpu", "fp32")


ZOO: dict[str, tuple[Callable[[Path], Path], Callable[[Path, Path], None]]] = {
    **{name: (_file("a.pt", make), take_weights) for name, make in WEIGHTS.items()},
    **{name: (_file("a.tar", make), take_source) for name, make in ARCHIVES.items()},
    **{name: (_file("a.png", make), take_picture) for name, make in PICTURES.items()},
    **{name: (_in_pack(spoil), take_pack) for name, spoil in PACKS.items()},
    "CIFAR of programs": (_file("cifar.tar", _cifar), take_source),
    "ILSVRC with ..": (_ilsvrc(("../n00000003.tar", REGULAR, b"")), take_source),
    "ILSVRC with a link": (_ilsvrc(("n00000003.tar", LINK, b"/etc/passwd")), take_source),
}
ZOO["passport of an endless net"] = (_file("a.safetensors", WEIGHTS["passport of an endless net"]), take_endless_net)


def taken(name: str, path: str, out: str) -> None:
    """In a child: the file is taken, and the exit status says what came of it."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    fuzz.guard()
    ZOO[name][1](Path(path), Path(out))


def snapshot(folder: Path) -> dict[str, object]:
    """Everything below `folder`, links and all: (kind, size, time of the last change)."""
    found = {}
    for place, folders, files in os.walk(folder):
        for entry in (*folders, *files):
            status = os.lstat(os.path.join(place, entry))
            found[os.path.join(place, entry)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found
