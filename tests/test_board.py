"""metrics.jsonl as TensorBoard's event files."""

import json
import sys

import pytest

from alexnet.errors import UsageError
from alexnet.report import board

STEP = {"step": 10, "epoch": 1.0, "loss": 2.5, "train_error": 0.5, "rate": 0.01, "images_per_s": 30.0, "data_wait": 0.0}
EVALUATION = {"step": 10, "epoch": 1.0, "top1_error": 0.25, "top5_error": 0.125, "images": 8, "views": 1}
LOOK = {"step": 5, "look": {"dead_share": {"relu1": 0.5}, "update_ratio": {"conv1": 0.001}, "advice": []}}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (LOOK, STEP, EVALUATION)))
    return tmp_path


def test_what_is_written_is_read_back(run):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard here")
    for _ in range(2):  # the second time replaces the first
        folder = board.write(run)
    assert len(list(folder.iterdir())) == 1
    read = events.EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [(10, 2.5)]
    assert [(e.step, e.value) for e in read.Scalars("val/top1_error")] == [(10, 0.25)]
    assert [(e.step, e.value) for e in read.Scalars("dead_share/relu1")] == [(5, 0.5)]


def test_without_the_package_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"alexnet\[board\]"):
        board.write(run)


def test_a_folder_without_metrics_is_refused(tmp_path):
    pytest.importorskip("tensorboard", reason="no tensorboard here")
    with pytest.raises(UsageError, match="no run folder"):
        board.write(tmp_path)
