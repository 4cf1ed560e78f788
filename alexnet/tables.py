"""How results look on a terminal; --json tells the same to programs."""

from __future__ import annotations

import io
import sys
from pathlib import Path


def aligned(cells: list[tuple[str, ...]]) -> str:
    """Rows of text in aligned columns, wrapped to the terminal where there is one; the first row is the heading."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*cells[0], box=None, pad_edge=False)
    for row in cells[1:]:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=None if sys.stdout.isatty() else 160).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def errors(result: dict, classes: list[dict]) -> str:
    """Errors in per cent with their views, and by class where `classes` is given."""
    views = "one view" if result["views"] == 1 else f"{result['views']} views"
    lines = [
        f"{result['images']:,} pictures, {views}: top-1 error {100 * result['top1_error']:.2f} %, "
        f"top-5 error {100 * result['top5_error']:.2f} %"
    ]
    width = max((len(row["class"]) for row in classes), default=0)
    for row in classes:
        error = "-" if row["top1_error"] is None else f"{100 * row['top1_error']:6.2f} %"
        lines.append(f"  {row['class']:{width}}  {row['images']:7,} pictures  top-1 error {error}")
    return "\n".join(lines)


def training(run: Path, record: dict) -> str:
    """What a finished training says, and what to type next."""
    lines = [f"{run}: {record['step']:,} steps, {record['epoch']:g} epochs, training loss {record['train_loss']:.4f}"]
    if record["top1_error"] is not None:
        top1, top5 = 100 * (1 - record["top1_error"]), 100 * (1 - record["top5_error"])
        lines.append(f"validation accuracy {top1:.2f} % (top-5 {top5:.2f} %), one view")
    return "\n".join([*lines, f"next: alexnet evaluate {run} --views 10    alexnet predict {run} PICTURE"])


def bench_row(row: dict) -> tuple[str, ...]:
    """A row of `alexnet bench` as cells: what, ours, peers, ratio, more."""
    peers = ", ".join(f"{name} {value:,}" for name, value in row["peer"].items()) or "-"
    known = ("name", "value", "unit", "peer", "ratio", "ratios", "versions", "threads", "toy")
    more = ", ".join(f"{name} {value}" for name, value in row.items() if name not in known)
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return row["name"], f"{row['value']:,} {row['unit']}", peers, ratio, more
