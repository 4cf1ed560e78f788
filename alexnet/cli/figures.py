"""`alexnet figures`: the paper's figures, of this run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from alexnet.cli.app import VERBS, Json, emit, progress
from alexnet.errors import UsageError
from alexnet.log import say


@VERBS.command
def figures(
    run: Positional[Path],
    data: Positional[str | None] = None,
    /,
    out: Path | None = None,
    format: Literal["png", "svg", "pdf"] = "png",
    only: tuple[Literal["filters", "curves", "predictions", "neighbours", "confusion"], ...] = (),
    pictures: int | None = None,
    device: str = "auto",
    json: Json = False,
) -> None:
    """Filters, curves, predictions, nearest neighbours in fc7 and confusions of a run, as the paper shows them.

    Args:
        run: a run folder or a model file.
        data: a pack, or anything `alexnet pack` takes; the run's own data if not given.
        out: the folder to write to; RUN/figures if not given.
        format: png, or svg or pdf for print.
        only: some of filters, curves, predictions, neighbours, confusion.
        pictures: how many validation and how many training pictures are looked at; 1,000, or ten a class.
    """
    from alexnet import figures as drawing
    from alexnet import figures_run

    if pictures is not None and pictures < 1:
        raise UsageError(f"--pictures {pictures}: 1 or more")
    folder = out or (run if run.is_dir() else run.parent) / "figures"
    wanted = only or drawing.NAMES
    record = figures_run.write(run, data, folder, format, wanted, pictures, device, progress)
    for name, reason in record["left_out"].items():
        say(f"note: no {name}: {reason}")
    emit(record, json, "\n".join(f"{name:12} {path}" for name, path in record["figures"].items()))
