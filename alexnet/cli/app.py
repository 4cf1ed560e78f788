"""What the verbs share: the command itself, the options that mean the same everywhere, how a result is put out."""

from __future__ import annotations

import json as json_module
import sys
from typing import Annotated

import tyro
from tyro.conf import UseAppendAction, arg

VERBS = tyro.extras.SubcommandApp()
Settings = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="PART.FIELD=VALUE")]
Json = Annotated[bool, arg(help="One JSON object on standard output, nothing else.")]


def emit(record, as_json: bool, table: str) -> None:
    """The result: a JSON object for programs, or a table for people."""
    print(json_module.dumps(record) if as_json else table, flush=True)


def progress(word: str):
    """progress(done, total) that rewrites one line of a terminal, and stays silent elsewhere."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{word} {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
