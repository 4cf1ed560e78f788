"""Timing in turns, so that a slow moment of the machine hits everybody, and what a row says about where it was
measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

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
    """Versions, processor and threads, for a row."""
    return {"versions": {"alexnet": __version__, **machine.versions()}, "threads": torch.get_num_threads()}
