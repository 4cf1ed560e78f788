"""`alexnet neighbours`: the pictures whose features lie nearest."""

from __future__ import annotations

from typing import Annotated, Literal

from tyro.conf import Positional, arg

from alexnet.cli.app import VERBS, Json, emit


@VERBS.command
def neighbours(
    index: Positional[Annotated[str, arg(metavar="INDEX")]],
    /,
    *,
    query: tuple[str, ...],
    run: str | None = None,
    layer: str | None = None,
    count: int = 6,
    distance: Literal["euclidean", "cosine"] = "euclidean",
    json: Json = False,
) -> None:
    """The nearest pictures by their features: exact, with the file of features itself as the index.

    Args:
        index: a file of `alexnet features`.
        query: keys of pictures in the file, or picture files (with --run).
        run: the run folder or model file the features are from, for picture files.
        layer: the layer the features are from, where an .npy does not say it.
        count: how many neighbours of each.
    """
    from alexnet import neighbours as nearest

    answers = nearest.search(index, query, run=run, layer=layer, count=count, distance=distance)
    lines = []
    for answer in answers:
        lines.append(answer["query"])
        for one in answer["neighbours"]:
            label = "" if one["label"] is None else f"  label {one['label']}"
            lines.append(f"  {one['distance']:10.4f}  {one['key']}{label}")
    emit(answers, json, "\n".join(lines))
