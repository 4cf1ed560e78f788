"""Timing in turns, so that a slow moment of the machine hits everybody, and what a row says about where it was
measured.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path

import torch

from alexnet import __version__, machine


def timed_s(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns_s(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each call after one round that does not count, the calls taking turns."""
    for call in calls.values():
        call()
    times = [{name: timed_s(call) for name, call in calls.items()} for _ in range(rounds)]
    return {name: statistics.median(t[name] for t in times) for name in calls}


def gemm(size: int, dtype: torch.dtype, device: str = "cpu") -> Callable[[], object]:
    """A square matrix product: 2 size**3 operations, the rate no convolution exceeds."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype, device=device)
    return lambda: torch.mm(a, b, out=out)


def place() -> dict:
    """Versions, processor, threads, day and commit, for a row."""
    versions = {"alexnet": __version__, **machine.versions()}
    return {"versions": versions, "threads": torch.get_num_threads(), **_commit(), "date": date.today().isoformat()}


def _commit() -> dict:
    """{"commit": ...}, or nothing where the package does not lie in its own repository."""
    answers = []
    for question in (["ls-files", "--error-unmatch", __file__], ["rev-parse", "--short", "HEAD"]):
        with suppress(OSError):  # no git here
            git = subprocess.run(["git", *question], cwd=Path(__file__).parent, capture_output=True, text=True)
            answers.append(git.stdout.strip() if git.returncode == 0 else "")
    return {"commit": answers[1]} if answers and all(answers) else {}
