"""A submission in the format of the ILSVRC classification challenge: a line for each picture, its five best guesses.

    817 512 437 752 656      ids from 1, the most probable first; lines in the order of the pictures' keys

Keys of the validation and test pictures end in their numbers, so the lines stand in the order of the ground truth. The
ids are the devkit's where the pack knows them (`devkit_ids` in pack.json), whatever the order of its classes; else a
class's place among the pack's classes, from 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet.data.packfile import Pack
from alexnet.data.shardwriter import put_file
from alexnet.errors import DataError, MachineError, UsageError

GUESSES = 5


def check(path: Path, pack: Pack) -> None:
    """Raises, before anything is computed, UsageError for too few classes or a path that cannot be a file, DataError
    for ids in pack.json that cannot be such.
    """
    if len(pack.classes) < GUESSES:
        raise UsageError(f"--submission: five guesses a picture, and {pack.path} has only {len(pack.classes)} classes")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise UsageError(f"--submission {path}: give a file in a folder that exists")
    ids_of(pack)


def best(probabilities: Tensor) -> Tensor:
    """(N, classes) -> (N, 5) int64 labels, the most probable first, the lower label where two are equal."""
    return torch.sort(probabilities, dim=1, descending=True, stable=True).indices[:, :GUESSES]


def ids_of(pack: Pack) -> list[int]:
    """The challenge's id of each class, by label."""
    ids = pack.meta.get("devkit_ids")
    if ids is None:
        return list(range(1, len(pack.classes) + 1))
    is_ids = isinstance(ids, list) and all(type(number) is int and 0 < number < 2**31 for number in ids)
    if not is_ids or len(ids) != len(set(ids)) or len(ids) != len(pack.classes):
        raise DataError(f"{pack.path}/pack.json: devkit_ids does not number the classes; pack again")
    return ids


def write(path: Path, pack: Pack, split: str, best_n5: Tensor) -> None:
    """The labels (N, 5) of all pictures of a split, in packed order, as the file `path`, whole or not at all."""
    pictures = pack.splits[split]
    guesses = np.array(ids_of(pack))[best_n5.numpy()]
    order = sorted(range(len(pictures)), key=pictures.key)
    text = "".join(" ".join(map(str, guesses[i])) + "\n" for i in order)
    try:
        put_file(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror or error}") from error
