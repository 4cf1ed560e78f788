"""The parts of a report as plain values and ready pieces of a page: figures in words, charts, pictures as data URIs.

Text stays text until the template escapes it; what is marked safe here (`Markup`) is SVG and base64 of our own making.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from alexnet import log
from alexnet.data import image
from alexnet.report import answers as report_answers
from alexnet.report.answers import Answers
from alexnet.report.charts import Line, chart, sample
from alexnet.report.history import History, smoothed
from alexnet.spec import Spec
from alexnet.tables import TOP5_FROM

SAMPLES, MISTAKES, PAIRS = 8, 8, 10
THUMB_PX = 240  # as wide as pictures are shown
MATRIX_CLASSES = 20  # up to here a whole confusion matrix is shown
WORST_CLASSES = 20  # up to here every class has a line; of more, the worst and the rest behind a click
WIDE, NARROW = 400, 300  # px, the two widths a chart is drawn for


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def duration(time_s: float | None) -> str:
    return "–" if time_s is None else log.duration(time_s)


def status(history: History, spec: Spec, live: bool) -> str:
    """Where the run stands, in a line."""
    if history.summary is not None:
        return f"finished: {history.summary['step']:,} steps, {history.summary['epoch']:g} epochs"
    if history.last is None:
        return "begun; no step has been logged yet"
    step, epoch = history.last["step"], history.last["epoch"]
    per_epoch = max(1, round(step / epoch)) if epoch else 1
    total = spec.run.length.steps(per_epoch, 0)
    left_s = (total - step) * spec.run.batch / max(history.images_per_s or 0, 1e-9)
    text = f"step {step:,} of {total:,}, epoch {epoch:.2f} of {total / per_epoch:g}"
    return f"training: {text}, about {log.duration(left_s)} left" if live else f"not finished: {text}"


def key_figures(history: History) -> list[tuple[str, str, str]]:
    """(number, what it is, a remark), the handful to be read first."""
    figures = []
    if history.evaluations:
        last = history.evaluations[-1]
        views = "one view" if last["views"] == 1 else f"{last['views']} views"
        of = f"{last['images']:,} pictures, {views}"
        figures.append((percent(last["top1_error"]), "validation error", f"{of}, epoch {last['epoch']:g}"))
        classes = last.get("classes", ())
        if len(classes) == 2:
            figures += [
                (percent(r["top1_error"]), f"error on {r['class']}", f"{r['images']:,} pictures") for r in classes
            ]
        elif not 0 < len(classes) < TOP5_FROM:
            figures.append((percent(last["top5_error"]), "top-5 error", "the right class not among five"))
    if history.last is not None:
        figures.append(
            (f"{history.last['loss']:.3f}", "training loss", f"error {percent(history.last['train_error'])}")
        )
        summary = history.summary or {}
        speed = summary.get("images_per_s") or history.images_per_s
        remark = f"{duration(summary['time_s'])} of training" if summary.get("time_s") else "lately"
        figures.append((f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}", "images/s", remark))
    return figures


def legend(name: str, lines: Sequence[Line], unit: str = "") -> list[dict]:
    return [
        {"sample": _safe(sample(line.style, line.marks)), "label": line.label, "last": _short(line.y[-1]) + unit}
        for line in lines
        if len(line.x) and not line.faint
    ]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def curves(history: History, spec: Spec) -> list[dict]:
    """{"name", "unit", "wide", "svg", "legend"} of each chart there is something for."""
    end = _epochs(history, spec)
    error, loss = _with_mean(history, "train_error", 100), _with_mean(history, "loss", 1)
    measured = [("top1_error", "validation"), ("top5_error", "validation, top 5")]
    for style, (name, label) in enumerate(measured[: _measures(spec)], 1):
        x, y = history.column(name)
        error.append(Line(label, x, 100 * y, style, marks=True))
    guess = math.log(spec.net.classes)
    narrow = {"width": NARROW, "height": 170, "x_end": end}
    parts = [
        _chart("Loss", "nats", loss, level=guess, note=f"dotted: guessing, {guess:.2f}", width=WIDE, x_end=end),
        _chart("Error", "%", error, width=WIDE, x_end=end),
        _chart("Rate of the weights", "", [_steps(_line(history, "rate"))], log=True, **narrow),
        _chart("Speed", "images/s", [_line(history, "images_per_s")], **narrow),
        _chart("Waiting for pictures", "% of the time", [_line(history, "data_wait", 100)], ceiling=1, **narrow),
    ]
    return [part for part in parts if part["svg"]]


def _measures(spec: Spec) -> int:
    """How many of the errors top-1 and top-5 say something."""
    return 1 if spec.net.classes < TOP5_FROM else 2


def _epochs(history: History, spec: Spec) -> float | None:
    """Where the time axis ends: at the run's last epoch, if that is known."""
    if spec.run.length.unit == "ep":
        return spec.run.length.value
    last = history.last
    return (
        None if last is None or spec.run.length.unit != "st" else last["epoch"] * spec.run.length.value / last["step"]
    )


def _line(history: History, name: str, scale: float = 1, label: str = "", style: int = 0) -> Line:
    x, y = history.column(name)
    return Line(label, x, scale * y, style)


def _steps(line: Line) -> Line:
    """A value that held from the one before it on."""
    return replace(line, x=np.repeat(line.x, 2)[:-1], y=np.repeat(line.y, 2)[1:])


def _with_mean(history: History, name: str, scale: float) -> list[Line]:
    """What was logged, faint, and its mean over neighbours."""
    x, y = history.column(name)
    width = len(y) // 25
    logged = [Line("", x, scale * y, faint=True)] if width > 1 else []
    return [*logged, Line("training", x, scale * (smoothed(y, width) if width > 1 else y))]


def _chart(name: str, unit: str, lines: list[Line], note: str = "", **options) -> dict:
    shown = legend(name, lines) if any(line.label for line in lines) else []
    wide = options["width"] == WIDE
    return {
        "name": name,
        "unit": unit,
        "wide": wide,
        "note": note,
        "legend": shown,
        "svg": _safe(chart(name, lines, **options)),
    }


def curves_together(names: Sequence[str], histories: Sequence[History]) -> list[dict]:
    """The charts of several runs, a line each; every run keeps its style."""

    def lines(column: str, scale: float = 1, smooth: bool = False, marks: bool = False) -> list[Line]:
        found = []
        for style, (name, history) in enumerate(zip(names, histories, strict=True)):
            x, y = history.column(column)
            y = smoothed(y, len(y) // 25) if smooth and len(y) >= 50 else y
            found.append(Line(name, x, scale * y, style, marks or len(x) == 1))
        return found

    wide = {"width": WIDE}
    parts = [
        _chart("Validation error", "%, top 1", lines("top1_error", 100, marks=True), **wide),
        _chart("Training error", "%", lines("train_error", 100, smooth=True), **wide),
        _chart("Training loss", "nats", lines("loss", smooth=True), **wide),
        _chart("Speed", "images/s", lines("images_per_s"), **wide),
    ]
    return [part for part in parts if part["svg"]]


def result_row(record: dict, spec: Spec, history: History) -> dict:
    """A line of the table of results."""
    last, summary = (history.evaluations or [{}])[-1], history.summary or {}
    return {
        "preset": spec.preset,
        "data": Path(record["data"].get("path", "?")).name,
        "epoch": (history.last or {}).get("epoch"),
        "finished": history.summary is not None,
        "top1_error": last.get("top1_error"),
        "top5_error": last.get("top5_error") if _measures(spec) == 2 else None,
        "loss": (history.last or {}).get("loss"),
        "images_per_s": summary.get("images_per_s") or history.images_per_s,
        "time_s": summary.get("time_s"),
        "cpu": record.get("versions", {}).get("cpu", "?"),
    }


def short_names(runs: Sequence[Path]) -> list[str]:
    """The folders' own names, or as much of their paths as tells them apart."""
    paths = [run.resolve() for run in runs]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = ["/".join(path.parts[-2:]) for path in paths]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def samples(count: int) -> list:
    """The pieces of line of a legend, one for each run."""
    return [_safe(sample(style)) for style in range(count)]


def machine(record: dict) -> str:
    """The machine and versions of run.json, in a line."""
    versions = dict(record.get("versions") or {})
    computer = f"{versions.pop('cpu', '?')} ({versions.pop('capability', '?')})"
    threads = f"{versions.pop('threads', '?')} threads on {versions.pop('cores', '?')} cores"
    return ", ".join([computer, threads, *(f"{name} {value}" for name, value in versions.items())])


def kernels(net: nn.Module) -> list[dict] | None:
    """{"name", "count", "px", "src"} of each tower's first layer; None where it has no kernels over three colours."""
    made = []
    for name, part in report_answers.kernels_by_tower(net):
        sheet = with_clear_gaps(part, min(16, len(part)))
        made.append(
            {
                "name": name.capitalize(),
                "count": len(part),
                "px": part.shape[1],
                "src": _png(sheet),
                "shape": sheet.shape,
            }
        )
    return made or None


def with_clear_gaps(tiles_nhwc: np.ndarray, columns: int) -> np.ndarray:
    """Tiles in rows as (H, W, 4), what is between them transparent: it takes the page's colour."""
    solid = np.full_like(tiles_nhwc, 255)
    alpha = report_answers.in_rows(solid, columns, ground=0)[..., :1]
    return np.concatenate([report_answers.in_rows(tiles_nhwc, columns), alpha], axis=2)


def seen(answers: Answers) -> dict:
    """All that is shown of a net's answers."""
    table = report_answers.confusion(answers)
    by_class = report_answers.class_errors(answers)
    return {
        "count": len(answers),
        "of": len(answers.split),
        "error": float(np.mean(answers.said != answers.labels)),
        "samples": [_card(answers, row) for row in report_answers.one_of_each(answers, SAMPLES)],
        "mistakes": [_card(answers, row) for row in report_answers.worst(answers, MISTAKES)],
        "classes": by_class[:WORST_CLASSES],
        "more_classes": by_class[WORST_CLASSES:],
        "pairs": [_pair(answers, pair) for pair in report_answers.most_confused(answers, PAIRS)],
        "matrix": _matrix(answers.classes, table) if len(answers.classes) <= MATRIX_CLASSES else None,
    }


def _card(answers: Answers, row: int) -> dict:
    label = int(answers.labels[row])
    top = [
        {"class": answers.classes[i], "probability": p, "right": i == label, "width": max(0.5, round(100 * p, 1))}
        for i, p in answers.top(row)
    ]
    key = answers.key(row)
    card = {"label": answers.classes[label], "key": key, "file": key.rpartition("/")[2], "top": top}
    return {**card, "src": _thumb(answers.pixels(row))}


def _pair(answers: Answers, pair: report_answers.Confusion) -> dict:
    names = {"label": answers.classes[pair.label], "said": answers.classes[pair.said]}
    share = pair.count / pair.images
    return {**names, "count": pair.count, "images": pair.images, "share": share}


def _matrix(classes: list[str], table: np.ndarray) -> dict:
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    rows = [
        {
            "class": name,
            "cells": [
                {"count": int(n), "share": round(float(s), 3), "right": i == j}
                for j, (n, s) in enumerate(zip(counts, row, strict=True))
            ],
        }
        for i, (name, counts, row) in enumerate(zip(classes, table, shares, strict=True))
    ]
    return {"classes": classes, "rows": rows}


def _thumb(pixels_hwc: np.ndarray) -> str:
    """A packed square as a small JPEG, as a data URI."""
    side = min(THUMB_PX, pixels_hwc.shape[0])
    small = Image.fromarray(pixels_hwc).resize((side, side), Image.Resampling.LANCZOS)
    return _uri("jpeg", image.encode_jpeg(np.asarray(small), 80))


def _png(pixels_hwc: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels_hwc).save(out, "PNG", optimize=True)
    return _uri("png", out.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _safe(svg: str):
    from markupsafe import Markup

    return Markup(svg)
