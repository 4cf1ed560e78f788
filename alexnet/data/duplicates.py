"""Pictures that stand in a pack more than once: in training and in validation, or under two classes.

Same file, or another file with the same pixels: either way the same bytes are stored. So what a pack holds anyway, the
length and crc32 of every picture, gives the candidates, and only those are read and compared.
"""

import hashlib

import numpy as np

from alexnet.data.packfile import Split

Place = tuple[str, int]  # split, picture


def groups_of(splits: dict[str, Split]) -> list[list[Place]]:
    """Groups of two or more identical pictures, each in packed order, training first."""
    names = list(splits)
    starts = np.cumsum([0, *(len(split) for split in splits.values())])
    marks = [
        shard.crc32.astype(np.uint64) << np.uint64(32) | np.diff(shard.offsets).astype(np.uint64)
        for split in splits.values()
        for shard in split.shards
    ]
    _, kind, times = np.unique(
        np.concatenate([np.zeros(0, np.uint64), *marks]), return_inverse=True, return_counts=True
    )
    found: dict[tuple[int, bytes], list[Place]] = {}
    for at in np.flatnonzero(times[kind] > 1):
        number = int(np.searchsorted(starts, at, side="right")) - 1
        place = names[number], int(at - starts[number])
        digest = hashlib.sha256(splits[place[0]].image_bytes(place[1])).digest()
        found.setdefault((int(kind[at]), digest), []).append(place)
    return sorted(group for group in found.values() if len(group) > 1)


def count(groups: list[list[Place]], splits: dict[str, Split]) -> dict[str, int]:
    """{"groups", "val_in_train": validation pictures that training has too, "labels_differ": training pictures that
    stand under another class too}.
    """
    val_in_train = labels_differ = 0
    for group in groups:
        train = [number for split, number in group if split == "train"]
        val_in_train += len(group) - len(train) if train else 0
        labels_differ += len(train) if len(set(splits["train"].labels[train])) > 1 else 0
    return {"groups": len(groups), "val_in_train": val_in_train, "labels_differ": labels_differ}


def rows(groups: list[list[Place]], splits: dict[str, Split], classes: list[str]) -> list[tuple[str, ...]]:
    """The lines of duplicates.csv: the group's number, split, class and key of each of its pictures."""
    heading = ("group", "split", "class", "key")
    return [heading] + [
        (str(number), split, classes[splits[split].labels[at]], splits[split].key(at))
        for number, group in enumerate(groups, start=1)
        for split, at in group
    ]
