"""What a run tells: one progress line on the terminal, one JSON object a line in metrics.jsonl.

The file is cut back to the byte where a checkpoint left it when a run resumes, so lines are neither lost nor doubled.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from alexnet.errors import MachineError


def say(text: str) -> None:
    """A line of progress or explanation; standard output is kept for results. Of several processes, the first talks."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


def duration(time_s: float) -> str:
    """12 s, 3 min 20 s, 2 h 05 min."""
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


class Metrics:
    """metrics.jsonl of a run, appended to; `nbytes` is where it stands."""

    def __init__(self, path: Path, nbytes: int = 0):
        self.file = open(path, "ab")  # noqa: SIM115 - closed by close()
        self.nbytes = min(nbytes, path.stat().st_size)
        if self.nbytes < nbytes:
            say(f"warning: {path} has lost its last {nbytes - self.nbytes:,} bytes; the curves have a gap there")
        self.file.truncate(self.nbytes)

    def write(self, **record) -> None:
        line = json.dumps(record).encode() + b"\n"
        try:
            self.file.write(line)
            self.file.flush()
        except OSError as error:
            why = error.strerror or error
            raise MachineError(f"cannot write {self.file.name}: {why}; the checkpoints are untouched") from None
        self.nbytes += len(line)

    def close(self) -> None:
        self.file.close()


def read_metrics(path: Path) -> list[dict]:
    """All records of a metrics.jsonl; a half-written last line is left out, and so, with a warning, damaged ones."""
    lines = path.read_bytes().split(b"\n")[:-1]
    records = [record for line in lines if isinstance(record := _record(line), dict)]
    if len(records) < len(lines):
        say(f"warning: {len(lines) - len(records)} lines of {path} are damaged and left out")
    return records


def _record(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def progress_line(record: dict, left_s: float) -> str:
    """The line a person watches: where the run is, how well, how fast, how long still."""
    return (
        f"step {record['step']:>6,}  epoch {record['epoch']:6.2f}  loss {record['loss']:.4f}  "
        f"error {100 * record['train_error']:5.1f} %  {record['images_per_s']:7.1f} images/s  "
        f"data wait {100 * record['data_wait']:3.0f} %  {duration(left_s)} left"
    )


class Meter:
    """Times the loop: images per second and the share of it spent waiting for pictures, without evaluations and
    saves.
    """

    def __init__(self) -> None:
        self.start = self.mark = self.last_save = time.perf_counter()
        self.wait_s = self.work_s = self.total_s = 0.0
        self.images = self.steps = 0

    def got_batch(self) -> None:
        now = time.perf_counter()
        self.wait_s += now - self.mark
        self.mark = now

    def did_step(self, images: int) -> None:
        now = time.perf_counter()
        self.work_s += now - self.mark
        self.images += images
        self.steps += 1
        self.mark = now

    def pause(self, do) -> None:
        do()
        self.mark = time.perf_counter()

    def saved(self) -> None:
        self.last_save = time.perf_counter()

    @property
    def since_save_s(self) -> float:
        return time.perf_counter() - self.last_save

    def read(self) -> dict:
        """{"images_per_s", "data_wait"} since the last reading."""
        span_s = max(self.wait_s + self.work_s, 1e-9)
        rates = {"images_per_s": self.images / span_s, "data_wait": self.wait_s / span_s}
        self.total_s += span_s
        self.wait_s = self.work_s = 0.0
        self.images = 0
        return rates
