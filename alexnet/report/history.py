"""What metrics.jsonl tells of a run, for pages and figures: steps, evaluations, looks at the start, the end.

Reading costs little however long the run is: of a long file a few thousand lines of steps are parsed, evenly, and every
line of another kind. A line that is damaged or half-written is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MOST_STEPS = 4000  # parsed of one file: more than a curve can show
LATELY = 10  # logged steps that tell the present speed


@dataclass(frozen=True)
class History:
    """Records as they were written: steps (step, epoch, loss, train_error, images, rate, images_per_s, data_wait),
    evaluations (top1_error, top5_error, images, views), looks (step, look); `summary` of a finished run.
    """

    steps: list[dict] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)
    looks: list[dict] = field(default_factory=list)
    summary: dict | None = None

    @property
    def last(self) -> dict | None:
        return self.steps[-1] if self.steps else None

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(epochs, values) float64 of the steps or evaluations that have `name` and are finite."""
        records = self.evaluations if name in ("top1_error", "top5_error") else self.steps
        pairs = [(r["epoch"], r[name]) for r in records if r.get(name) is not None and math.isfinite(r[name])]
        epochs, values = np.array(pairs, np.float64).reshape(-1, 2).T
        return epochs, values

    def warnings(self) -> list[tuple[int, str]]:
        """(step, advice) of the newest look: what an earlier one saw has passed, or is said again."""
        return [(record["step"], text) for record in self.looks[-1:] for text in record["look"].get("advice", ())]

    @property
    def images_per_s(self) -> float | None:
        """Median of the last logged steps."""
        return float(np.median([r["images_per_s"] for r in self.steps[-LATELY:]])) if self.steps else None


def read(path: Path, most_steps: int | None = MOST_STEPS) -> History:
    """The history in a metrics.jsonl, of at most so many steps (None: all); an empty one where there is no file yet."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    history = History()
    summary = None
    for record in _parsed(_thinned(lines, most_steps)):
        if "summary" in record:
            summary = record["summary"]
        elif "look" in record:
            history.looks.append(record)
        elif "top1_error" in record:
            history.evaluations.append(record)
        elif {"step", "epoch", "loss", "images_per_s"} <= record.keys():
            history.steps.append(record)
    return History(history.steps, history.evaluations, history.looks, summary)


def _thinned(lines: list[bytes], most_steps: int | None) -> Iterable[bytes]:
    """Every k-th line of a step and the last, and all others."""
    is_step = [b'"loss"' in line and b'"summary"' not in line for line in lines]
    every = math.ceil(max(1, sum(is_step)) / most_steps) if most_steps else 1
    last, number = len(lines) - 1, 0
    for i, line in enumerate(lines):
        if not is_step[i] or number % every == 0 or i == last:
            yield line
        number += is_step[i]


def _parsed(lines: Iterable[bytes]) -> Iterable[dict]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def binned(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of at most `count` stretches of neighbouring points: what a line of so many pixels can show."""
    if len(x) <= count:
        return x, y
    starts = np.linspace(0, len(x), count + 1).astype(int)[:-1]
    sizes = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def smoothed(y: np.ndarray, width: int) -> np.ndarray:
    """The mean over up to `width` neighbours, fewer at the ends so that nothing is invented there."""
    half = width // 2
    sums = np.concatenate([[0.0], np.cumsum(y)])
    first = np.maximum(np.arange(len(y)) - half, 0)
    last = np.minimum(np.arange(len(y)) + half + 1, len(y))
    return (sums[last] - sums[first]) / (last - first)


def differences(records: Sequence[dict], prefix: str = "") -> list[tuple[str, list]]:
    """(dotted name, value in each record) of the settings in which records of specs differ; a whole group where one
    record has it switched off.
    """
    found = []
    for key in dict.fromkeys(key for record in records for key in record):
        values = [record.get(key) for record in records]
        if all(isinstance(value, dict) for value in values):
            found += differences(values, f"{prefix}{key}.")
        elif any(value != values[0] for value in values):
            found.append((f"{prefix}{key}", values))
    return found
