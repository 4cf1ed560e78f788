"""Line charts as SVG text, for pages: a few kilobytes each, drawn in milliseconds, coloured by the page's own style.

matplotlib draws the figures for papers (figures.py). A page needs something else: charts that follow light, dark and
print, and that a training run can redraw every few seconds without noticing. Lines differ by colour and by dashes, so
they can be told apart in grey.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from alexnet.report.history import binned

LEFT, RIGHT, TOP, BOTTOM = 42, 10, 8, 24  # px of the drawing around the plot
POINTS = 400  # a line's most


@dataclass(frozen=True)
class Line:
    """`x` epochs, `y` values as plotted; `style` 0 ... 7 picks colour and dashes; `marks` draws each point;
    `faint` goes behind.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    style: int = 0
    marks: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Scale:
    """Data to drawing: linear or logarithmic, low ... high onto start ... end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values):
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        values = np.log10(np.maximum(values, self.low)) if self.log else np.asarray(values, float)
        return self.start + (values - low) / (high - low) * (self.end - self.start)


def chart(
    name: str,
    lines: Sequence[Line],
    *,
    width: int = 400,
    height: int = 210,
    floor: float | None = 0.0,
    ceiling: float | None = None,
    log: bool = False,
    level: float | None = None,
    x_label: str = "epoch",
    x_end: float | None = None,
) -> str:
    """An <svg> of lines over epochs, or "" where there is nothing to draw.

    `floor` and `ceiling` are always in view; `level` is a dotted line, such as the loss of guessing.
    """
    lines = [line for line in lines if len(line.x)]
    values = np.concatenate([line.y for line in lines]) if lines else np.zeros(0)
    if log:
        values = values[values > 0]
    if not len(values):
        return ""
    log = log and values.max() > 5 * values.min()
    extra = [v for v in (None if log else floor, ceiling, level) if v is not None]
    low, high = _bounds(min([values.min(), *extra]), max([values.max(), *extra]), log)
    x_end = max([float(line.x.max()) for line in lines] + ([x_end] if x_end else []))
    across = Scale(0, x_end or 1, LEFT, width - RIGHT)
    up = Scale(low, high, height - BOTTOM, TOP, log)
    parts = [_grid(across, up, width, height, x_label)]
    if level is not None:
        parts.append(f'<path class="level" d="M{LEFT} {up(level):.1f}H{width - RIGHT}"/>')
    parts += [_drawn(line, across, up) for line in sorted(lines, key=lambda line: not line.faint)]
    said = f'role="img" aria-label="{escape(_in_words(name, lines), quote=True)}"'
    return f'<svg viewBox="0 0 {width} {height}" {said}>{"".join(parts)}</svg>'


def _bounds(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        return 10 ** math.floor(math.log10(low) + 1e-9), 10 ** math.ceil(math.log10(high) - 1e-9)
    step = _step(low, high)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if high == low:
        return low, low + step
    return (low, high) if _step(low, high) <= step else _bounds(low, high, log)  # wider now: wider steps, too


def _step(low: float, high: float, count: int = 4) -> float:
    """1, 2, 2.5 or 5 times a power of ten, so that at most `count` of them fit."""
    rough = (high - low) / count or abs(high) / count or 1.0
    power = 10 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


def ticks(scale: Scale, count: int = 4) -> list[float]:
    if scale.log:
        first, last = round(math.log10(scale.low)), round(math.log10(scale.high))
        return [10.0**e for e in range(first, last + 1, max(1, (last - first) // 4))]
    step = _step(scale.low, scale.high, count)
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """As an axis writes it: 1,200; 0.05; 1e-5."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("-", "\N{MINUS SIGN}")
    return f"{value:,.10g}" if abs(value) >= 1000 else f"{value:.4g}"


def _grid(across: Scale, up: Scale, width: int, height: int, x_label: str) -> str:
    parts = []
    for value in ticks(up):
        y = float(up(value))
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{width - RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{y + 3.5:.1f}">{number(value)}</text>')
    bottom = height - BOTTOM
    for value in ticks(across, 5):
        x = float(across(value))
        if x > width - RIGHT - 40 and value < across.high:
            continue  # room for the axis's name
        parts.append(f'<path class="tick" d="M{x:.1f} {bottom}v4"/>')
        text = f"{x_label} {number(value)}" if value == 0 else number(value)
        anchor = ' style="text-anchor:start"' if value == 0 else ""
        x = x - 3 if value == 0 else x
        parts.append(f'<text class="x" x="{x:.1f}" y="{bottom + 16}"{anchor}>{text}</text>')
    return "".join(parts)


def _drawn(line: Line, across: Scale, up: Scale) -> str:
    x, y = binned(line.x, line.y, POINTS)
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(across(x), up(y), strict=True)]
    kind = f"line s{line.style % 8}{' faint' if line.faint else ''}"
    path = f'<path class="{kind}" d="M{"L".join(points)}"/>'
    if line.marks and len(points) <= 60:
        path += "".join(
            f'<circle class="mark s{line.style % 8}" r="2.4" cx="{a:.1f}" cy="{b:.1f}"/>'
            for a, b in zip(across(x), up(y), strict=True)
        )
    return path


def _in_words(name: str, lines: Sequence[Line]) -> str:
    """What a screen reader says instead of the curve."""
    parts = [f"{line.label} from {line.y[0]:.4g} to {line.y[-1]:.4g}" for line in lines if not line.faint]
    return f"{name} by epoch: {'; '.join(parts)}"


def sample(style: int, marks: bool = False) -> str:
    """A short piece of line for a legend."""
    dot = f'<circle class="mark s{style % 8}" r="2.4" cx="13" cy="5"/>' if marks else ""
    line = f'<path class="line s{style % 8}" d="M0 5H26"/>{dot}'
    return f'<svg class="sample" viewBox="0 0 26 10" aria-hidden="true">{line}</svg>'
