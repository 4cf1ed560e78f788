"""What a net answers: pictures with their five bars, their nearest neighbours (the paper's figure 4), confusions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alexnet.figures.style import BLUE, INK, ORANGE, PALE, figure_of, picture, short, styled
from alexnet.report import answers
from alexnet.report.answers import Answers


@styled
def predictions(seen: Answers, rows: Sequence[int]):
    """A Figure of the pictures in `rows` with five bars each (figure 4, left); the label's own bar is dark."""
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = figure_of(1.8 * columns, 3.1 * lines)
    grid = figure.add_gridspec(2 * lines, columns, height_ratios=[1.7, 1] * lines)
    for i, row in enumerate(rows):
        axes = figure.add_subplot(grid[2 * (i // columns), i % columns])
        picture(axes, seen.pixels(row))
        axes.set_title(short(seen.classes[seen.labels[row]]), loc="center")
        _bars(figure.add_subplot(grid[2 * (i // columns) + 1, i % columns]), seen, row)
    return figure


def _bars(axes, seen: Answers, row: int) -> None:
    top = seen.top(row)
    for place, (label, probability) in enumerate(top):
        right = label == seen.labels[row]
        axes.barh(place, probability, color=BLUE if right else PALE, height=0.86, zorder=1)
        inside = right and probability > 0.5
        text = f"{short(seen.classes[label], 18)}  {100 * probability:.0f} %"
        colour, weight = "white" if inside else INK, "bold" if right else "normal"
        x = 0.02 + (probability if right and not inside else 0)
        axes.text(x, place, text, va="center", fontsize=6.5, color=colour, weight=weight, zorder=2)
    axes.set(xlim=(0, 1), ylim=(4.6, -0.6), xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


@styled
def neighbours(queries: Answers, rows: Sequence[int], candidates: Answers, layer: str, count: int = 6):
    """A Figure, each row a validation picture, then the training pictures nearest to it (figure 4, right); those of
    another class say so. Both were looked at with `hidden`.
    """
    places = answers.nearest(queries.hidden[list(rows)], candidates.hidden, count)
    count = places.shape[1]
    figure = figure_of(1.05 * (count + 1) + 0.2, 1.3 * len(rows) + 0.6)
    grid = figure.subplots(len(rows), count + 1, squeeze=False, gridspec_kw={"width_ratios": [1.12] + [1] * count})
    for line, row, near in zip(grid, rows, places, strict=True):
        label = queries.labels[row]
        picture(line[0], queries.pixels(row))
        line[0].set_title(short(queries.classes[label], 16), fontsize=7)
        for axes, place in zip(line[1:], near, strict=True):
            picture(axes, candidates.pixels(place))
            other = candidates.labels[place] != label
            name = f"≠ {short(candidates.classes[candidates.labels[place]], 13)}" if other else ""
            axes.set_title(name, fontsize=7, weight="normal", color=INK)
            _frame(axes, other)
    text = f"Left: validation pictures. Right: the nearest of {len(candidates):,} training pictures in {layer}"
    figure.suptitle(f"{text}; ≠ another class", x=0.01, ha="left", fontsize=8)
    return figure


def _frame(axes, marked: bool) -> None:
    axes.spines[:].set(visible=marked, color=ORANGE, linewidth=1.6, linestyle="--")


@styled
def confusion(seen: Answers):
    """A Figure of what each class was taken for, a row each, in % of the row; counts are written while there are few
    classes.
    """
    table = answers.confusion(seen)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    count = len(seen.classes)
    few = count <= 25
    side = 1.6 + (0.42 * count if few else 5.4)
    figure = figure_of(max(3.4, side + 0.6), max(3.0, side))
    axes = figure.subplots()
    drawn = axes.imshow(100 * shares, cmap="Greys", vmin=0, vmax=100, interpolation="nearest")
    axes.set(xlabel="what the net said", ylabel="what it was")
    axes.set_title(f"{len(seen):,} pictures, {100 * np.mean(seen.said != seen.labels):.1f} % wrong")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if few:
        names = [short(name, 16) for name in seen.classes]
        axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), names)
        axes.tick_params(length=0)
        for (i, j), n in np.ndenumerate(table):
            if n:
                axes.text(
                    j, i, f"{n}", ha="center", va="center", fontsize=7, color="white" if shares[i, j] > 0.55 else INK
                )
    figure.colorbar(drawn, ax=axes, shrink=0.6, label="% of the row", pad=0.02).outline.set_visible(False)
    return figure
