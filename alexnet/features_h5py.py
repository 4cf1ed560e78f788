"""Features as HDF5, through h5py: written in a stream, read by rows.

    features (n, *shape) float32 or float16, keys (n,) text, labels (n,) int32, class_names (classes,) text;
    attributes of the file: layer, tower, views

MATLAB, R and Julia open it as it is.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

CHUNK_NBYTES = 1 << 20
TEXT = h5py.string_dtype("utf-8")


def write(path: Path, table) -> int:
    """The rows of a featurefiles.Table; returns how many came."""
    count, done = len(table.labels), 0
    row_nbytes = int(np.prod(table.shape)) * np.dtype(table.dtype).itemsize
    chunk = (max(1, min(count, CHUNK_NBYTES // max(row_nbytes, 1))), *table.shape)
    room = shutil.disk_usage(path.parent).free + (path.stat().st_size if path.exists() else 0)
    if room < count * row_nbytes:  # HDF5 would end the process at its end
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", (count, *table.shape), table.dtype, chunks=chunk)
        keys = file.create_dataset("keys", (count,), TEXT)
        file.create_dataset("labels", data=np.asarray(table.labels, np.int32))
        file.create_dataset("class_names", data=np.array(table.classes, object), dtype=TEXT)
        file.attrs.update(table.facts)
        for batch in table.batches:
            last = done + len(batch)
            features[done:last] = batch
            keys[done:last] = [table.key(i) for i in range(done, last)]
            done = last
        file.flush()
    return done


def read(path: Path) -> tuple[dict, list[str], np.ndarray, tuple[int, ...], Callable[[int, int], np.ndarray]]:
    """(facts, keys, labels, shape of a row, rows(first, last)); the file stays open as long as `rows` is held."""
    file = h5py.File(path, "r")
    features, keys = file["features"], file["keys"].asstr()[:].tolist()
    facts = {name: value.item() if hasattr(value, "item") else value for name, value in file.attrs.items()}
    return facts, keys, file["labels"][:], features.shape[1:], lambda first, last: features[first:last]
