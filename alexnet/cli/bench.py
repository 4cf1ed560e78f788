"""`alexnet bench`: how fast, beside peers and the physical limit."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from alexnet import tables
from alexnet.cli.app import VERBS, Json, emit


@VERBS.command
def bench(
    what: Positional[Literal["train", "conv", "lrn", "loader", "predict", "doctor", "gpu", "all"]],
    data: Positional[Annotated[str | None, arg(metavar="[DATA]")]] = None,
    /,
    toy: bool = False,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """How fast, as ratios: ours, the peers and the physical limit, in turns in the same run.

    Args:
        what: a training step, its convolutions, the response norm, the loader, prediction, what limits a run (doctor),
            or all of these; gpu: steps and kernels on a GPU, on random pictures.
        data: a pack, or anything `alexnet pack` takes; none: the built-in set.
        toy: small sizes, to see that it runs.
        out: a file of JSON lines to append the rows to, such as results/speed.jsonl.
    """
    import importlib

    from alexnet.bench.turns import place

    names = ("train", "conv", "lrn", "loader", "predict", "doctor") if what == "all" else (what,)
    rows = []
    for name in names:
        for row in importlib.import_module(f"alexnet.bench.{name}").rows(toy, data):
            rows.append({"toy": toy, **row, "command": f"alexnet bench {name}", **place()})
            if out is not None:  # at once: the next one may take minutes
                with open(out, "a") as file:
                    file.write(json_module.dumps(rows[-1]) + "\n")
    cells = [("what", "ours", "peers", "ratio", "more"), *map(tables.bench_row, rows)]
    emit({"rows": rows}, json, tables.aligned(cells))
