"""What readers of pictures hand on: an `Item` for each picture, a `Source` for all of them; and what several readers
ask of the names and labels they find.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alexnet.errors import DataError

MAX_CLASSES = 65_536
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")  # the first of these that is there
SPLIT_WORD = re.compile(rf"(?:^|[/_.-])({'|'.join(TRAIN_NAMES + VAL_NAMES)})(?=[/_.\-\d]|$)")


@dataclass(frozen=True, slots=True)
class Item:
    """One picture: `key` is unique in its source; `where` is what `fetch` needs to find it."""

    key: str
    label: int
    fetch: Callable[[object], bytes | np.ndarray]
    where: object

    def read(self) -> bytes | np.ndarray:
        """File bytes, or uint8 (h, w, 3) pixels. Raises OSError where the file is gone or unreadable."""
        return self.fetch(self.where)


@dataclass(frozen=True)
class Source:
    """A set of pictures before it is packed: items by split, train and val. `size_px` is set where the pictures are
    small squares of that size, to be stored as raw pixels, else None.
    """

    name: str
    classes: list[str]
    splits: dict[str, list[Item]]
    size_px: int | None = None
    notes: tuple[str, ...] = ()  # one line each, for the user: what was left out, what was held out
    class_names: list[str] | None = None  # words for people, by label, where `classes` are codes
    class_order: str | None = None  # ILSVRC alone: "wnid" or "devkit"
    class_ids: list[int] | None = None  # ILSVRC alone: the devkit's number of each class, by label

    @property
    def encoding(self) -> str:
        return "jpeg" if self.size_px is None else "raw"


def files_by_split(names: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Files "train-00.x", "data/val-00.x", "set-test-00.x" by split, and notes; without such words all are training."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        words = SPLIT_WORD.findall(name.lower())
        found.setdefault(words[0] if words else "", []).append(name)
    if set(found) == {""}:
        return {"train": found[""]}, []
    train = [name for word in TRAIN_NAMES for name in found.pop(word, [])]
    val = next((found.pop(word) for word in VAL_NAMES if word in found), [])
    if not train:
        raise DataError("there are validation files but none for training; training file names start with train")
    unused = [name for rest in found.values() for name in rest]
    notes = [f"files that are not used: {', '.join(unused[:5])}"] if unused else []
    return {"train": train} | ({"val": val} if val else {}), notes


def numbered_labels(
    labels: dict[str, list[int | str]], names: list[str] | None, given: str
) -> tuple[list[str], dict[str, list[int]]]:
    """Classes, and labels as indices into them. `names` may be None: then sorted words, or "0", "1", ... for numbers.

    Raises DataError for a label that has no class.
    """
    used = {label for split in labels.values() for label in split}
    if all(isinstance(label, int) for label in used):
        n_classes = len(names) if names else max(used, default=0) + 1
        wrong = next((label for label in sorted(used) if not 0 <= label < min(n_classes, MAX_CLASSES)), None)
        if wrong is not None:
            raise DataError(f"{given} has the label {wrong}; labels lie in 0 ... {min(n_classes, MAX_CLASSES) - 1}")
        return names or [str(label) for label in range(n_classes)], labels
    if any(isinstance(label, int) for label in used):
        raise DataError(f"{given} has both numbers and words as labels; use one kind")
    classes = names or sorted(set(labels["train"]))
    index = {name: label for label, name in enumerate(classes)}
    wrong = next((label for label in sorted(used) if label not in index), None)
    if wrong is not None:
        raise DataError(f"{given} has a class that training has not: {wrong!r}")
    return classes, {split: [index[label] for label in values] for split, values in labels.items()}
