"""`alexnet history`: the runs that a folder of 2012 layer files tells of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from alexnet import tables
from alexnet.cli.app import VERBS, Json, emit


@VERBS.command
def history(
    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]],
    /,
    sort: Literal["name", "definition", "data", "begun", "epochs", "nll", "top1", "top5"] = "name",
    json: Json = False,
) -> None:
    """The runs in a folder of layer files and their comments: what was changed, and what it brought.

    Args:
        folder: with layers-NAME.cfg and layer-params-NAME.cfg files, or folders of them.
        sort: the column to sort by, lowest first; what is not known comes last.
    """
    from alexnet.layerfile import history as runs_of

    runs = runs_of.read_folder(folder, sort)
    records = [{**asdict(run), **runs_of.reached(run)} for run in runs]
    table = tables.aligned(runs_of.table(runs))
    emit({"folder": str(folder), "runs": records}, json, f"{table}\n?: not said, by the date or the net")
