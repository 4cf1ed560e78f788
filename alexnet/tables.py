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


TOP5_FROM = 6  # with fewer classes the top-5 error is nothing


def errors(result: dict, classes: list[dict], per_class: bool = True) -> str:
    """Errors in per cent with their views; by class, from `classes`, where asked for or where there are only two."""
    views = "one view" if result["views"] == 1 else f"{result['views']} views"
    text = f"{result['images']:,} pictures, {views}: top-1 error {100 * result['top1_error']:.2f} %"
    if not 0 < len(classes) < TOP5_FROM:
        text += f", top-5 error {100 * result['top5_error']:.2f} %"
    return "\n".join([text, *(by_class(classes) if per_class or len(classes) == 2 else ())])


def by_class(classes: list[dict]) -> list[str]:
    """A line for each class, and the two numbers that uneven classes are judged by."""
    width = max((len(row["class"]) for row in classes), default=0)
    lines = []
    for row in classes:
        error = "-" if row["top1_error"] is None else f"{100 * row['top1_error']:6.2f} %"
        lines.append(f"  {row['class']:{width}}  {row['images']:7,} pictures  top-1 error {error}")
    shown = [row for row in classes if row["images"]]
    if not shown:
        return lines
    mean, most = sum(row["top1_error"] for row in shown) / len(shown), max(shown, key=lambda row: row["images"])
    always = 1 - most["images"] / sum(row["images"] for row in shown)
    return [
        *lines,
        f"  mean of the classes' errors {100 * mean:.2f} %; "
        f"error of always answering {most['class']!r} {100 * always:.2f} %",
    ]


def validation(result: dict) -> str:
    """One evaluation in a line: with the top-5 error where there are many classes, by class where there are two."""
    classes, text = result.get("classes", ()), f"validation error {100 * result['top1_error']:.2f} %"
    if len(classes) == 2 and all(row["images"] for row in classes):
        return f"{text} ({', '.join('{} {:.2f} %'.format(row['class'], 100 * row['top1_error']) for row in classes)})"
    return text if 0 < len(classes) < TOP5_FROM else f"{text} (top-5 {100 * result['top5_error']:.2f} %)"


def training(run: Path, record: dict) -> str:
    """What a finished training says, and what to type next."""
    lines = [f"{run}: {record['step']:,} steps, {record['epoch']:g} epochs, training loss {record['train_loss']:.4f}"]
    if record["top1_error"] is not None:
        top1, top5 = 100 * (1 - record["top1_error"]), 100 * (1 - record["top5_error"])
        classes = record.get("classes", ())
        few = 0 < len(classes) < TOP5_FROM
        lines.append(f"validation accuracy {top1:.2f} %{'' if few else f' (top-5 {top5:.2f} %)'}, one view")
        lines += by_class(classes) if classes else ()
    return "\n".join([*lines, f"next: alexnet evaluate {run} --views 10    alexnet predict {run} PICTURE"])


def seeds(record: dict) -> str:
    """What a job of several seeds says, by seed and together, and what to type next."""
    rows = [("seed", "top-1 error", "top-5 error", "run")]
    for row in record["seeds"]:
        errors = ("-" if row[k] is None else f"{100 * row[k]:.2f} %" for k in ("top1_error", "top5_error"))
        rows.append((str(row["seed"]), *errors, row["run"]))
    lines = [aligned(rows)]
    for word, key in (("top-1", "top1_error"), ("top-5", "top5_error")):
        one = {name: 100 * value for name, value in record[key].items() if value is not None}
        if "low" in one:
            lines.append(
                f"{word} error {one['mean']:.2f} % (standard deviation {one['std']:.2f}, "
                f"95 % interval of the mean {one['low']:.2f} to {one['high']:.2f})"
            )
    alike = record["consistency"]
    if alike and alike["mean_rsa"] is not None:
        found = f"mean RSA of all pairs {alike['mean_rsa']:.3f}, CKA {alike['mean_cka']:.3f}"
        lines.append(f"{alike['layer']} over {alike['pictures']:,} validation pictures: {found}")
    return "\n".join([*lines, f"next: alexnet evaluate {record['run']}/seed-*    (the ensemble)"])


def bench_row(row: dict) -> tuple[str, ...]:
    """A row of `alexnet bench` as cells: what, ours, peers, ratio, more."""
    peers = ", ".join(f"{name} {value:,}" for name, value in row["peer"].items()) or "-"
    known = {"name", "value", "unit", "peer", "ratio", "ratios", "layers"}
    known |= {"versions", "threads", "toy", "command", "commit", "date"}
    more = ", ".join(f"{name} {value}" for name, value in row.items() if name not in known)
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return row["name"], f"{row['value']:,} {row['unit']}", peers, ratio, more
