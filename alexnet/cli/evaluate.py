"""`alexnet evaluate`: errors on the validation pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from alexnet import tables
from alexnet.cli.app import VERBS, Json, emit, progress


@VERBS.command
def evaluate(
    runs: Positional[Annotated[tuple[str, ...], arg(metavar="RUN [RUN ...] [DATA]")]],
    /,
    data: str | None = None,
    views: int = 1,
    weights: tuple[float, ...] = (),
    split: Literal["val", "train"] = "val",
    batch: int = 128,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    per_class: bool = False,
    submission: Path | None = None,
    json: Json = False,
) -> None:
    """Errors on the validation pictures, every picture counted once. Several runs are averaged as an ensemble.

    Args:
        runs: run folders or model files; a pack may stand last, as in `alexnet evaluate RUN DATA`.
        data: the pack, or anything `alexnet pack` takes; the run's own data if not given.
        views: 1 (centre), 9 (three by three places, as on CIFAR in 2012) or 10 (corners, centre and their mirror
            images); softmax averaged.
        weights: of the runs in the average, one for each; equal if not given.
        split: val or train.
        per_class: also a table of errors by class.
        submission: a file to write in the challenge's format: for each picture, by key, its five best ids from 1.
    """
    from alexnet import verify as verifying

    paths, data = verifying.runs_and_data(runs, data)
    machine = {"device": device, "precision": precision, "batch": batch}
    result = verifying.measure(paths, data, views, split, weights, submit=submission, progress=progress, **machine)
    classes = result.pop("classes")
    record = {**result, "split": split, "runs": [str(path) for path in paths]}
    emit(
        {**record, **({"classes": classes} if per_class else {})},
        json,
        tables.errors(result, classes, per_class),
    )
