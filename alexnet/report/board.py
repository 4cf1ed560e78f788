"""metrics.jsonl as TensorBoard event files, for those who look at all their runs there: `tensorboard --logdir runs`.

Written from the file, when asked; training knows nothing of it. Needs the extra `board`.
"""

from __future__ import annotations

from pathlib import Path

from alexnet.errors import UsageError
from alexnet.report import history as report_history

TAGS = {
    "loss": "train/loss",
    "train_error": "train/error",
    "rate": "rate",
    "images_per_s": "speed/images_per_s",
    "data_wait": "speed/data_wait",
    "top1_error": "val/top1_error",
    "top5_error": "val/top5_error",
}


def write(run: Path) -> Path:
    """Event files of everything in RUN/metrics.jsonl, in RUN/board; those of an earlier time are replaced.

    Raises UsageError where the package is missing or RUN has no metrics.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("--board needs TensorBoard's package: pip install 'alexnet[board]'") from None
    if not (run / "metrics.jsonl").exists():
        raise UsageError(f"{run} is no run folder; it has no metrics.jsonl")
    folder = run / "board"
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for step, tag, value in scalars(report_history.read(run / "metrics.jsonl", most_steps=None)):
            writer.add_scalar(tag, value, step)
    return folder


def scalars(history: report_history.History):
    """(step, tag, value) of every number in a history."""
    for record in (*history.steps, *history.evaluations):
        yield from ((record["step"], tag, record[name]) for name, tag in TAGS.items() if name in record)
    for record in history.looks:
        for group in ("dead_share", "update_ratio"):
            for layer, value in record["look"].get(group, {}).items():
                yield record["step"], f"{group}/{layer}", value
