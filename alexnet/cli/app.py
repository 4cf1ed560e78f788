"""What the verbs share: the command itself, the options that mean the same everywhere, how a result is put out."""

from __future__ import annotations

import json as json_module
import sys
import time
from typing import Annotated

import tyro
from tyro.conf import UseAppendAction, arg

from alexnet.log import duration

VERBS = tyro.extras.SubcommandApp()
Settings = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="PART.FIELD=VALUE")]
Json = Annotated[bool, arg(help="One JSON value on standard output, nothing else.")]


def emit(record, as_json: bool, table: str) -> None:
    """The result: a JSON object for programs, or a table for people."""
    print(json_module.dumps(record) if as_json else table, flush=True)


def progress(word: str, clock=time.monotonic):
    """progress(done, total) with the time left: one line of a terminal, rewritten; elsewhere one every half minute."""
    first: tuple[float, int] | None = None
    told_s = 0.0

    def show(done: int, total: int) -> None:
        nonlocal first, told_s
        now_s, terminal = clock(), sys.stderr.isatty()
        if first is None:
            first, told_s = (now_s, done), now_s
        last = terminal and done == total
        if not last and now_s - told_s < (0.2 if terminal else 30):
            return
        told_s = now_s
        left_s = (now_s - first[0]) / max(done - first[1], 1) * (total - done)
        text = f"{word} {done:,} of {total:,}, {duration(left_s)} left"
        line = f"\r{text}\x1b[K" if terminal else f"{text}\n"
        print(line, end="\n" if last else "", file=sys.stderr, flush=True)

    return show
