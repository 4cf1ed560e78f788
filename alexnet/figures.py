"""The paper's figures of a run, drawn from what it learnt: PNG to look at, SVG or PDF for print.

filters      conv1's kernels, tower a above tower b (the paper's figure 3)
curves       loss, errors, rate and speed over the epochs
predictions  eight validation pictures, the five most probable classes of each (figure 4, left)
neighbours   five validation pictures and the training pictures nearest to them in fc7 (figure 4, right)
confusion    which class is taken for which

Each is a function that returns a matplotlib Figure. All can be read in grey: what matters differs by brightness, dashes
or words, never by hue alone. Equal runs give equal files.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet.checkpoint import publish
from alexnet.net import AlexNet
from alexnet.report import answers
from alexnet.report.answers import Answers
from alexnet.report.charts import number
from alexnet.report.history import History, smoothed

NAMES = ("filters", "curves", "predictions", "neighbours", "confusion")
FORMATS = ("png", "svg", "pdf")
INK, BLUE, ORANGE, PALE = "#222222", "#2a5d9f", "#d9762b", "#c9d3df"
STYLE = {
    "font.size": 8,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.linewidth": 0.6,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.3,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "alexnet",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a class may be called $x$
}


def _figure(width_in: float, height_in: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in))


def styled(draw):
    """Draws in the style above, whatever the caller has set."""

    def wrapped(*args, **kwargs):
        import matplotlib

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
            return draw(*args, **kwargs)

    wrapped.__name__, wrapped.__doc__ = draw.__name__, draw.__doc__
    return wrapped


@styled
def filters(net: AlexNet):
    """A Figure of conv1's kernels, 16 a row, the towers apart (the paper's figure 3); None for a net whose first layer
    has none to show.
    """
    found = answers.kernels_by_tower(net)
    if not found:
        return None
    names, parts = zip(*found, strict=True)
    columns = min(16, len(parts[0]))
    rows = -(-len(parts[0]) // columns)
    figure = _figure(6.4, 0.4 + len(parts) * (0.3 + 6.2 * rows / columns))
    for axes, name, part in zip(figure.subplots(len(parts), 1, squeeze=False)[:, 0], names, parts, strict=True):
        _picture(axes, answers.in_rows(part, columns))
        axes.set_title(f"{name}{', ' * bool(name)}{len(part)} kernels of {part.shape[1]} × {part.shape[2]} × 3 px")
    figure.supxlabel("grey is zero; one scale for all", x=0.01, ha="left", fontsize=8, color="#555555")
    return figure


@styled
def curves(history: History, classes: int):
    """A Figure of loss (nats), errors (%), rate and speed over the epochs; None before the first logged step."""
    from matplotlib.ticker import MaxNLocator

    if not history.steps:
        return None
    figure = _figure(7.2, 4.6)
    (loss, error), (rate, speed) = figure.subplots(2, 2, sharex=True)
    epochs, values = history.column("loss")
    _noisy(loss, epochs, values, BLUE, "-", "training")
    loss.axhline(np.log(classes), color=INK, lw=0.8, ls=":", label=f"guessing, ln {classes:,}")
    loss.set(title="Loss", ylabel="nats", ylim=(0, None))
    epochs, values = history.column("train_error")
    _noisy(error, epochs, 100 * values, BLUE, "-", "training")
    for name, label, dash, marker in (
        ("top1_error", "validation", "--", "o"),
        ("top5_error", "validation, top 5", ":", "s"),
    ):
        epochs, values = history.column(name)
        error.plot(epochs, 100 * values, color=ORANGE, ls=dash, marker=marker, ms=3.5, label=label)
    error.set(title="Error", ylabel="%", ylim=(0, None))
    epochs, values = history.column("rate")
    rate.plot(epochs, values, color=INK)
    rate.set(title="Rate of the weights", xlabel="epoch", ylabel="per step")
    if (values > 0).all() and values.max() > 5 * values.min():
        rate.set_yscale("log")
        rate.yaxis.set_major_formatter(lambda value, _: number(value))
    epochs, values = history.column("images_per_s")
    speed.plot(epochs, values, color=INK)
    speed.set(title="Speed", xlabel="epoch", ylabel="images/s", ylim=(0, None))
    speed.xaxis.set_major_locator(MaxNLocator(6, integer=history.last["epoch"] >= 6))
    for axes in (loss, error):
        axes.legend(handlelength=2.4)
    return figure


def _noisy(axes, x: np.ndarray, y: np.ndarray, colour: str, dash: str, label: str) -> None:
    """The values as logged, pale, and their mean over neighbours."""
    width = len(y) // 25
    axes.plot(x, y, color=PALE, lw=0.8)
    axes.plot(x, smoothed(y, width) if width > 1 else y, color=colour, ls=dash, label=label)


@styled
def predictions(seen: Answers, rows: Sequence[int]):
    """A Figure of the pictures in `rows` with five bars each (figure 4, left); the label's own bar is dark."""
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = _figure(1.8 * columns, 3.1 * lines)
    grid = figure.add_gridspec(2 * lines, columns, height_ratios=[1.7, 1] * lines)
    for i, row in enumerate(rows):
        axes = figure.add_subplot(grid[2 * (i // columns), i % columns])
        _picture(axes, seen.pixels(row))
        axes.set_title(_short(seen.classes[seen.labels[row]]), loc="center")
        _bars(figure.add_subplot(grid[2 * (i // columns) + 1, i % columns]), seen, row)
    return figure


def _bars(axes, seen: Answers, row: int) -> None:
    top = seen.top(row)
    for place, (label, probability) in enumerate(top):
        right = label == seen.labels[row]
        axes.barh(place, probability, color=BLUE if right else PALE, height=0.86, zorder=1)
        inside = right and probability > 0.5
        text = f"{_short(seen.classes[label], 18)}  {100 * probability:.0f} %"
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
    figure = _figure(1.05 * (count + 1) + 0.2, 1.3 * len(rows) + 0.6)
    grid = figure.subplots(len(rows), count + 1, squeeze=False, gridspec_kw={"width_ratios": [1.12] + [1] * count})
    for line, row, near in zip(grid, rows, places, strict=True):
        label = queries.labels[row]
        _picture(line[0], queries.pixels(row))
        line[0].set_title(_short(queries.classes[label], 16), fontsize=7)
        for axes, place in zip(line[1:], near, strict=True):
            _picture(axes, candidates.pixels(place))
            other = candidates.labels[place] != label
            name = f"≠ {_short(candidates.classes[candidates.labels[place]], 13)}" if other else ""
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
    figure = _figure(max(3.4, side + 0.6), max(3.0, side))
    axes = figure.subplots()
    drawn = axes.imshow(100 * shares, cmap="Greys", vmin=0, vmax=100, interpolation="nearest")
    axes.set(xlabel="what the net said", ylabel="what it was")
    axes.set_title(f"{len(seen):,} pictures, {100 * np.mean(seen.said != seen.labels):.1f} % wrong")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if few:
        names = [_short(name, 16) for name in seen.classes]
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


def _picture(axes, pixels_hwc: np.ndarray) -> None:
    axes.imshow(pixels_hwc, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def save(figure, path: Path) -> Path:
    """Writes a figure whole or not at all; the suffix says the format. Raises MachineError."""
    import matplotlib

    made = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Producer": None},
    }
    kind = path.suffix[1:]
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that no installed font has is drawn as a box
        publish(
            path, lambda temporary: figure.savefig(temporary, format=kind, metadata=made[kind], bbox_inches="tight")
        )
    return path
