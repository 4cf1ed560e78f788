"""Spreads one compiled loop over a few threads: row ranges of numpy arrays, no second OpenMP beside PyTorch's.

The kernels release the GIL and every row is independent, so the answer does not depend on the number of threads. Pieces
are handed out as threads come free, the caller works too: a core that is busy elsewhere delays one piece, not the call.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

COMPILED_TYPES = (torch.float32, torch.bfloat16)  # that the loops take
PIECES_PER_THREAD = 8


@lru_cache(maxsize=1)
def _pool(helpers: int, pid: int) -> ThreadPoolExecutor:
    """A pool of `helpers` threads; `pid` is part of the key because threads do not survive a fork."""
    return ThreadPoolExecutor(helpers, thread_name_prefix="alexnet-kernel")


def over_rows(kernel: Callable[[int, int], None], rows: int, at_least: int = 1) -> None:
    """Call `kernel(first, last)` on pieces that cover range(rows), each of `at_least` rows or more, and wait.

    Uses torch.get_num_threads() threads. An exception in any piece is raised here, after all threads have stopped.
    """
    threads = torch.get_num_threads()
    if threads == 1 or rows <= at_least:
        return kernel(0, rows) if rows else None
    size = max(at_least, -(-rows // (threads * PIECES_PER_THREAD)))
    starts = range(0, rows, size)
    tickets = itertools.count()  # next() on it is atomic: every piece is taken once

    def work() -> None:
        while (ticket := next(tickets)) < len(starts):
            kernel(starts[ticket], min(starts[ticket] + size, rows))

    helpers = min(threads, len(starts)) - 1
    futures = [_pool(threads - 1, os.getpid()).submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        for future in futures:
            future.exception()
    for future in futures:
        future.result()
    return None
