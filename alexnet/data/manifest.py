"""What stands in a pack beside its shards: the lists of refused and of doubled pictures, the mean picture, and what
pack.json says. And the judgement that comes with it: whether every class has pictures and few enough were refused.
"""

import csv
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alexnet.data import duplicates
from alexnet.data.items import Source
from alexnet.data.packfile import FORMAT_VERSION, Shard, Split, fingerprint
from alexnet.data.prepare import Recipe
from alexnet.data.shardwriter import put_file
from alexnet.data.statistics import colour_statistics
from alexnet.data.unfinished import Mark
from alexnet.errors import DataError

Say = Callable[[str], None]
Rejected = list[tuple[str, str, str]]  # split, key, reason


def conclude(source: Source, out: Path, recipe: Recipe, seed: int, mark: Mark, allow_rejects: float, say: Say) -> dict:
    """Writes what stands beside the finished shards of `mark`, and returns what pack.json will say.

    Raises DataError where a class is left without pictures or more than the share `allow_rejects` was refused;
    rejected.csv is there by then.
    """
    put_file(out / "rejected.csv", lambda file: file.write(_csv([("split", "key", "reason"), *mark.rejected])))
    opened = [Shard(out / entry["file"], entry, len(source.classes)) for entry in mark.shards]
    splits = {
        name: Split([s for s, e in zip(opened, mark.shards, strict=True) if e["split"] == name], *vars(recipe).values())
        for name in source.splits
    }
    class_counts = {name: np.bincount(split.labels, minlength=len(source.classes)) for name, split in splits.items()}
    for note in source.notes:
        say(note)
    _check_classes(source, class_counts, mark.rejected)
    _check_rejected(source, out, mark.rejected, allow_rejects, say)
    groups = duplicates.groups_of(splits)
    put_file(out / "duplicates.csv", lambda file: file.write(_csv(duplicates.rows(groups, splits, source.classes))))
    repeated = duplicates.count(groups, splits)
    _tell_duplicates(repeated, say)
    colours = colour_statistics(mark.sums)
    put_file(out / "mean.npy", lambda file: np.save(file, colours.mean_hwc))
    naming = {"readable": source.class_names, "class_order": source.class_order, "devkit_ids": source.class_ids}
    return {
        "format_version": FORMAT_VERSION,
        "name": source.name,
        "size_px": recipe.size_px,
        "encoding": recipe.encoding,
        "classes": source.classes,
        "counts": {name: len(split) for name, split in splits.items()},
        "class_counts": {name: counts.tolist() for name, counts in class_counts.items()},
        "rejected": {name: sum(row[0] == name for row in mark.rejected) for name in source.splits},
        "rejected_reasons": _by_kind(mark.rejected),
        "duplicates": repeated,
        "mean_image": "mean.npy",
        "mean_sha256": hashlib.sha256((out / "mean.npy").read_bytes()).hexdigest(),
        "channel_means": colours.channel_means.tolist(),
        "colour_stds": colours.colour_stds.tolist(),
        "colour_axes": colours.colour_axes.tolist(),
        "seed": seed,
        "shards": mark.shards,
        "fingerprint": fingerprint(mark.shards, source.classes),
        **{key: value for key, value in naming.items() if value},
    }


def _check_classes(source: Source, class_counts: dict[str, np.ndarray], rejected: Rejected) -> None:
    """Every class has a picture to train with, and where a split had pictures of it, one of them is left."""
    for split, items in source.splits.items():
        given = np.bincount([item.label for item in items], minlength=len(source.classes))
        empty = np.flatnonzero((class_counts[split] == 0) & ((given > 0) | (split == "train")))
        if len(empty):
            names = ", ".join(repr(source.classes[label]) for label in empty[:10])
            first = next(((key, reason) for where, key, reason in rejected if where == split), None)
            example = f" (the first refused: {first[0]}: {first[1]})" if first else ""
            what = "train" if split == "train" else "validate"
            raise DataError(f"no picture that can be used is left to {what} class {names}{example}")


def _check_rejected(source: Source, out: Path, rejected: Rejected, allowed: float, say: Say) -> None:
    """Tells how many were refused, and why. A single picture stops nothing unless none is allowed."""
    if not rejected:
        return
    n_given = sum(map(len, source.splits.values()))
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in list(_by_kind(rejected).items())[:5])
    text = f"{len(rejected):,} of {n_given:,} pictures were refused ({kinds})"
    if len(rejected) > max(allowed * n_given, 1 if allowed else 0):
        share = math.ceil(1000 * len(rejected) / n_given) / 1000
        raise DataError(
            f"{text}, more than {100 * allowed:g} %; {out / 'rejected.csv'} lists them.\n"
            f"Mend or remove them, or allow it: alexnet pack SRC OUT --allow-rejects {share:g}"
        )
    say(f"{text}; rejected.csv lists them")


def _by_kind(rejected: Rejected) -> dict[str, int]:
    """Refused pictures by kind of reason, what it says before any colon or bracket; most frequent first."""
    return dict(Counter(re.split(": | \\(|; ", reason)[0] for _, _, reason in rejected).most_common())


def _tell_duplicates(repeated: dict[str, int], say: Say) -> None:
    if repeated["val_in_train"]:
        say(f"warning: {repeated['val_in_train']:,} validation pictures are in training too; see duplicates.csv")
    if repeated["labels_differ"]:
        say(f"warning: {repeated['labels_differ']:,} training pictures stand under several classes; see duplicates.csv")


def _csv(rows: list[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
