"""What a person should know about a pack's numbers before training on it: too few pictures, uneven classes, a
validation set that tells little, and the accuracy that any net must beat.

    for line in notes(pack): say(line)
"""

from __future__ import annotations

import numpy as np

from alexnet.data.packfile import Pack

FEW_TRAIN, FEW_VAL = 20, 10  # pictures in a class, below which a line is said
UNEVEN = 5  # times the smallest class
NAMED = 3  # classes in a line


def notes(pack: Pack, fine_tuned: bool = False) -> list[str]:
    """One line of numbers, and one more for each thing that is wrong, with what to do."""
    train, val = (np.bincount(pack.splits[s].labels, minlength=len(pack.classes)) for s in ("train", "val"))
    lines = [_numbers(pack.classes, train, val)]
    if few := _below(pack.classes, train, FEW_TRAIN):
        other = "" if fine_tuned else ", or begin with a trained model (--from MODEL)"
        lines.append(f"few pictures: {few} to train with; collect more{other}")
    if train.max() > UNEVEN * train.min():
        most, least = (pack.classes[int(i)] for i in (train.argmax(), train.argmin()))
        lines.append(
            f"uneven: {train.max() / max(1, train.min()):.1f} times as many pictures of {most!r} as of {least!r}; "
            "add pictures of the small classes, and judge by class: alexnet evaluate RUN --per-class"
        )
    if val.sum() and (few := _below(pack.classes, val, FEW_VAL)):
        lines.append(
            f"small validation set: {few} there, so a class's error comes in large steps; add pictures to val/, "
            "or hold out more: alexnet pack PICTURES OUT --val-fraction 0.2"
        )
    return lines


def _numbers(classes: list[str], train: np.ndarray, val: np.ndarray) -> str:
    text = f"{len(classes):,} classes with {_span(train)} training pictures each"
    if not val.sum():
        return f"{text}, none for validation: nothing will be known about new pictures (put some into val/)"
    best, right = classes[int(val.argmax())], 100 * val.max() / val.sum()
    return f"{text}, {_span(val)} for validation; to beat: {right:.1f} %, always answering {best!r}"


def _span(counts: np.ndarray) -> str:
    """How many pictures a class has, from the smallest to the largest."""
    return f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"


def _below(classes: list[str], counts: np.ndarray, least: int) -> str:
    """'2 of 10 classes have under 20 (cat 5, dog 8)', the smallest first; '' where all have enough."""
    order = [int(i) for i in np.argsort(counts, kind="stable") if counts[i] < least]
    some = ", ".join(f"{classes[i]} {counts[i]}" for i in order[:NAMED]) + (", ..." if len(order) > NAMED else "")
    have = "has" if len(order) == 1 else "have"
    return f"{len(order):,} of {len(classes):,} classes {have} under {least} ({some})" if order else ""
