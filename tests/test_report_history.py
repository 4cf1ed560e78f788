"""What a page reads of a run's metrics."""

import json

import numpy as np

from alexnet.report import history
from alexnet.report.charts import Line
from alexnet.report.parts import _steps


def written(folder, *records: dict):
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return history.read(path)


def test_what_an_early_look_saw_does_not_stay(tmp_path):
    early, late = {"step": 5, "look": {"advice": ["fc6 vanishes"]}}, {"step": 20, "look": {"advice": []}}
    assert written(tmp_path, early).warnings() == [(5, "fc6 vanishes")]
    assert written(tmp_path, early, late).warnings() == []


def test_a_rate_holds_from_the_last_logged_step_on():
    line = _steps(Line("", np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.1, 0.01])))
    assert list(zip(line.x, line.y, strict=True)) == [(1, 0.1), (1, 0.1), (2, 0.1), (2, 0.01), (3, 0.01)]
