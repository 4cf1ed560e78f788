"""The server's side of the decoder processes: a few children, one upload at a time for each, replaced when they die.

A child that crashes, hangs or is killed fails the one request it was at; its place is filled again while the others
go on.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from alexnet.errors import DataError
from alexnet.log import say
from alexnet.serve import limits
from alexnet.serve.decoder import ANSWER, JOB, READY
from alexnet.serve.limits import Refusal

CHILD = (sys.executable, "-m", "alexnet.serve.decoder")
START_S = 60.0  # a cold disk and a first compilation


class Decoders:
    """`square` may be called from any number of tasks; `start` before, `stop` after."""

    def __init__(self, count: int = 2, command: Sequence[str] = CHILD, time_s: float = limits.DECODE_S):
        self.count, self.command, self.time_s = count, command, time_s
        self.idle: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
        self.children: set[asyncio.subprocess.Process] = set()
        self.tasks: set[asyncio.Task] = set()

    async def start(self) -> None:
        """Returns when all children are ready. Raises RuntimeError where one cannot be started."""
        await asyncio.gather(*(self._spawn() for _ in range(self.count)))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        for child in self.children:
            with suppress(ProcessLookupError):
                child.kill()
        await asyncio.gather(*(child.wait() for child in self.children), *self.tasks, return_exceptions=True)

    async def square(self, data: bytes, size_px: int) -> np.ndarray:
        """uint8 (size_px, size_px, 3) of an upload. Raises DataError for what is no picture, Refusal (500, 504) where
        the child died over it or took too long.
        """
        child = await self._taken()
        # Once begun, an exchange is finished even if the client has gone: half an answer would belong to the next one.
        return await asyncio.shield(self._task(self._exchange(child, data, size_px)))

    async def _taken(self) -> asyncio.subprocess.Process:
        while (child := await self.idle.get()).returncode is not None:
            self._replace(child)
        return child

    async def _exchange(self, child, data: bytes, size_px: int) -> np.ndarray:
        try:
            async with asyncio.timeout(self.time_s):
                good, payload = await _asked(child, data, size_px)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            slow = isinstance(error, TimeoutError)
            say(f"note: the decoder {'hung' if slow else 'died'} over {hashlib.sha256(data).hexdigest()}; replaced")
            self._replace(child)
            why = "takes too long to read" if slow else "could not be read: its decoder was stopped"
            raise Refusal(504 if slow else 500, f"this picture {why}") from None
        except BaseException:
            self._replace(child)
            raise
        self.idle.put_nowait(child)
        if not good:
            raise DataError(payload.decode())
        return np.frombuffer(payload, np.uint8).reshape(size_px, size_px, 3)

    def _replace(self, child) -> None:
        with suppress(ProcessLookupError):
            child.kill()
        self.children.discard(child)
        self._task(self._spawn())

    async def _spawn(self) -> None:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*self.command, stdin=pipe, stdout=pipe, start_new_session=True)
        self.children.add(child)
        async with asyncio.timeout(START_S):
            ready = await child.stdout.readline()
        if ready != READY:
            raise RuntimeError("the process that decodes pictures does not start")
        self.idle.put_nowait(child)

    def _task(self, coroutine) -> asyncio.Task:
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever waited for it has it too, unless the client has gone


async def _asked(child, data: bytes, size_px: int) -> tuple[bool, bytes]:
    child.stdin.write(JOB.pack(size_px, len(data)))
    child.stdin.write(data)
    await child.stdin.drain()
    good, nbytes = ANSWER.unpack(await child.stdout.readexactly(ANSWER.size))
    return bool(good), await child.stdout.readexactly(nbytes)
