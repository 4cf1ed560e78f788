"""The pictures of a study's scale: a pack of the right size, or the first few classes of one.

Pre-training needs a set with many classes and, from the same pictures, a task with few: `first_classes` is that view,
nothing is packed again and both share one mean image.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet.data.pack import Pack, Split, ensure_pack
from alexnet.data.sources import SMALL_PX
from alexnet.errors import UsageError
from alexnet.log import say
from alexnet.study.words import Scale


class Rows:
    """The pictures of a split whose label is below `classes`, in packed order; read as a Split is read."""

    def __init__(self, split: Split, classes: int) -> None:
        self.split, self.rows = split, np.flatnonzero(split.labels < classes)
        self.size_px, self.encoding, self.labels = split.size_px, split.encoding, split.labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, index: int) -> np.ndarray:
        return self.split.pixels(int(self.rows[index]))

    def key(self, index: int) -> str:
        return self.split.key(int(self.rows[index]))

    def checked_bytes(self, index: int) -> memoryview:
        return self.split.checked_bytes(int(self.rows[index]))


def first_classes(pack: Pack, classes: int | None) -> Pack:
    """`pack` with its first `classes` classes only; None: as it is."""
    if classes is None or classes >= len(pack.classes):
        return pack
    splits = {name: Rows(split, classes) for name, split in pack.splits.items()}
    fingerprint = f"{pack.fingerprint}, first {classes} classes"
    return replace(pack, classes=pack.classes[:classes], splits=splits, fingerprint=fingerprint)


def open_data(scale: Scale, data: str | None, progress=None) -> Pack:
    """The pack of `data`, or of what the scale names. Raises UsageError where the scale needs other squares."""
    given = data or scale.data
    if given is None:
        raise UsageError(f"scale {scale.name} has no data of its own: give --data, a pack or anything `pack` takes")
    shapes = given == "shapes"
    size_px = scale.size_px if shapes or scale.size_px > SMALL_PX else None  # small sets keep their size
    pack = ensure_pack(None if shapes else given, size_px=size_px, progress=progress, say=say)
    if pack.size_px != scale.size_px:
        again = f"alexnet pack SOURCE {Path(given).name}-{scale.size_px} --size {scale.size_px}"
        raise UsageError(
            f"scale {scale.name} works on {scale.size_px}-pixel squares and {pack.path} holds {pack.size_px}:\n{again}"
        )
    if not len(pack.splits["val"]):
        raise UsageError(f"{pack.path} has no validation pictures; pack with --val-fraction 0.1")
    return pack
