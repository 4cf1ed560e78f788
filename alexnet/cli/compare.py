"""`alexnet compare`: how alike layers, towers and runs see the same pictures."""

from __future__ import annotations

from typing import Annotated, Literal

from tyro.conf import Positional, arg

from alexnet import tables
from alexnet.cli.app import VERBS, Json, emit, progress


@VERBS.command
def compare(
    sources: Positional[Annotated[tuple[str, ...], arg(metavar="SOURCE [SOURCE ...]")]],
    /,
    layer: tuple[str, ...] = (),
    tower: tuple[Literal["a", "b"], ...] = (),
    data: str | None = None,
    split: Literal["val", "train"] = "val",
    pictures: int = 1000,
    distance: Literal["correlation", "euclidean"] = "correlation",
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    json: Json = False,
) -> None:
    """RSA (Spearman's correlation of dissimilarities) and linear CKA (unbiased) of every pair of representations.

    Args:
        sources: run folders, model files or files of `alexnet features`.
        layer: the layers of runs to compare, such as conv1 conv5 fc7.
        tower: a, b or both, each for itself; whole layers if not given.
        data: the pictures for runs, a pack or anything `alexnet pack` takes; each run's own if not given.
        split: val or train.
        pictures: how many of them, the first; time and memory grow with the square.
        distance: between the features of two pictures, for RSA.
    """
    from alexnet import compare as comparison

    options = {"data": data, "split": split, "pictures": pictures, "distance": distance}
    machine = {"device": device, "precision": precision, "progress": progress}
    record = comparison.compare(sources, layer, towers=tower, **options, **machine)
    names = [f"{i['source']} {i['layer']}{' ' + i['tower'] if i['tower'] else ''}" for i in record["items"]]
    heads = [("", *(str(i) for i in range(1, len(names) + 1)))]
    parts = [f"{record['pictures']:,} pictures"]
    for word, name in (("rsa", f"RSA ({distance})"), ("cka", "CKA (linear, unbiased)")):
        rows = [(f"{i} {names[i - 1]}", *(f"{x:.3f}" for x in row)) for i, row in enumerate(record[word], 1)]
        parts += ["", name, tables.aligned(heads + rows)]
    emit(record, json, "\n".join(parts))
