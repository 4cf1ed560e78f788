"""WebDataset shards -> every picture, unread: a folder of tars whose members share a key up to the first dot.

    set-train-000000.tar   0001.jpg, 0001.cls ("2"), 0002.png, 0002.json ({"label": 2}), ...
    classes.txt            beside the shards, one class name a line; else numbers are their own names

Pictures may be jpg, jpeg, png or webp; members of other kinds are ignored. Nothing is unpickled: a label is the text
in .cls (a number, or a word) or "label" in .json. Shards are indexed by seeking; only labels are read.
"""

import json
import re
from functools import partial
from pathlib import Path

from alexnet.data.items import Item, Source, files_by_split, numbered_labels
from alexnet.data.tree import Tree, members_of, read_span
from alexnet.errors import DataError

SUFFIX = ".tar"
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
NUMBER = re.compile(r"-?\d{1,9}")
MAX_LABEL_NBYTES = 1 << 20

Span = tuple[int, int]  # offset in the shard, size


def read_webdataset(folder: Path, tree: Tree, names: list[str]) -> Source:
    """The pictures in the shards `names` below `folder`, train and validation told apart by name.

    Raises DataError for damaged shards, pictures without a label, and labels without a class.
    """
    files, notes = files_by_split(names)
    items: dict[str, list[tuple[str, partial, Span]]] = {split: [] for split in files}
    labels: dict[str, list[int | str]] = {split: [] for split in files}
    n_alone = 0
    for split, split_files in files.items():
        for name in split_files:
            path = folder / name
            fetch = partial(read_span, str(path))
            for key, parts in sorted(_samples(path).items()):
                picture = next((ext for ext in sorted(parts) if f".{ext}".endswith(PICTURES)), None)
                if picture is None:
                    n_alone += 1
                    continue
                items[split].append((f"{name}/{key}.{picture}", fetch, parts[picture]))
                labels[split].append(_label(path, key, parts))
    if not items["train"]:
        raise DataError(f"{folder} has no pictures for training in its tar files; expected key.jpg with key.cls")
    if n_alone:
        notes.append(f"{n_alone:,} keys without a picture were ignored")
    classes, numbers = numbered_labels(labels, _classes(tree), str(folder))
    splits = {
        split: [Item(key, label, fetch, span) for (key, fetch, span), label in zip(found, numbers[split], strict=True)]
        for split, found in items.items()
    }
    return Source(folder.resolve().name, classes, splits, notes=tuple(notes))


def _samples(path: Path) -> dict[str, dict[str, Span]]:
    """{key: {extension in lower case: span}}; "a/b.seg.png" has the key "a/b" and the extension "seg.png"."""
    samples: dict[str, dict[str, Span]] = {}
    for name, span in members_of(path).items():
        folder, slash, last = name.rpartition("/")
        stem, _, extension = last.partition(".")
        samples.setdefault(folder + slash + stem, {})[extension.lower()] = span
    return samples


def _label(path: Path, key: str, parts: dict[str, Span]) -> int | str:
    span = parts.get("cls") or parts.get("json")
    if span is None:
        raise DataError(f"{path}: {key} has a picture but neither {key}.cls nor {key}.json")
    if span[1] > MAX_LABEL_NBYTES:
        raise DataError(f"{path}: the label of {key} has {span[1]:,} bytes; refused")
    text = read_span(str(path), span).decode("utf-8", "replace").strip()
    label = text if "cls" in parts else _label_in(text)
    if isinstance(label, str) and NUMBER.fullmatch(label):
        label = int(label)
    if type(label) not in (int, str) or label == "":
        raise DataError(f"{path}: {key} has no label that is a number or a word")
    return label


def _label_in(text: str) -> object:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content.get("label") if isinstance(content, dict) else None


def _classes(tree: Tree) -> list[str] | None:
    if "classes.txt" not in tree.files:
        return None
    names = [line.strip() for line in tree.read("classes.txt").decode("utf-8", "replace").splitlines() if line.strip()]
    if not names or len(set(names)) != len(names):
        raise DataError("classes.txt is empty or names a class twice")
    return names
