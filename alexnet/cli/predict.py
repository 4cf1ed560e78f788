"""`alexnet predict`: the top five of a picture."""

from __future__ import annotations

import sys
from typing import Annotated

from tyro.conf import Positional, arg

from alexnet.cli.app import VERBS, Json, emit
from alexnet.errors import DataError, UsageError
from alexnet.log import say


@VERBS.command
def predict(
    run: Positional[Annotated[str, arg(metavar="RUN")]],
    files: Positional[Annotated[tuple[str, ...], arg(metavar="FILE [FILE ...]")]],
    /,
    views: int = 10,
    device: str = "auto",
    json: Json = False,
) -> None:
    """The five most probable classes of each picture.

    Args:
        run: a run folder or a model file.
        files: pictures, of any format `alexnet pack` takes.
        views: 1 (centre), 9 (three by three places) or 10 (corners, centre and their mirror images).
    """
    if views not in (1, 9, 10):
        raise UsageError(f"--views {views}: 1, 9 or 10")
    if not files:
        raise UsageError("no pictures were named: alexnet predict RUN FILE...")
    from alexnet.predict import load

    predictor = load(run, device)
    answers, failures = [], []
    for file in files:
        try:
            answers.append({"file": file, "top5": predictor.top5(file, views)})
        except DataError as error:
            failures.append(error)
            say(f"error: {error}")
    lines = [
        f"{a['file']}\n" + "\n".join(f"  {100 * t['probability']:6.2f} %  {t['class']}" for t in a["top5"])
        for a in answers
    ]
    emit(answers, json, "\n".join(lines))
    if failures:
        sys.exit(DataError.exit_code)
