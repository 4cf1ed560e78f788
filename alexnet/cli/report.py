"""`alexnet report`: a run on one page, or several runs on one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from alexnet.cli.app import VERBS, Json, emit, progress
from alexnet.errors import UsageError


@VERBS.command
def report(
    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]],
    /,
    out: Path | None = None,
    data: str | None = None,
    pictures: int | None = None,
    board: bool = False,
    device: str = "auto",
    json: Json = False,
) -> None:
    """Writes a run's report.html anew, or, of several runs, a page that compares them. The pages need no internet.

    Args:
        runs: run folders, finished or not.
        out: the page to write; RUN/report.html, or compare.html for several runs.
        data: a pack, or anything `alexnet pack` takes; the run's own data if not given.
        pictures: how many validation pictures are looked at; 1,000, or ten a class.
        board: write TensorBoard's event files to RUN/board instead.
    """
    from alexnet.report import verb as report_verb

    if not runs:
        raise UsageError("no run was named: alexnet report RUN, or RUN RUN... to compare")
    if pictures is not None and pictures < 1:
        raise UsageError(f"--pictures {pictures}: 1 or more")
    if board and (out or data or pictures):
        raise UsageError("--board writes event files into the runs; leave --out, --data and --pictures out")
    if board:
        record = report_verb.board(runs)
    elif len(runs) == 1:
        record = report_verb.one(runs[0], out, data, pictures, device, progress)
    else:
        record = report_verb.several(runs, out or Path("compare.html"))
    emit(record, json, "\n".join(record.get("boards") or [record.get("report")]))
