"""`alexnet layers`: a net of cuda-convnet's layer files, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from alexnet import tables
from alexnet.cli.app import VERBS, Json, emit
from alexnet.log import say


@VERBS.command
def layers(
    file: Positional[Annotated[Path, arg(metavar="FILE")]],
    /,
    params: Path | None = None,
    classes: int | None = None,
    size: int | None = None,
    draw: Path | None = None,
    json: Json = False,
) -> None:
    """The layers of a file of the 2012 tool: shapes, parameters, multiply-adds, towers; as a table or drawn.

    Args:
        file: a definition file, such as layers-145.cfg.
        params: its parameter file; adds the rates and how they change over a run.
        classes: as many output units; as the file says if not given.
        size: the side of the pictures, which the file does not say; 224 for ImageNet's nets, 32 for CIFAR's.
        draw: a .png, .svg or .pdf to draw the net to, its towers side by side.
    """
    from alexnet.layerfile import draw as drawing
    from alexnet.layerfile import show

    rows = show.rows_of(file, params, classes=classes, size_px=size)
    if draw is not None:
        drawing.save(drawing.figure(rows, file.name, params and params.name), draw)
        say(f"drawn to {draw}")
    record = {"file": str(file), "params": params and str(params), **show.record(rows, params is not None)}
    emit(record, json, tables.aligned(show.table(rows, params is not None)))
