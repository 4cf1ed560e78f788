"""`alexnet figures`: which figures a run can have, drawn one after the other.

A run that is not finished has curves; a model file away from its run has filters, and with DATA all but the curves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from alexnet import figures, verify
from alexnet.errors import CheckpointError, MachineError, UsageError
from alexnet.predict import Predictor, load
from alexnet.report import answers as report_answers
from alexnet.report import history as report_history

PREDICTIONS, NEIGHBOURS = 8, 5  # pictures, as in figure 4


def write(
    run: Path,
    data: str | None,
    folder: Path,
    kind: str,
    wanted: Sequence[str],
    limit: int | None,
    device: str,
    progress,
) -> dict:
    """Draws the `wanted` figures into `folder`; returns {"run", "figures": {name: path}, "left_out": {name: reason}}.

    Raises CheckpointError, DataError for a run or data that cannot be read, MachineError where nothing can be written.
    """
    if not run.exists():
        raise UsageError(f"there is no {run}; give a run folder or a model file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make {folder}: {error.strerror}; give another --out") from None
    drawn = _curves(run) if "curves" in wanted else {}
    if set(wanted) - {"curves"}:
        drawn |= _of_model(run, data, wanted, limit, device, progress)
    made, left_out = {}, {}
    for name in wanted:
        if isinstance(drawn[name], str):
            left_out[name] = drawn[name]
        else:
            made[name] = str(figures.save(drawn[name], folder / f"{name}.{kind}"))
    return {"run": str(run), "figures": made, "left_out": left_out}


def _curves(run: Path) -> dict:
    record, metrics = run / "run.json", run / "metrics.jsonl"
    if not metrics.exists() or not record.exists():
        return {"curves": f"{run} is no run folder, which has metrics.jsonl"}
    return {"curves": figures.curves(report_history.read(metrics), _classes(record)) or "no step has been logged yet"}


def _classes(record: Path) -> int:
    try:
        return json.loads(record.read_text())["spec"]["net"]["classes"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{record} is not readable as a run's record") from None


def _of_model(run: Path, data: str | None, wanted: Sequence[str], limit: int | None, device: str, progress) -> dict:
    """A figure, or the reason why there is none, for each of the four that need the weights."""
    try:
        predictor = load(run, device)
    except CheckpointError:
        if not (run / "run.json").exists() or (run / "model.safetensors").exists():
            raise
        return dict.fromkeys(wanted, "the run is not finished") | _curves(run)
    drawn = {"filters": figures.filters(predictor.net) or "conv1 has no kernels over three colours"}
    if set(wanted) & {"predictions", "neighbours", "confusion"}:
        pack = verify.data_of(run, predictor, data, progress)
        verify.check_fit(predictor, pack)
        drawn |= _of_pictures(predictor, pack, wanted, limit, progress)
    return drawn


def _of_pictures(predictor: Predictor, pack, wanted: Sequence[str], limit: int | None, progress) -> dict:
    if not len(pack.splits["val"]):
        return dict.fromkeys(("predictions", "neighbours", "confusion"), "the pack has no validation pictures")
    limit = limit or report_answers.usual_limit(len(pack.classes))

    def look(split: str):
        net, prep, place = predictor.net, predictor.prep, predictor.place
        said = progress(f"looking at {split} pictures,")
        hidden = "neighbours" in wanted
        part = pack.splits[split]
        return report_answers.look(net, prep, place, part, pack.classes, limit=limit, hidden=hidden, progress=said)

    seen = look("val")
    drawn = {"predictions": figures.predictions(seen, report_answers.one_of_each(seen, PREDICTIONS))}
    drawn["confusion"] = figures.confusion(seen)
    layer = report_answers.last_hidden(predictor.net)
    if not layer:
        drawn["neighbours"] = "no layer goes into the last dense one"
    elif "neighbours" in wanted:
        drawn["neighbours"] = figures.neighbours(
            seen, report_answers.one_of_each(seen, NEIGHBOURS), look("train"), layer
        )
    return drawn
