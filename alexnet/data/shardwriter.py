"""Writing the files of a pack so that each is there whole or not at all, also after a power cut.

writer = ShardWriter(out, "train", None, []);  writer.add((jpeg_bytes, label, key)) ...;  shards = writer.close()
"""

import fcntl
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from alexnet.data.packfile import SCHEMA
from alexnet.errors import DataError

SHARD_NBYTES = 256 << 20
SHARD_ROWS = 1 << 20
LOCK = "lock"


class ShardWriter:
    """Collects rows and writes a shard whenever enough are there: one record batch each, so that a row is one slice."""

    def __init__(self, out: Path, split: str, shard_rows: int | None, finished: list[dict]) -> None:
        self.out, self.split = out, split
        self.max_rows = shard_rows or SHARD_ROWS
        self.rows: list[tuple[bytes, int, str]] = []
        self.nbytes = 0
        self.shards: list[dict] = finished

    def add(self, row: tuple[bytes, int, str]) -> bool:
        """Whether a shard has been finished with this row."""
        self.rows.append(row)
        self.nbytes += len(row[0])
        full = len(self.rows) >= self.max_rows or self.nbytes >= SHARD_NBYTES
        if full:
            self._flush()
        return full

    def close(self) -> list[dict]:
        if self.rows:
            self._flush()
        return self.shards

    def _flush(self) -> None:
        images, labels, keys = zip(*self.rows, strict=True)
        crcs = [zlib.crc32(stored) for stored in images]
        batch = pa.record_batch([images, labels, keys, crcs], schema=SCHEMA)
        path = self.out / f"{self.split}-{len(self.shards):05d}.arrow"
        put_file(path, lambda file: _write_arrow(file, batch))
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        nbytes = path.stat().st_size
        entry = {"file": path.name, "split": self.split, "rows": len(labels), "nbytes": nbytes, "sha256": sha256}
        self.shards.append(entry | {"labels_sha256": hashlib.sha256(np.array(labels, np.int32)).hexdigest()})
        self.rows, self.nbytes = [], 0


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold the folder `out` (made if needed) against other processes that would pack into it at the same time."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / LOCK
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is packing into {out}; wait until it has finished") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def put_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """`write(file)` into a temporary name, flush it to the disk, then give it its name."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    if hasattr(os, "O_DIRECTORY"):  # the new name is safe only once the folder is on the disk too
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)


def _write_arrow(file: BinaryIO, batch: pa.RecordBatch) -> None:
    with pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_batch(batch)
