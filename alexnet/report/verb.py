"""`alexnet report`: loads what a page needs (the model, its data) and says what could not be had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet import verify
from alexnet.errors import DataError, UsageError
from alexnet.log import say
from alexnet.predict import load
from alexnet.report import answers as report_answers
from alexnet.report import board as boards
from alexnet.report import pages as report


def one(run: Path, out: Path | None, data: str | None, limit: int | None, device: str, progress) -> dict:
    """RUN's page, with pictures if it is finished and its data is there; returns {"run", "report", "pictures"}.

    Raises UsageError for a folder that is no run, CheckpointError for a damaged model.
    """
    check_run(run)
    net = seen = None
    if (run / "model.safetensors").exists():
        predictor = load(run, device)
        net = predictor.net
        try:
            pack = verify.data_of(run, predictor, data, progress)
            verify.check_fit(predictor, pack)
            limit = limit or report_answers.usual_limit(len(pack.classes))
            said = progress("looking at pictures,")
            place, part = predictor.place, pack.splits["val"]
            seen = report_answers.look(net, predictor.prep, place, part, pack.classes, limit=limit, progress=said)
        except DataError as error:
            if data is not None:
                raise
            say(f"note: a page without pictures: {error}\nname the data with --data")
    path = report.write(run, net, seen, out=out)
    return {"run": str(run), "report": str(path), "pictures": 0 if seen is None else len(seen)}


def several(runs: Sequence[Path], out: Path) -> dict:
    """One page that compares runs; returns {"runs", "report"}."""
    for run in runs:
        check_run(run)
    return {"runs": [str(run) for run in runs], "report": str(report.compare(runs, out))}


def board(runs: Sequence[Path]) -> dict:
    return {"runs": [str(run) for run in runs], "boards": [str(boards.write(run)) for run in runs]}


def check_run(run: Path) -> None:
    if not (run / "run.json").exists():
        raise UsageError(f"{run} is no run folder: it has no run.json; give the folder that `alexnet train --run` made")
