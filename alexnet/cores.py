"""How many cores there are to use; without PyTorch, which `machine.py` needs."""

import os


def usable() -> int:
    """Those that this process may run on: fewer than the machine has in a container, or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
