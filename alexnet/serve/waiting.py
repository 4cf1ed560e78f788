"""One picture at a time through the net; the others wait in order, so many and so long, or are told to come again.

A request that ends (its client has gone, its time is up) leaves the queue without having cost anything.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from statistics import median_low
from typing import TypeVar

from alexnet.serve import limits
from alexnet.serve.limits import Refusal

T = TypeVar("T")
LAST = 20  # answers whose median says what one takes: a few slow ones turn nobody away


class Waiting:
    """The queue in front of the net."""

    def __init__(self, most: int = limits.QUEUE, wait_s: float = limits.WAIT_S, answer_s: float = limits.ANSWER_S):
        self.most, self.wait_s, self.answer_s = most, wait_s, answer_s
        self.inside, self.answered, self.took_s = 0, 0, deque(maxlen=LAST)
        self.net = ThreadPoolExecutor(1, thread_name_prefix="net")

    @property
    def usual_s(self) -> float:
        """What a request takes of the net's time, as the last ones did; 0 while that is not known."""
        return median_low(self.took_s) if self.took_s else 0.0

    @asynccontextmanager
    async def place(self):
        """A place in the queue, held until the request is answered. Raises Refusal: 503 at once where there is none,
        504 when the answer is not there in time.
        """
        if self.inside >= self.most or self.inside * self.usual_s > self.wait_s:
            raise Refusal(503, f"{self.inside} pictures are waiting; try again in a moment", retry=True)
        self.inside += 1
        try:
            async with asyncio.timeout(self.answer_s):
                yield
        except TimeoutError:
            raise Refusal(504, f"no answer within {self.answer_s:g} s; try again", retry=True) from None
        finally:
            self.inside -= 1

    async def run(self, work: Callable[..., T], *args) -> T:
        """What `work(*args)` returns, computed in the net's thread when its turn comes."""
        return await asyncio.get_running_loop().run_in_executor(self.net, self._timed, work, args)

    def _timed(self, work: Callable[..., T], args: tuple) -> T:
        begun_s = time.monotonic()
        try:
            return work(*args)
        finally:
            self.answered += 1
            if self.answered > 1:  # the first one finds everything cold
                self.took_s.append(time.monotonic() - begun_s)

    def close(self) -> None:
        self.net.shutdown(wait=False, cancel_futures=True)
