"""Reading a pack: without a scan, and never trusting what pack.json says.

    p = open_pack("photos.pack")
    p.splits["train"].image_bytes(i)     what is stored: a JPEG, or S*S*3 raw bytes
    p.splits["train"].pixels(i)          uint8 (S, S, 3)
    p.splits["train"].labels             int32 (n,)

Opening costs one `stat` and one footer per shard; `verify_pack` reads everything and compares the hashes.
"""

import errno
import hashlib
import json
import os
import re
import zlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa

from alexnet.data import image
from alexnet.errors import DataError, MachineError

FORMAT_VERSION = 1
SCHEMA = pa.schema([("image", pa.large_binary()), ("label", pa.int32()), ("key", pa.string()), ("crc32", pa.uint32())])
SHARD_NAME = re.compile(r"(train|val)-\d{5}\.arrow")
MAX_JSON_NBYTES = 64 << 20
MAX_SIDE_PX = 4096


class Shard:
    """One open Arrow file: row r lies at data_start + offsets[r : r + 2], int64 (rows + 1,).

    The file is mapped only while it is opened, and pictures are read with `pread`: a map of a file that somebody cuts
    short kills the process, a short read is an error with a name. It costs no more time than a map.
    """

    def __init__(self, path: Path, entry: dict, n_classes: int) -> None:
        rows = entry["rows"]
        try:
            self.path, self.file = path, open(path, "rb", buffering=0)  # noqa: SIM115 (open as long as the pack is)
            whole = pa.memory_map(str(path)).read_buffer()
            reader = pa.ipc.open_file(whole)
            batch = reader.get_batch(0) if reader.num_record_batches == 1 and reader.schema.equals(SCHEMA) else None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise MachineError(f"too many open files at {path}; allow more with `ulimit -n 4096`") from error
            raise DataError(f"{path} is damaged: {error}") from error
        except pa.ArrowException as error:
            raise DataError(f"{path} is damaged: {error}") from error
        if (
            batch is None
            or batch.num_rows != rows
            or any(column.null_count or column.offset for column in batch.columns)
        ):
            raise DataError(f"{path} is not the shard that pack.json describes; pack again")
        images, labels, keys, crcs = batch.columns
        _, offsets, data = images.buffers()
        self.data_start = data.address - whole.address if data else 0
        self.offsets = np.array(np.frombuffer(offsets, np.int64, rows + 1))
        self.labels, self.crc32 = np.array(labels.to_numpy()), np.array(crcs.to_numpy())
        self.keys = _own_texts(path, keys)
        nbytes = data.size if data else 0
        if self.offsets[0] < 0 or (np.diff(self.offsets) < 0).any() or self.offsets[-1] > nbytes:
            raise DataError(f"{path} is damaged: its rows do not follow each other; pack again")
        if rows and not (self.labels.min() >= 0 and self.labels.max() < n_classes):
            raise DataError(f"{path} has a label outside 0 ... {n_classes - 1}; pack again")
        if hashlib.sha256(self.labels).hexdigest() != entry["labels_sha256"]:
            raise DataError(f"{path} has other labels than were packed; pack again or restore the file")

    def image_bytes(self, row: int) -> bytes:
        """Raises DataError where the file has become shorter, or cannot be read any more."""
        start, end = int(self.offsets[row]), int(self.offsets[row + 1])
        try:
            stored = os.pread(self.file.fileno(), end - start, self.data_start + start)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error
        if len(stored) != end - start:
            raise DataError(f"{self.path} has become shorter since it was opened; restore it or pack again")
        return stored


def _own_texts(path: Path, texts: pa.StringArray) -> pa.StringArray:
    """A copy that needs no map; its offsets and its UTF-8 are checked, since Arrow trusts files."""
    try:
        texts.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(f"{path} is damaged: {error}") from error
    return pa.StringArray.from_buffers(len(texts), *(pa.py_buffer(bytes(b or b"")) for b in texts.buffers()[1:]))


class Split:
    """The pictures of one split, in packed order. `labels` int32 (n,), `crc32` uint32 (n,)."""

    def __init__(self, shards: list[Shard], size_px: int, encoding: str) -> None:
        self.shards, self.size_px, self.encoding = shards, size_px, encoding
        self.starts = [0, *accumulate(len(shard.labels) for shard in shards)]
        self.labels = np.concatenate([np.zeros(0, np.int32), *(shard.labels for shard in shards)])
        self.crc32 = np.concatenate([np.zeros(0, np.uint32), *(shard.crc32 for shard in shards)])

    def __len__(self) -> int:
        return self.starts[-1]

    def image_bytes(self, index: int) -> bytes:
        """What is stored for picture `index`. Raises IndexError outside 0 ... n - 1."""
        shard, row = self._find(index)
        return shard.image_bytes(row)

    def pixels(self, index: int, out_hwc: np.ndarray | None = None) -> np.ndarray:
        """uint8 (S, S, 3); a JPEG is decoded into `out_hwc` where given. DataError naming a picture that is damaged."""
        stored = self.checked_bytes(index)
        shape = (self.size_px, self.size_px, 3)
        if self.encoding == "raw":
            if len(stored) != self.size_px**2 * 3:
                raise DataError(f"{self.key(index)}: {len(stored):,} bytes stored for {self.size_px} px; pack again")
            return np.frombuffer(stored, np.uint8).reshape(shape)
        try:
            pixels = image.decode_jpeg(stored, out_hwc)
        except DataError as error:
            raise DataError(f"picture {self.key(index)} of the pack: {error}; pack again") from error
        if pixels.shape != shape:
            raise DataError(f"{self.key(index)}: stored as {pixels.shape}, not {shape}; pack again")
        return pixels

    def key(self, index: int) -> str:
        """The picture's path in its source."""
        shard, row = self._find(index)
        return shard.keys[row].as_py()

    def checked_bytes(self, index: int) -> bytes:
        """`image_bytes`, compared with the checksum: 10 microseconds for a JPEG. DataError naming a damaged picture."""
        stored = self.image_bytes(index)
        if zlib.crc32(stored) != self.crc32[index]:
            raise DataError(f"picture {self.key(index)} is damaged in the pack; pack again or restore the file")
        return stored

    def _find(self, index: int) -> tuple[Shard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        number = bisect_right(self.starts, index) - 1
        return self.shards[number], int(index) - self.starts[number]


@dataclass(frozen=True)
class Pack:
    """An open pack. `mean_image` float32 (S, S, 3); `channel_means` (3,), `colour_stds` (3,), `colour_axes` (3, 3).

    `uri` is where it was fetched from, if it was.
    """

    path: Path
    meta: dict
    size_px: int
    encoding: str
    classes: list[str]
    mean_image: np.ndarray
    channel_means: np.ndarray
    colour_stds: np.ndarray
    colour_axes: np.ndarray
    fingerprint: str
    splits: dict[str, Split]
    uri: str | None = None


def is_pack(path: str | Path) -> bool:
    """A folder with a pack.json; it may still be damaged."""
    return (Path(path) / "pack.json").is_file()


def open_pack(path: str | Path) -> Pack:
    """Open the pack in folder `path`. Raises DataError, one line, for anything that is missing, damaged or made up."""
    path = Path(path)
    meta = _read_meta(path)
    size_px, encoding, classes = meta["size_px"], meta["encoding"], meta["classes"]
    shards: dict[str, list[Shard]] = {"train": [], "val": []}
    for entry in meta["shards"]:
        _check_size(path / entry["file"], entry["nbytes"])
        shards[entry["split"]].append(Shard(path / entry["file"], entry, len(classes)))
    return Pack(
        path,
        meta,
        size_px,
        encoding,
        classes,
        _read_mean(path / "mean.npy", size_px, meta["mean_sha256"]),
        np.array(meta["channel_means"]),
        np.array(meta["colour_stds"]),
        np.array(meta["colour_axes"]),
        meta["fingerprint"],
        {split: Split(found, size_px, encoding) for split, found in shards.items()},
    )


def verify_pack(path: str | Path, progress: Callable[[int, int], None] | None = None) -> dict:
    """Read everything and compare it with what was written: sha256 of each shard, crc32 of each picture.

    Returns {"shards", "images", "nbytes", "fingerprint"}; raises DataError naming the shard and its first damaged
    pictures.
    """
    path = Path(path)
    meta = _read_meta(path)
    if fingerprint(meta["shards"], meta["classes"]) != meta["fingerprint"]:
        raise DataError(
            f"{path}/pack.json was changed: its fingerprint does not match its shards and classes; pack again"
        )
    for done, entry in enumerate(meta["shards"]):
        _verify_shard(path / entry["file"], entry, len(meta["classes"]))
        if progress is not None:
            progress(done + 1, len(meta["shards"]))
    open_pack(path)
    n_images, nbytes = (sum(entry[key] for entry in meta["shards"]) for key in ("rows", "nbytes"))
    return {"shards": len(meta["shards"]), "images": n_images, "nbytes": nbytes, "fingerprint": meta["fingerprint"]}


def fingerprint(shards: list[dict], classes: list[str]) -> str:
    """One hash for the whole content: equal fingerprints mean equal pictures, labels, order and class names."""
    return hashlib.sha256(json.dumps([[entry["sha256"] for entry in shards], classes]).encode()).hexdigest()


def _verify_shard(path: Path, entry: dict, n_classes: int) -> None:
    _check_size(path, entry["nbytes"])
    with open(path, "rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]
    if same:
        return
    shard = Shard(path, entry, n_classes)
    bad = [shard.keys[r].as_py() for r in range(entry["rows"]) if zlib.crc32(shard.image_bytes(r)) != shard.crc32[r]]
    where = f"damaged pictures: {', '.join(bad[:5])}" if bad else "no picture, but labels, keys or padding"
    raise DataError(f"{path} differs from what was packed ({where}); pack again or restore the file")


def _check_size(path: Path, nbytes: int) -> None:
    if not path.is_file():
        raise DataError(f"{path} is missing; restore it or pack again")
    found = path.stat().st_size
    if found != nbytes:
        raise DataError(f"{path} has {found:,} bytes, not {nbytes:,}; restore it or pack again")


def _read_mean(path: Path, size_px: int, sha256: str) -> np.ndarray:
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise DataError(f"{path} differs from what was packed; pack again or restore the file")
        mean_hwc = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged; pack again") from error
    if mean_hwc.shape != (size_px, size_px, 3) or mean_hwc.dtype != np.float32 or not np.isfinite(mean_hwc).all():
        raise DataError(f"{path} is not a {size_px}x{size_px}x3 mean picture of finite numbers; pack again")
    return mean_hwc


def _read_meta(path: Path) -> dict:
    file = path / "pack.json"
    if not file.is_file():
        why = (
            "its packing was not finished; pack again"
            if any(path.glob("*.arrow*"))
            else "`alexnet pack SRC OUT` makes one"
        )
        raise DataError(f"{path} is not a pack (no pack.json): {why}" if path.exists() else f"{path} does not exist")
    try:
        with open(file, "rb") as opened:
            text = opened.read(MAX_JSON_NBYTES + 1)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    return parse_meta(text, str(file))


def parse_meta(text: bytes, file: str) -> dict:
    """The content of a pack.json, safe to use without further looks. Raises DataError that calls it `file`."""
    if len(text) > MAX_JSON_NBYTES:
        raise DataError(f"{file} is larger than any pack's ({MAX_JSON_NBYTES >> 20} MB); it is not one")
    try:
        meta = json.loads(text, parse_constant=_no_constant)
    except (RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file} cannot be read as JSON ({type(error).__name__}); pack again") from error
    problem = _problem(meta)
    if problem:
        raise DataError(f"{file}: {problem}; pack again")
    return meta


def _no_constant(name: str):
    raise json.JSONDecodeError(f"{name} is not a number", name, 0)


def _problem(meta: object) -> str | None:
    """What is wrong with a pack.json, in words, or None: then it is safe to use without further looks."""
    if not isinstance(meta, dict):
        return "not a JSON object"
    version = meta.get("format_version")
    if version != FORMAT_VERSION:
        return f"format_version is {version!r}; this program reads {FORMAT_VERSION}"
    if not (_is_count(meta.get("size_px")) and 1 <= meta["size_px"] <= MAX_SIDE_PX):
        return f"size_px is {meta.get('size_px')!r}, not 1 ... {MAX_SIDE_PX}"
    if meta.get("encoding") not in ("jpeg", "raw"):
        return f"encoding is {meta.get('encoding')!r}, not jpeg or raw"
    classes = meta.get("classes")
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        return "classes is not a list of names"
    if meta.get("mean_image") != "mean.npy":
        return "mean_image is not mean.npy"
    for key, shape in (("channel_means", (3,)), ("colour_stds", (3,)), ("colour_axes", (3, 3))):
        if not _is_numbers(meta.get(key), shape):
            return f"{key} is not {'x'.join(map(str, shape))} numbers"
    if not (isinstance(meta.get("fingerprint"), str) and isinstance(meta.get("mean_sha256"), str)):
        return "fingerprint or mean_sha256 is missing"
    problem = _shards_problem(meta.get("shards"))
    return problem or (None if meta.get("checksum") == checksum(meta) else "it was changed after it was written")


def checksum(meta: dict) -> str:
    """One hash of everything else in pack.json."""
    rest = {key: value for key, value in meta.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _shards_problem(shards: object) -> str | None:
    if not (isinstance(shards, list) and all(isinstance(entry, dict) for entry in shards)):
        return "shards is not a list of objects"
    seen = set()
    for entry in shards:
        file, split = entry.get("file"), entry.get("split")
        if not (isinstance(file, str) and SHARD_NAME.fullmatch(file)) or file in seen:
            return f"shard file {str(file)[:80]!r} is not a name like train-00000.arrow, each once"
        if not isinstance(split, str) or not file.startswith(f"{split}-"):
            return f"shard {file} is said to belong to {split!r}"
        hashes = (entry.get("sha256"), entry.get("labels_sha256"))
        if not (_is_count(entry.get("rows")) and _is_count(entry.get("nbytes")) and all(map(_is_text, hashes))):
            return f"shard {file} lacks rows, nbytes, sha256 or labels_sha256"
        seen.add(file)
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_numbers(value: object, shape: tuple[int, ...]) -> bool:
    try:
        array = np.array(value)
    except ValueError:
        return False
    return array.shape == shape and array.dtype.kind in "fi" and bool(np.isfinite(array).all())
