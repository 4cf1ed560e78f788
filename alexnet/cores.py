"""Which processor this is, and how many of its cores there are to use; without PyTorch, which `machine.py` needs."""

import os
import platform
from functools import lru_cache


def usable() -> int:
    """Those that this process may run on: fewer than the machine has in a container, or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache
def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def slow_library() -> bool:
    """Whether PyTorch's float32 products run at half of what the processor can do: Intel's MKL on one of AMD's."""
    return "AMD" in cpu_name()
