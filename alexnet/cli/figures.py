"""`alexnet figures`: the paper's figures, of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from alexnet.cli.app import VERBS, Json, emit, progress
from alexnet.errors import UsageError
from alexnet.log import say

Name = Literal["net", "filters", "curves", "predictions", "neighbours", "confusion", "augmentation", "colours"]


@VERBS.command
def figures(
    runs: Positional[Annotated[tuple[str, ...], arg(metavar="RUN [RUN ...]")]],
    /,
    data: str | None = None,
    out: Path | None = None,
    format: Literal["png", "svg", "pdf"] = "png",
    only: tuple[Name, ...] = (),
    only_errors: bool = False,
    pictures: int | None = None,
    device: str = "auto",
    json: Json = False,
) -> None:
    """The net, its filters, curves, predictions, nearest neighbours in relu7 and confusions, and the pictures' colours
    and augmentation, as the paper shows them; of several runs, their curves together.

    Args:
        runs: a run folder or a model file, several run folders, or a pack; a pack may stand last as the data.
        data: a pack, or anything `alexnet pack` takes; the run's own data if not given.
        out: the folder to write to; RUN/figures if not given, `figures` beside a pack or the first of several runs.
        format: png, or svg or pdf for print.
        only: some of net, filters, curves, predictions, neighbours, confusion, augmentation, colours.
        only_errors: predictions shows pictures that were answered wrongly.
        pictures: how many validation and how many training pictures are looked at; 1,000, or ten a class.
    """
    from alexnet import verify
    from alexnet.figures import run as drawing

    if not runs:
        raise UsageError("give a run folder, a model file or a pack")
    if pictures is not None and pictures < 1:
        raise UsageError(f"--pictures {pictures}: 1 or more")
    paths, data = verify.runs_and_data(runs, data)
    wish = drawing.Wish(only or drawing.usual(paths), pictures, only_errors, device, progress)
    record = drawing.write(paths, data, out or drawing.usual_folder(paths), format, wish)
    for name, reason in record["left_out"].items():
        say(f"note: no {name}: {reason}")
    emit(record, json, "\n".join(f"{name:12} {path}" for name, path in record["figures"].items()))
