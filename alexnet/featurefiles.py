"""Files of features: .npy (keys and labels beside it, in FILE.keys.csv), .parquet or .h5.

    write(Path("fc7.npy"), table)          in a stream, one batch held at a time; the file is whole or absent
    saved = read(Path("fc7.npy"))          saved.rows(0, 128) float32 (128, 4096), saved.keys, saved.labels

Rows are in packed order, features of a convolution (channels, height, width).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alexnet import checkpoint
from alexnet.errors import DataError, MachineError, UsageError

ROW_GROUP_NBYTES = 32 << 20
KEYS = ".keys.csv"
NO_LABEL = -1  # of pictures that come from no pack
SUFFIXES = (".npy", ".parquet", ".h5")


@dataclass(frozen=True)
class Table:
    """What a file is to hold: a row for each label, features of `shape` in batches (N, *shape) of `dtype`, and facts:
    which layer, tower and views.
    """

    labels: np.ndarray
    classes: list[str]
    key: Callable[[int], str]
    shape: tuple[int, ...]
    dtype: str
    batches: Iterator[np.ndarray]
    facts: dict


@dataclass(frozen=True)
class Saved:
    """A file of features of `len(saved)` pictures: their keys, labels int32 (n,), -1 where there is none, `shape` of
    one picture's features, `width` numbers in all, `facts`: layer, tower and views, where the file says them.
    """

    path: Path
    keys: list[str]
    labels: np.ndarray
    shape: tuple[int, ...]
    read: Callable[[int, int], np.ndarray]
    facts: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def width(self) -> int:
        return int(np.prod(self.shape))

    def rows(self, first: int, last: int) -> np.ndarray:
        """The features of pictures [first, last), flat: (N, width) float32. Raises DataError for values that are not
        finite.
        """
        rows = np.asarray(self.read(first, last), np.float32).reshape(-1, self.width)
        if not np.isfinite(rows).all():
            raise DataError(f"{self.path} holds values that are not finite")
        return rows


def check(out: Path) -> None:
    """Raises UsageError unless OUT can be a file of features."""
    if out.suffix not in SUFFIXES:
        raise UsageError(f"{out}: features are written to {', '.join(SUFFIXES)} files; name one of these")
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"{out} cannot be written: {'it is a folder' if out.is_dir() else f'no folder {out.parent}'}")
    if out.suffix == ".h5":
        _h5()


def _h5():
    try:
        from alexnet import features_h5py
    except ImportError:
        raise UsageError(".h5 files need the package h5py: pip install 'alexnet[hdf5]'") from None
    return features_h5py


def write(out: Path, table: Table) -> None:
    """Everything under temporary names, flushed, then renamed; OUT itself last, so that if it is there it is whole.
    Raises MachineError where OUT cannot be written.
    """
    endings = [KEYS, ""] if out.suffix == ".npy" else [""]
    temporary = out.with_name(f".tmp-{out.name}")
    writer = {".npy": _write_npy, ".parquet": _write_parquet, ".h5": lambda *both: _h5().write(*both)}[out.suffix]
    try:
        done = writer(temporary, table)
        assert done == len(table.labels), f"{done} of {len(table.labels)} pictures were written"
        out.unlink(missing_ok=True)  # an older one must not stand beside the new keys
        for ending in endings:
            with open(f"{temporary}{ending}", "rb") as file:
                os.fsync(file.fileno())
            os.rename(f"{temporary}{ending}", f"{out}{ending}")
        checkpoint.sync_folder(out.parent)
    except OSError as error:
        raise MachineError(f"cannot write {out}: {error.strerror or error}; nothing was left there") from None
    finally:
        for ending in endings:
            Path(f"{temporary}{ending}").unlink(missing_ok=True)


def _write_npy(path: Path, table: Table) -> int:
    """The header first, for the number of pictures is known; then batch after batch as it is in memory."""
    done, descr = 0, np.lib.format.dtype_to_descr(np.dtype(table.dtype))
    header = {"descr": descr, "fortran_order": False, "shape": (len(table.labels), *table.shape)}
    with open(path, "wb") as file, open(f"{path}{KEYS}", "w", newline="", encoding="utf-8") as keys_file:
        np.lib.format.write_array_header_1_0(file, header)
        keys = csv.writer(keys_file, lineterminator="\n")
        keys.writerow(("key", "label"))
        for features in table.batches:
            file.write(features.data)
            keys.writerows((table.key(i), table.labels[i]) for i in range(done, done + len(features)))
            done += len(features)
    return done


def _write_parquet(path: Path, table: Table) -> int:
    """Row groups of about ROW_GROUP_NBYTES; features flattened, their shape and the facts as JSON in the metadata."""
    numbers = pa.float16() if table.dtype == "float16" else pa.float32()
    columns = [("key", pa.string()), ("label", pa.int32()), ("class", pa.string())]
    columns.append(("features", pa.list_(numbers, int(np.prod(table.shape)))))
    schema = pa.schema(columns, {"shape": json.dumps(table.shape), "facts": json.dumps(table.facts)})
    waiting, nbytes, done = [], 0, 0
    with pq.ParquetWriter(path, schema, use_dictionary=["class"]) as writer:
        for features in table.batches:
            waiting.append(_record_batch(table, features, done, schema))
            done, nbytes = done + len(features), nbytes + features.nbytes
            if nbytes >= ROW_GROUP_NBYTES:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting, nbytes = [], 0
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    return done


def _record_batch(table: Table, features: np.ndarray, first: int, schema: pa.Schema) -> pa.RecordBatch:
    keys = [table.key(i) for i in range(first, first + len(features))]
    labels = table.labels[first : first + len(features)]
    classes = [table.classes[label] if label != NO_LABEL else None for label in labels]
    kind = schema.field("features").type
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1), kind.value_type), kind.list_size)
    return pa.record_batch([pa.array(keys), pa.array(labels), pa.array(classes, pa.string()), lists], schema=schema)


def read(path: Path) -> Saved:
    """A .npy, .parquet or .h5 file that `alexnet features` wrote; of the features nothing is read yet. Raises DataError
    for any other file, UsageError for an .h5 without h5py.
    """
    if not path.is_file() or path.suffix not in SUFFIXES:
        raise DataError(f"{path} is no file of features ({', '.join(SUFFIXES)}); write one with alexnet features")
    reader = {".npy": _read_npy, ".parquet": _read_parquet, ".h5": lambda path: _h5().read(path)}[path.suffix]
    try:
        facts, keys, labels, shape, rows = reader(path)
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} was not written by alexnet features, or is damaged: {reason}") from None
    return Saved(path, keys, np.asarray(labels, np.int32), tuple(shape), rows, facts)


def _read_npy(path: Path):
    features = np.load(path, mmap_mode="r", allow_pickle=False)
    with open(f"{path}{KEYS}", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != len(features) or features.dtype not in (np.float32, np.float16):
        raise ValueError(f"{len(rows):,} keys, {len(features):,} rows of {features.dtype}")
    labels = [int(row["label"]) for row in rows]
    return {}, [row["key"] for row in rows], labels, features.shape[1:], lambda first, last: features[first:last]


def _read_parquet(path: Path):
    file = pq.ParquetFile(path)
    metadata = file.schema_arrow.metadata
    shape, facts = json.loads(metadata[b"shape"]), json.loads(metadata.get(b"facts", b"{}"))
    columns = file.read(columns=["key", "label"])
    starts = np.cumsum([0] + [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])

    @lru_cache(maxsize=2)
    def group(i: int) -> np.ndarray:
        column = file.read_row_group(i, columns=["features"])["features"].combine_chunks()
        return column.flatten().to_numpy().reshape(len(column), -1)

    def rows(first: int, last: int) -> np.ndarray:
        first, last = max(first, 0), min(last, int(starts[-1]))
        groups = range(np.searchsorted(starts, first, "right") - 1, np.searchsorted(starts, last, "left"))
        parts = [group(i)[max(first - starts[i], 0) : last - starts[i]] for i in groups]
        return np.concatenate(parts) if parts else np.empty((0, int(np.prod(shape))), np.float32)

    return facts, columns["key"].to_pylist(), columns["label"].to_numpy(), shape, rows
