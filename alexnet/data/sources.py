"""Where pictures come from: `open_source` looks at what it was given and lists every picture with its class.

Recognised: a folder `train/<class>/*` with `val/<class>/*` (or valid, validation, test); a folder `<class>/*`, of
which a fraction is held out; a tar archive of either, read in place; CIFAR-10 and CIFAR-100 as published; a folder
with the archives of ILSVRC-2012 or 2010; Parquet files; WebDataset shards; and the word `shapes`, the built-in set.

    source = open_source("photos")        source.classes -> ["cat", "dog"]
    source.splits["train"][0].read()      -> file bytes, or uint8 (h, w, 3) pixels where there never was a file

Nothing is decoded here. Every file in a class folder counts as a picture until the decoder refuses it; hidden files
do not count.
"""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from alexnet.data import cifar, ilsvrc, image, parquet, webdataset
from alexnet.data.items import TRAIN_NAMES, VAL_NAMES, Item, Source
from alexnet.data.tree import Tree, as_text, open_tree, readable
from alexnet.errors import DataError, UsageError

__all__ = ["Item", "Source", "open_source"]

DEFAULT_VAL_FRACTION = 0.1
PICTURE_ENDINGS = (*webdataset.PICTURES, ".bmp", ".gif", ".tif", ".tiff", ".ppm")
SMALL_PX = 64  # sets of equal squares up to this size are kept as they are
HEADERS_LOOKED_AT = 64
SHAPES_COUNTS = {"train": 3000, "val": 1000}
SHAPES_VAL_SEED_OFFSET = 1_000_003  # validation pictures are drawn from other seeds than training pictures
LAYOUT_HELP = "expected train/<class>/ and val/<class>/, or <class>/ folders, with pictures in them"


def open_source(
    src: str | Path,
    val_fraction: float | None = None,
    seed: int = 0,
    class_order: Literal["wnid", "devkit"] = "wnid",
) -> Source:
    """List the pictures of `src`: a folder of class folders, a tar of one, a folder with ILSVRC's archives, CIFAR's,
    Parquet files or WebDataset shards, or the word "shapes".

    Without a validation set, `val_fraction` of each class (0.1 unless given) is held out, chosen by a hash of the
    picture's path and `seed`: adding pictures later moves none of the others. `class_order` is for ILSVRC alone:
    sorted by WordNet id as nearly all published weights expect, or by the devkit's numbers. Raises DataError for what
    cannot be used.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise UsageError(f"the validation fraction is {val_fraction}; it must lie between 0 and 1, such as 0.1")
    if str(src) == "shapes":
        return _shapes(seed)
    path = Path(src)
    if not path.exists():
        raise DataError(f"{src} does not exist; give a folder of pictures, an archive, or the word shapes")
    if parquet.is_parquet(path):
        return _complete(parquet.read_parquet(path.parent, [path.name]), val_fraction, seed)
    whole = open_tree(path)
    tree = _without_wrapper(whole)
    published = cifar.read_cifar(tree)
    if published is not None:
        return _cifar(published)
    if path.is_dir() and (shards := _shards(path, whole, class_order)) is not None:
        return _complete(shards, val_fraction, seed)
    name = path.resolve().name.split(".")[0] if path.is_file() else path.resolve().name
    return _folder(str(src), name, tree, val_fraction, seed)


def _shards(path: Path, tree: Tree, class_order: str) -> Source | None:
    """The set in a folder of large files that hold many pictures each, or None where the pictures are files."""
    found = ilsvrc.read_ilsvrc(path, tree, class_order)
    if found is not None or any(name.lower().endswith(PICTURE_ENDINGS) for name in tree.files):
        return found
    if parquets := [name for name in tree.files if name.lower().endswith(parquet.SUFFIX)]:
        return parquet.read_parquet(path, parquets)
    if tars := [name for name in tree.files if name.lower().endswith(webdataset.SUFFIX)]:
        return webdataset.read_webdataset(path, tree, tars)
    return None


def _complete(source: Source, val_fraction: float | None, seed: int) -> Source:
    """With a validation set, held out where the source has none, and with the pictures' own size if it is small."""
    splits, notes = source.splits, list(source.notes)
    if "val" not in splits:
        splits, note = _hold_out(splits["train"], val_fraction, seed)
        notes.append(note)
    elif val_fraction is not None:
        notes.append("the validation fraction is not used, there are validation pictures")
    size_px = _small_size(splits["train"] + splits["val"])
    return replace(source, splits=splits, size_px=size_px, notes=tuple(notes))


def _without_wrapper(tree: Tree) -> Tree:
    """Archives usually hold one folder that holds everything: step into it, as long as folders remain to be classes."""
    while True:
        tops = {folder for folder in tree.folders if "/" not in folder}
        at_top = any("/" not in name for name in tree.files)
        only = next(iter(tops), "")
        if len(tops) != 1 or at_top or only.lower() in TRAIN_NAMES + VAL_NAMES:
            return tree
        inside = tree.below(only)
        if not inside.folders and inside.files.keys().isdisjoint(layout.meta for layout in cifar.LAYOUTS):
            return tree  # a class folder, not a wrapper
        tree = inside


def _folder(given: str, name: str, tree: Tree, val_fraction: float | None, seed: int) -> Source:
    if not tree.files:
        raise DataError(f"{given} holds no pictures; {LAYOUT_HELP}")
    tops = {folder.lower(): folder for folder in sorted(tree.folders) if "/" not in folder}
    train = next((tops[n] for n in TRAIN_NAMES if n in tops), None)
    val = next((tops[n] for n in VAL_NAMES if n in tops), None)
    if train is None and val is not None:
        raise DataError(f"{given} has {val}/ but no train/; {LAYOUT_HELP}")
    notes = _notes(tree, tops, train, val, val_fraction)
    root = "" if train is None else train
    classes, by_class = _class_files(given, tree, root)
    items = {"train": _items(tree, classes, by_class)}
    if val is not None:
        val_classes, val_files = _class_files(given, tree, val, may_be_empty=True)
        notes += _compare_classes(given, classes, val_classes, val)
        items["val"] = _items(tree, classes, val_files)
    else:
        items, note = _hold_out(items["train"], val_fraction, seed, _twins(items["train"], tree))
        notes.append(note)
    return Source(name, classes, items, _small_size(items["train"] + items["val"]), tuple(notes))


def _notes(
    tree: Tree, tops: dict[str, str], train: str | None, val: str | None, val_fraction: float | None
) -> list[str]:
    notes = []
    if tree.n_hidden:
        notes.append(f"{tree.n_hidden:,} hidden files were ignored")
    if tree.n_runs:
        notes.append(f"{tree.n_runs:,} runs of trainings among the pictures were ignored")
    if tree.n_odd:
        notes.append(f"{tree.n_odd:,} entries that are neither files nor folders (or have unsafe names) were ignored")
    if train is not None:
        others = sorted(folder for folder in tops.values() if folder not in (train, val))
        if others:
            notes.append(f"folders beside {train}/ that are not used: {', '.join(others[:5])}")
    if val is not None and val_fraction is not None:
        notes.append(f"the validation fraction is not used, {val}/ is there")
    return notes


def _class_files(
    given: str, tree: Tree, root: str, may_be_empty: bool = False
) -> tuple[list[str], dict[str, list[str]]]:
    """Classes (sorted) and the files of each, below `root`; files that lie in no class folder are left out."""
    start = f"{root}/" if root else ""
    depth = start.count("/")
    folders = {
        folder[len(start) :] for folder in tree.folders if folder.startswith(start) and folder.count("/") == depth
    }
    by_class: dict[str, list[str]] = {name: [] for name in sorted(folders)}
    for name in tree.files:
        if name.startswith(start) and name.count("/") > depth:
            by_class[name[len(start) :].split("/", 1)[0]].append(name)
    where = f"{given}/{root}" if root else given
    odd = next((readable(name) for name in by_class if readable(name) != name), None)
    if odd:
        raise DataError(f"the name of the class folder {odd} in {where} is not UTF-8; rename it")
    if not any(by_class.values()) and not may_be_empty:
        raise DataError(f"{where} has no pictures in class folders; {LAYOUT_HELP}")
    empty = [name for name, files in by_class.items() if not files]
    if empty and not may_be_empty:
        raise DataError(f"class {_some(empty)} in {where} has no pictures; add some, or delete the folder")
    if len(by_class) == 1 and not may_be_empty:
        raise DataError(f"{where} has only one class ({next(iter(by_class))!r}); at least two folders are needed")
    return list(by_class), by_class


def _compare_classes(given: str, classes: list[str], val_classes: list[str], val: str) -> list[str]:
    unknown = sorted(set(val_classes) - set(classes))
    if unknown:
        raise DataError(
            f"{given}/{val} has a class that training has not: {_some(unknown)}; the folders must have the same names"
        )
    missing = sorted(set(classes) - set(val_classes))
    return [f"{val}/ has no pictures of {_some(missing)}; the error there says nothing about it"] if missing else []


def _items(tree: Tree, classes: list[str], by_class: dict[str, list[str]]) -> list[Item]:
    labels = {name: label for label, name in enumerate(classes)}
    items = [Item(as_text(file), labels[name], tree.read, file) for name, files in by_class.items() for file in files]
    return sorted(items, key=lambda item: item.key)


def _twins(items: list[Item], tree: Tree) -> dict[str, str]:
    """{key: the smallest key among the files with the same bytes}; files of a size of their own are not read."""
    by_size: dict[int, list[Item]] = {}
    for item in items:
        by_size.setdefault(tree.files[item.where], []).append(item)
    first: dict[tuple[int, bytes], str] = {}
    twins = {}
    for nbytes, alike in by_size.items():
        for item in sorted(alike, key=lambda item: item.key) if len(alike) > 1 else ():
            try:
                twins[item.key] = first.setdefault((nbytes, hashlib.sha256(item.read()).digest()), item.key)
            except OSError:
                continue  # to be rejected, with its reason, when packed
    return twins


def _hold_out(
    items: list[Item], fraction: float | None, seed: int, twins: dict[str, str] | None = None
) -> tuple[dict[str, list[Item]], str]:
    """The same share of every class, at least one picture of it to either side where it has two; and a note.

    `twins` names for a picture the one it is a copy of: copies stay on one side, in whichever class they are.
    """
    fraction, twins = DEFAULT_VAL_FRACTION if fraction is None else fraction, twins or {}
    by_label: dict[int, dict[str, int]] = {}
    for item in items:
        copies, first = by_label.setdefault(item.label, {}), twins.get(item.key, item.key)
        copies[first] = copies.get(first, 0) + 1
    held: dict[str, bool] = {}
    for copies in by_label.values():
        count = sum(copies.values())
        left = min(max(round(fraction * count), 1), count - 1)
        left -= sum(number for first, number in copies.items() if held.get(first))
        for first in sorted(copies.keys() - held, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest()):
            held[first] = copies[first] <= left
            left -= copies[first] if held[first] else 0
    splits = {
        "train": [item for item in items if not held[twins.get(item.key, item.key)]],
        "val": [item for item in items if held[twins.get(item.key, item.key)]],
    }
    note = f"no validation set: {len(splits['val']):,} pictures ({fraction:.0%} of each class) are held out"
    repeated = len(twins) - len(set(twins.values()))
    return splits, note + (f"; copies of a picture ({repeated:,}) stay with it" if repeated else "")


def _small_size(items: list[Item]) -> int | None:
    """The side in pixels if a sample of the pictures, spread evenly, are all squares of one small size, else None."""
    step = max(1, len(items) // HEADERS_LOOKED_AT)
    sizes = set()
    for item in items[::step]:
        try:
            sizes.add(image.size_of(item.read()))
        except (DataError, OSError):
            continue  # to be rejected, with its reason, when packed
        if len(sizes) > 1:
            return None
    height, width = next(iter(sizes), (0, 1))
    return height if height == width <= SMALL_PX else None


def _some(names: list[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def _cifar(published: cifar.Cifar) -> Source:
    splits = {
        split: [Item(f"{split}/{i:05d}", int(label), images_nhwc.__getitem__, i) for i, label in enumerate(labels)]
        for split, (images_nhwc, labels) in published.splits.items()
    }
    return Source(published.name, published.classes, splits, size_px=cifar.SIZE_PX)


def _shapes(seed: int) -> Source:
    from alexnet.data import shapes  # here, because it compiles its renderer on import

    splits = {}
    for split, count in SHAPES_COUNTS.items():
        split_seed = seed + (SHAPES_VAL_SEED_OFFSET if split == "val" else 0)
        n = len(shapes.CLASSES)
        splits[split] = [
            Item(f"{split}/{i:05d}", i % n, partial(shapes.render, seed=split_seed), i) for i in range(count)
        ]
    return Source("shapes", list(shapes.CLASSES), splits)
