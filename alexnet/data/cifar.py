"""CIFAR-10 and CIFAR-100 as published: the python or binary version, as an archive or a folder -> pixels and labels.

    read_cifar(tree) -> Cifar, or None where it is something else
    Cifar.splits["train"], ["val"] -> images_nhwc uint8 (n, 32, 32, 3), labels int64 (n,)

The python version is made of pickles, and a pickle from a stranger can run anything. This reader allows the handful
of names such a file needs and gives each a harmless stand-in, so nothing of numpy, or of anything else, is called
with the file's arguments. The test batch of the publication becomes the split "val". Classes keep the official order
of the meta file.
"""

import io
import pickle
from dataclasses import dataclass

import numpy as np

from alexnet.data.tree import Tree
from alexnet.errors import DataError

SIZE_PX = 32
PIXELS_NBYTES = 3 * SIZE_PX * SIZE_PX


@dataclass(frozen=True)
class Cifar:
    """Everything in memory: the largest of these sets is 184 MB."""

    name: str
    classes: list[str]
    splits: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Layout:
    """Where one published version keeps things; binary rows are labels then pixels, the wanted label last."""

    name: str
    meta: str
    train: str  # a file name, or a prefix that ends in "_" and is followed by numbers
    val: str
    label_key: str = ""
    names_key: str = ""
    n_labels: int = 0


LAYOUTS = [
    Layout("cifar10", "batches.meta", "data_batch_", "test_batch", label_key="labels", names_key="label_names"),
    Layout("cifar100", "meta", "train", "test", label_key="fine_labels", names_key="fine_label_names"),
    Layout("cifar10", "batches.meta.txt", "data_batch_", "test_batch.bin", n_labels=1),
    Layout("cifar100", "fine_label_names.txt", "train.bin", "test.bin", n_labels=2),
]


def read_cifar(tree: Tree) -> Cifar | None:
    """The set in `tree` (its files at the top), or None where it is not CIFAR. Damage raises DataError."""
    for layout in LAYOUTS:
        if layout.meta in tree.files and layout.val in tree.files:
            read = _read_binary if layout.n_labels else _read_python
            classes = _classes(tree, layout)
            parts = {"train": [read(tree, name, layout) for name in _train_files(tree, layout)]}
            parts["val"] = [read(tree, layout.val, layout)]
            splits = {split: _join(batches, classes, split) for split, batches in parts.items()}
            return Cifar(layout.name, classes, splits)
    return None


def _train_files(tree: Tree, layout: Layout) -> list[str]:
    if not layout.train.endswith("_"):
        return [layout.train] if layout.train in tree.files else []
    return sorted(name for name in tree.files if name.startswith(layout.train))


def _join(
    batches: list[tuple[np.ndarray, np.ndarray]], classes: list[str], split: str
) -> tuple[np.ndarray, np.ndarray]:
    if not batches:
        raise DataError(f"this CIFAR archive has no {split} batch; fetch it again")
    pixels = np.concatenate([rows for rows, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise DataError(f"this CIFAR archive has a label outside 0 ... {len(classes) - 1}; fetch it again")
    images_nhwc = pixels.reshape(-1, 3, SIZE_PX, SIZE_PX).transpose(0, 2, 3, 1)  # stored as planes, red first
    return np.ascontiguousarray(images_nhwc), labels


def _classes(tree: Tree, layout: Layout) -> list[str]:
    if layout.n_labels:
        return tree.read(layout.meta).decode("utf-8", "replace").split()
    names = _field(_unpickle(tree, layout.meta), layout.names_key, layout.meta)
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]


def _read_binary(tree: Tree, name: str, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    row_nbytes = layout.n_labels + PIXELS_NBYTES
    data = np.frombuffer(tree.read(name), np.uint8)
    if len(data) == 0 or len(data) % row_nbytes:
        raise DataError(
            f"{name} has {len(data):,} bytes, not a whole number of {row_nbytes}-byte rows; fetch the archive again"
        )
    rows = data.reshape(-1, row_nbytes)
    return rows[:, layout.n_labels :], rows[:, layout.n_labels - 1].astype(np.int64)


def _read_python(tree: Tree, name: str, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickle(tree, name)
    rows = getattr(_field(batch, "data", name), "array", None)
    labels = _field(batch, layout.label_key, name)
    if rows is None or rows.ndim != 2 or rows.shape[1] != PIXELS_NBYTES or len(labels) != len(rows):
        raise DataError(
            f"{name} does not hold rows of {PIXELS_NBYTES} pixel values with a label each; fetch the archive again"
        )
    return rows, np.array([int(label) for label in labels], np.int64)


def _field(batch: object, key: str, name: str):
    if isinstance(batch, dict):
        for spelling in (key.encode(), key):
            if spelling in batch:
                return batch[spelling]
    raise DataError(f"{name} has no {key!r}; it is not a batch of this CIFAR set")


def _unpickle(tree: Tree, name: str):
    try:
        return _Unpickler(io.BytesIO(tree.read(name)), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{name} {error}") from error
    except Exception as error:  # a damaged pickle raises nearly anything; none of it is our own code's
        raise DataError(f"{name} is damaged ({type(error).__name__}: {error}); fetch the archive again") from error


class _StandInArray:
    """Takes the state of a pickled uint8 array and keeps it as `array`."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _version, shape, _dtype, by_columns, raw = state
        self._fill(raw, shape, "F" if by_columns else "C")

    def _fill(self, raw: bytes, shape: tuple, order: str) -> None:
        if not isinstance(raw, (bytes, bytearray)):
            raise DataError("holds an array that is not made of bytes")
        self.array = np.frombuffer(raw, np.uint8).reshape(shape, order=order)


class _StandIn:
    """For the array and dtype classes: accepts anything, does nothing."""

    def __init__(self, *_ignored) -> None: ...

    def __setstate__(self, _state) -> None: ...


def _empty_array(*_ignored) -> _StandInArray:
    return _StandInArray()


def _array_from_buffer(raw: bytes, _dtype, shape: tuple, order: str) -> _StandInArray:
    array = _StandInArray()
    array._fill(raw, shape, order)
    return array


def _latin1(text: str, _codec: str) -> bytes:
    return text.encode("latin1")  # how Python 3 spells bytes in pickles that Python 2 can read


_ALLOWED = {
    ("multiarray", "_reconstruct"): _empty_array,
    ("numeric", "_frombuffer"): _array_from_buffer,
    ("numpy", "ndarray"): _StandIn,
    ("numpy", "dtype"): _StandIn,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        for folder in ("numpy.core.", "numpy._core."):
            module = module.removeprefix(folder)
        if (module, name) not in _ALLOWED:
            raise DataError(f"asks for {module}.{name}, which no CIFAR file needs; refused")
        return _ALLOWED[module, name]
