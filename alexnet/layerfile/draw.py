"""A net of layer files as a picture: the data on top, the costs below, every tower in a column of its own.

    save(figure(rows_of("layers-145.cfg"), "layers-145.cfg"), Path("145.png"))

A layer stands as low as its consumers allow, so that equal towers are level; one that has its level for itself stands
between the towers. With rates, their course over a run stands beside the net. One unit of the axes is an inch.
"""

from __future__ import annotations

from pathlib import Path

from alexnet.checkpoint import publish
from alexnet.errors import UsageError
from alexnet.layerfile.show import Row, said, schedules

BOX_IN, PITCH_IN = (2.15, 0.46), (2.55, 0.74)  # a layer's box; from one box to the next
INK, PALE, CROSSING = "#222222", "#777777", "#c2571a"
COLOURS = {
    **dict.fromkeys(("conv", "local"), "#cfe0f3"),
    **dict.fromkeys(("fc", "treefc"), "#f8dfc0"),
    **dict.fromkeys(("pool", "nailbed", "blur", "href"), "#d9ecd5"),
    **dict.fromkeys(("cmrnorm", "rnorm", "cnorm"), "#e6dcf0"),
    "data": "#ffffff",
}
OTHER, COST = "#eeeeee", "#f4d0d0"
MADE = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
STYLE = {"font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "alexnet", "text.parse_math": False}

Places = dict[str, tuple[float, float]]  # layer -> the middle of its box, in inches, y downwards


def places_of(rows: list[Row]) -> Places:
    """Where every layer stands: towers from left to right, what has no twin in another tower outside of them."""
    levels = _levels(rows)
    towers = sorted({row.tower for row in rows if row.tower.isdigit()}, key=int)
    places: Places = {}
    for level in range(max(levels.values()) + 1):
        here = [row for row in rows if levels[row.name] == level]
        present = {row.tower for row in here if row.tower.isdigit()}
        cells: dict[float, list[Row]] = {}
        for row in here:
            apart = len(present) > 1 and row.tower in present
            cells.setdefault(towers.index(row.tower) if apart else (len(towers) - 1) / 2, []).append(row)
        for column, cell in cells.items():
            for row, x in _spread(cell, here, column, len(towers)):
                places[row.name] = (x * PITCH_IN[0], level * PITCH_IN[1])
    return places


def _levels(rows: list[Row]) -> dict[str, int]:
    """The level of every layer, 0 on top: the longest way from it to an end of the net decides."""
    heights = {row.name: 0 for row in rows}
    for row in reversed(rows):
        for name in row.inputs:
            heights[name] = max(heights[name], heights[row.name] + 1)
    top = max(heights.values())
    return {name: top - height for name, height in heights.items()}


def _spread(cell: list[Row], level: list[Row], column: float, towers: int) -> list[tuple[Row, float]]:
    """(layer, column) for layers that share a place; the first keeps it, of several towers the others go outside."""
    twins = [row.type for row in level]
    cell = sorted(cell, key=lambda row: (row.type == "data", -twins.count(row.type)))
    if towers <= 1 and all(row.type != "data" for row in cell[1:]):
        return [(row, i - (len(cell) - 1) / 2) for i, row in enumerate(cell)]
    if column == 0 and towers > 1:
        return [(row, -float(i)) for i, row in enumerate(cell)]
    return [(row, column + i) for i, row in enumerate(cell)]


def figure(rows: list[Row], title: str, params: str | None = None):
    """A matplotlib Figure of the net; with the name of a parameter file, the rates it gives stand on the right."""
    import matplotlib
    from matplotlib.figure import Figure

    places = places_of(rows)
    left, right = (f(x for x, _ in places.values()) for f in (min, max))
    bottom = max(y for _, y in places.values())
    net_in = (right - left + BOX_IN[0] + 0.5, bottom + BOX_IN[1] + 1.2)
    width_in, height_in = net_in[0] + (4.6 if params else 0), max(net_in[1], 4.6 if params else 0)
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        drawn = Figure((max(width_in, 4.5), height_in), dpi=110, facecolor="white")
        axes = drawn.add_axes((0, 1 - net_in[1] / height_in, net_in[0] / drawn.get_figwidth(), net_in[1] / height_in))
        axes.set(xlim=(left - BOX_IN[0] / 2 - 0.25, right + BOX_IN[0] / 2 + 0.25))
        axes.set(ylim=(bottom + BOX_IN[1] / 2 + 0.2, -BOX_IN[1] / 2 - 1.0))
        axes.axis("off")
        _title(axes, rows, title)
        _bands(axes, rows, places, bottom)
        _edges(axes, rows, places)
        for row in rows:
            _box(axes, row, *places[row.name])
        if params:
            _rates(drawn, rows, params, net_in[0], height_in)
    return drawn


def _title(axes, rows: list[Row], title: str) -> None:
    x, top = axes.get_xlim()[0] + 0.2, axes.get_ylim()[1]
    total, steps = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    axes.text(x, top + 0.3, title, size=12, weight="bold", color=INK)
    words = f"{total:,} parameters, {_short(steps)} multiply-adds a picture"
    axes.text(x, top + 0.52, words, size=8, color=PALE)


def _bands(axes, rows: list[Row], places: Places, bottom: float) -> None:
    """A pale band behind every tower, from the first level where towers part to the last."""
    from matplotlib.patches import Rectangle

    columns: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        columns.setdefault(row.tower, []).append(places[row.name])
    towers = sorted((tower for tower in columns if tower.isdigit()), key=int)
    if len(towers) < 2:
        return
    for number, tower in enumerate(towers):
        x = number * PITCH_IN[0]
        own = [y for at, y in columns[tower] if at == x]
        if own:
            corner = (x - BOX_IN[0] / 2 - 0.12, min(own) - 0.42)
            axes.add_patch(Rectangle(corner, BOX_IN[0] + 0.24, max(own) - min(own) + 0.76, fc="#f6f6f6", ec="none"))
            axes.text(x - BOX_IN[0] / 2, min(own) - 0.3, f"gpu {tower}", size=7, color=PALE)


def _edges(axes, rows: list[Row], places: Places) -> None:
    """Curves from outputs to inputs; what crosses from one tower to another stands out."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    towers = {row.name: row.tower for row in rows}
    for row in rows:
        for name in row.inputs:
            (x0, y0), (x1, y1) = places[name], places[row.name]
            crosses = towers[name] and towers[name] != row.tower and x0 != x1
            y0, y1, gap = y0 + BOX_IN[1] / 2, y1 - BOX_IN[1] / 2, PITCH_IN[1] - BOX_IN[1]
            free = not any(x == x1 and y0 < y < y1 for x, y in places.values())  # then sideways first, else at last
            start = y0 if free else y1 - gap
            bend = [(x0, start + gap / 2), (x1, start + gap / 2), (x1, start + gap)]
            curve = Curve([(x0, y0), (x0, start), *bend, (x1, y1)], [1, 2, 4, 4, 4, 2])
            colour, line = (CROSSING, 1.1) if crosses else (PALE, 0.9)
            axes.add_patch(PathPatch(curve, fc="none", ec=colour, lw=line, zorder=1.5))
            axes.plot([x1], [y1 - 0.03], marker=7, ms=4, color=colour, zorder=1.6)


def _box(axes, row: Row, x: float, y: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    colour = COST if row.type.startswith("cost.") else COLOURS.get(row.type, OTHER)
    width, height = BOX_IN
    corner, style = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=colour, ec="#999999", lw=0.7, zorder=2))
    left, right, upper, lower = x - width / 2 + 0.08, x + width / 2 - 0.08, y - 0.09, y + 0.12
    kind = " ".join(filter(None, (row.type, row.detail)))
    kind += f", {row.neuron}" if row.neuron else ""
    words = {"va": "center", "color": INK, "zorder": 3}
    axes.text(left, upper, _cut(row.name, 18), size=8.5, weight="bold", ha="left", **words)
    axes.text(right, upper, " x ".join(map(str, row.shape)), size=7.5, ha="right", **words)
    axes.text(left, lower, _cut(kind, 34 if not row.parameters else 27), size=7, ha="left", **words)
    if row.parameters:
        axes.text(right, lower, _short(row.parameters), size=7, ha="right", **{**words, "color": PALE})


def _rates(drawn, rows: list[Row], params: str, left_in: float, height_in: float) -> None:
    """The rates over the share of a run that is done; those of weights are lines, those of biases dashes."""
    width_in = drawn.get_figwidth()
    box = ((left_in + 0.75) / width_in, 1 - 3.3 / height_in, 3.5 / width_in, 2.6 / height_in)
    axes = drawn.add_axes(box)
    progress = [i / 400 for i in range(401)]
    moving = {key: names for key, names in schedules(rows).items() if key[1].base > 0}
    for number, ((kind, schedule), names) in enumerate(moving.items()):
        label = f"{kind}: {said(schedule)}\n{_named(names)}"
        style = {"color": f"C{number}", "ls": "--" if kind == "biases" else "-", "lw": 1.6}
        axes.plot(progress, [schedule.rate(p) for p in progress], label=label, **style)
    frozen = [f"{kind} of {_named(names)}" for (kind, schedule), names in schedules(rows).items() if schedule.base <= 0]
    if moving:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.margins(y=0.15)
    axes.set_title(params, size=9, weight="bold", loc="left")
    axes.set_xlabel("share of the run that is done", size=8)
    axes.set_ylabel("rate", size=8)
    axes.tick_params(labelsize=7.5)
    axes.grid(color="#e4e4e4", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if frozen:
        axes.plot([], [], " ", label="frozen: " + "\n".join(frozen))
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), fontsize=7, frameon=False, borderaxespad=0)


def _named(names: list[str]) -> str:
    """Names, the first few where there are many."""
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} ... {names[-1]} ({len(names)} layers)"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _short(number: int) -> str:
    for power, letter in ((9, " G"), (6, " M"), (3, " k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g}{letter}"
    return str(number)


def save(drawn, path: Path) -> None:
    """Writes a figure, whole or not at all. Raises UsageError for a suffix that is no format, MachineError."""
    import matplotlib

    kind = path.suffix[1:].lower()
    if kind not in MADE:
        raise UsageError(f"--draw {path}: end it in .png, .svg or .pdf")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        publish(path, lambda temporary: drawn.savefig(temporary, format=kind, metadata=MADE[kind]))
