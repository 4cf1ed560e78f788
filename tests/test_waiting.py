"""The queue in front of the net: how long the newest would wait is learnt from the last answers, not from any one."""

import asyncio
import time

import pytest

from alexnet.serve import limits

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from alexnet.serve.limits import Refusal
from alexnet.serve.waiting import Waiting


def queue(*answers_s: float) -> Waiting:
    """After answers that took so long; 200 are waiting."""
    waiting = Waiting()
    for answer_s in answers_s:
        waiting._timed(time.sleep, (answer_s,))
    waiting.inside = 200
    return waiting


async def enter(waiting: Waiting) -> None:
    async with waiting.place():
        pass


@pytest.mark.parametrize("answers_s", [(0.3,), (0.3, 0.002), (0.002, 0.002, 0.3), (0.3, *[0.002] * 5, *[0.1] * 4)])
def test_a_few_slow_answers_turn_nobody_away(answers_s):
    asyncio.run(enter(queue(*answers_s)))


def test_slow_answers_do_from_the_second_on():
    with pytest.raises(Refusal, match="200 pictures are waiting"):
        asyncio.run(enter(queue(*[1.1 * limits.WAIT_S / 200] * 2)))
    with pytest.raises(Refusal, match="200 pictures are waiting"):
        asyncio.run(enter(queue(*[0.001] + [0.04] * 60)))
