"""Parquet files with pictures in them, as the Hugging Face hub lays them out -> every picture, unread.

    image   struct<bytes: binary, path: string>, or binary: the picture's file
    label   a number (the class names are then in the schema's metadata, or there are none) or a word

A row group cannot be read in part, and packing reads pictures in random order. So each row group is decoded once,
when one of its pictures is first wanted, into an unnamed temporary file, from which its pictures are read: at most
the pictures' size on disk (in TMPDIR), one row group in memory. Labels are read at once.
"""

import json
import os
import tempfile
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alexnet.data.items import Item, Source, files_by_split, numbered_labels
from alexnet.errors import DataError, MachineError

SUFFIX = ".parquet"
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
MAX_GROUP_NBYTES = 8 << 30  # a row group is held in memory; usual are 10 to 500 MB
FOREIGN_ERRORS = (OSError, pa.ArrowException, UnicodeDecodeError)


class Spool:
    """Row groups as runs of bytes in a temporary file without a name, filled when first asked for. Safe in threads."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (gone when the last picture of the source is)
        self.nbytes = 0
        self.starts: dict[tuple[str, int], np.ndarray] = {}  # int64 (rows + 1,), offsets in the temporary file
        self.lock = Lock()

    def read(self, where: tuple[str, int, int]) -> bytes:
        """The picture at (file name, row group, row). Raises DataError where there is none, or the file is damaged."""
        name, group, row = where
        with self.lock:
            if (name, group) not in self.starts:
                self.starts[name, group] = self._take(name, group)
        start, end = (int(offset) for offset in self.starts[name, group][row : row + 2])
        if start == end:
            raise DataError("the row holds no picture, perhaps only the path of one")
        return os.pread(self.file.fileno(), end - start, start)

    def _take(self, name: str, group: int) -> np.ndarray:
        path = self.folder / name
        try:
            with pq.ParquetFile(path) as file:
                column = _column(path, file.schema_arrow, IMAGE_COLUMNS)
                rows = file.read_row_group(group, columns=[column])[column].to_pylist()
        except FOREIGN_ERRORS as error:
            raise DataError(f"{path}, row group {group}: {_short(error)}") from error
        pictures = [(row["bytes"] if isinstance(row, dict) else row) or b"" for row in rows]
        starts = self.nbytes + np.cumsum([0, *map(len, pictures)])
        try:
            self.file.seek(self.nbytes)
            self.file.writelines(pictures)
            self.file.flush()
        except OSError as error:
            raise MachineError(
                f"cannot unpack {path} into {tempfile.gettempdir()}: {error}; set TMPDIR to a larger disk"
            ) from error
        self.nbytes = int(starts[-1])
        return starts


def is_parquet(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(SUFFIX)


def read_parquet(folder: Path, names: list[str]) -> Source:
    """The pictures in the Parquet files `names` below `folder`: train-*.parquet, and validation-* or test-*.parquet.

    Without such names all are for training. Raises DataError for damage, missing columns, and labels without a class.
    """
    files, notes = files_by_split(names)
    given = str(folder / names[0]) if len(names) == 1 else str(folder)
    spool = Spool(folder)
    places: dict[str, list[tuple[str, int, int]]] = {split: [] for split in files}
    labels: dict[str, list[int | str]] = {split: [] for split in files}
    class_names = None
    for split, split_files in files.items():
        for name in split_files:
            sizes, file_labels, file_names = _labels(folder / name)
            if class_names is not None and file_names is not None and file_names != class_names:
                raise DataError(f"{folder / name} has other class names than the files before it")
            class_names = class_names or file_names
            labels[split] += file_labels
            places[split] += [(name, group, row) for group, n_rows in enumerate(sizes) for row in range(n_rows)]
    if labels.get("val") and set(labels["val"]) == {-1}:
        notes.append("the test files have no labels and are not used")
        del files["val"], labels["val"], places["val"]
    if not places["train"]:
        raise DataError(f"{given} has no rows for training")
    classes, numbers = numbered_labels(labels, class_names, given)
    splits = {
        split: [
            Item(f"{where[0]}#{where[1]}.{where[2]}", label, spool.read, where)
            for where, label in zip(places[split], numbers[split], strict=True)
        ]
        for split in files
    }
    set_name = folder.resolve().name if len(names) > 1 else Path(names[0]).stem
    return Source(set_name, classes, splits, notes=tuple(notes))


def _labels(path: Path) -> tuple[list[int], list[int | str], list[str] | None]:
    """Rows of each row group, the label of each row, class names if the schema has them; pictures are not touched."""
    try:
        with pq.ParquetFile(path) as file:
            schema, groups = file.schema_arrow, [file.metadata.row_group(g) for g in range(file.num_row_groups)]
            column = _column(path, schema, LABEL_COLUMNS)
            _check_image_type(path, schema)
            values = file.read(columns=[column])[column].to_pylist()
    except FOREIGN_ERRORS as error:
        raise DataError(f"{path} is not a sound Parquet file: {_short(error)}; fetch it again") from error
    if any(group.total_byte_size > MAX_GROUP_NBYTES for group in groups):
        raise DataError(f"{path} has row groups of more than {MAX_GROUP_NBYTES >> 30} GB; write it with smaller ones")
    sizes = [group.num_rows for group in groups]
    if sum(sizes) != len(values):
        raise DataError(f"{path} has {len(values):,} labels for {sum(sizes):,} rows; fetch it again")
    wrong = next((row for row, value in enumerate(values) if type(value) not in (int, str)), None)
    if wrong is not None:
        raise DataError(f"{path} row {wrong} has the label {values[wrong]!r}; a number or a word is needed")
    return sizes, values, _class_names(schema, column)


def _column(path: Path, schema: pa.Schema, wanted: tuple[str, ...]) -> str:
    found = next((name for name in wanted if name in schema.names), None)
    if found is None:
        raise DataError(f"{path} has no column {' or '.join(wanted)}; it has {', '.join(schema.names[:8])}")
    return found


def _check_image_type(path: Path, schema: pa.Schema) -> None:
    column = _column(path, schema, IMAGE_COLUMNS)
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"{path}: column {column} is {kind}; the bytes of picture files are needed")


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    is_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_names and len(set(names)) == len(names) > 0 else None


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
