"""The net with its towers, drawn from its spec: the paper's figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet.figures.style import INK, figure_of, styled
from alexnet.net import SIXTH, LayerRow, layer_sizes
from alexnet.spec import ConvSpec, DenseSpec, NetSpec

FACE, TOP, SIDE, ACROSS = "#dfe7f0", "#f1f5f9", "#b9c7d8", "#d9762b"
NEURONS = {"relu": "ReLU", "tanh": "tanh", "logistic": "logistic"}
GAP, TOWER, OBLIQUE = 0.75, 3.1, 0.4  # between blocks, from tower to tower, of a block's depth that is seen
LETTER = 0.08  # of the words under a block


@dataclass(frozen=True)
class Stage:
    """A layer with weights: its size in each of `towers` (`px` None: a dense layer), and the words under it."""

    name: str
    maps: int
    px: int | None
    towers: int
    sees_all: bool
    words: tuple[str, ...] = ()

    @property
    def width(self) -> float:
        return 0.26 if self.px is None else 0.2 + (self.maps / 300) ** 0.5

    @property
    def room(self) -> float:
        """From its left edge to the next one's: words do not run into each other."""
        return max(self.width + GAP, LETTER * max(map(len, (*self.words, self.size))))

    def height(self, crop_px: int) -> float:
        return 0.5 + (self.maps / 2000) ** 0.5 if self.px is None else 0.25 + 2 * (self.px / crop_px) ** 0.7

    def depth(self, crop_px: int) -> float:
        return OBLIQUE * (0.2 if self.px is None else self.height(crop_px))

    def reach(self, crop_px: int) -> float:
        """From its middle to its highest edge."""
        return (self.height(crop_px) + self.depth(crop_px)) / 2

    @property
    def size(self) -> str:
        return f"{self.maps:,}" if self.px is None else f"{self.px} × {self.px} × {self.maps}"


def stages(spec: NetSpec, rows: Sequence[LayerRow]) -> list[Stage]:
    """The picture, the convolutions with the size that they put out, and the dense layers."""
    found, towers = [Stage("picture", 3, spec.crop_px, 1, True)], spec.towers
    for row in rows:
        if row.name.startswith("conv"):
            sees_all = len(found) == 1 or row.name in (*spec.talk, "conv6")
            words = _of_conv(getattr(spec, row.name, SIXTH), spec)
            found.append(Stage(row.name, row.shape[0] // towers, row.shape[1], towers, sees_all, words))
        elif row.name.startswith("fc"):
            dense = getattr(spec, row.name, None)
            parts = towers if dense and row.shape[0] % towers == 0 else 1
            words = _of_dense(dense, spec) if dense else ("softmax",)
            found.append(Stage(row.name, row.shape[0] // parts, None, parts, True, words))
    return found


def _of_conv(conv: ConvSpec, spec: NetSpec) -> tuple[str, ...]:
    kernel = f"{conv.kernel_px} × {conv.kernel_px}" + (f", stride {conv.stride}" if conv.stride > 1 else "")
    pool = f"{spec.pool.size_px} × {spec.pool.size_px}, stride {spec.pool.stride}"
    words = {
        "act": NEURONS[spec.activation],
        "lrn": "response norm" if spec.lrn else "",
        "rnorm": "same-map norm" if spec.rnorm else "",
        "bn": "batch norm",
        "pool": f"max {pool}",
        "avgpool": f"mean {pool}",
    }
    own = ("own filters",) if conv.local else ()
    return (kernel, *own, *filter(None, (words[kind] for kind in conv.then)))


def _of_dense(dense: DenseSpec, spec: NetSpec) -> tuple[str, ...]:
    drop = f"dropout {spec.dropout:g}" if spec.dropout else ""
    words = {"act": NEURONS[spec.activation], "drop": drop, "bn": "batch norm"}
    return tuple(filter(None, (words[kind] for kind in (*dense.before, *dense.then))))


@styled
def net(spec: NetSpec, name: str = ""):
    """A Figure of the net of `spec`, its towers above each other: blocks as wide as they have maps and as high as those
    have pixels, lines from what each sees (dashed and orange where it looks across).
    """
    rows = layer_sizes(spec)
    found = stages(spec, rows)
    right = sum(stage.room for stage in found) + OBLIQUE
    floor = -TOWER * (spec.towers - 1) / 2 - 1.45
    top = max(TOWER * (stage.towers - 1) / 2 + stage.reach(spec.crop_px) for stage in found) + 0.1
    figure = figure_of(0.72 * right, 0.72 * (top - floor + 1.2))
    axes = figure.subplots()
    axes.set(xlim=(-0.6, right - 0.4), ylim=(floor - 1.2, top), aspect="equal")
    axes.axis("off")
    x, before, before_right = 0.0, None, []
    for stage in found:
        middles = [TOWER * ((stage.towers - 1) / 2 - i) for i in range(stage.towers)]
        if before is not None:
            _lines(axes, before_right, [(x, y) for y in middles], stage.sees_all)
        for y in middles:
            _block(axes, x, y, stage, spec.crop_px)
        _say(axes, x + stage.width / 2, floor, stage)
        before, before_right = stage, [(x + stage.width, y) for y in middles]
        x += stage.room
    weights, macs = sum(row.parameters for row in rows), sum(row.macs for row in rows)
    towers = f"{spec.towers} towers, " if spec.towers > 1 else ""
    axes.set_title(
        f"{name}{': ' * bool(name)}{towers}{weights:,} parameters, {macs / 1e6:,.0f} million multiply-adds a picture"
    )
    return figure


def _block(axes, x: float, y: float, stage: Stage, crop_px: int) -> None:
    from matplotlib.patches import Polygon

    width, height = stage.width, stage.height(crop_px)
    low, depth = y - height / 2, stage.depth(crop_px)
    edge = {"edgecolor": INK, "linewidth": 0.5, "zorder": 2}
    corners = [(x, low), (x + width, low), (x + width, low + height), (x, low + height)]
    (a, b, c, d), back = corners, [(px + depth / 2, py + depth / 2) for px, py in corners]
    axes.add_patch(Polygon([a, b, c, d], facecolor=FACE, **edge))
    axes.add_patch(Polygon([d, c, back[2], back[3]], facecolor=TOP, **edge))
    axes.add_patch(Polygon([b, back[1], back[2], c], facecolor=SIDE, **edge))
    axes.text(x + width / 2, low - 0.1, stage.size, ha="center", va="top", fontsize=6.5, zorder=3)


def _lines(axes, starts: list[tuple[float, float]], ends: list[tuple[float, float]], all_to_all: bool) -> None:
    """From every block to those that see it; what looks across to another tower is dashed."""
    for i, start in enumerate(starts):
        for j, end in enumerate(ends):
            across = len(starts) > 1 and len(ends) > 1 and i != j
            if across and not all_to_all:
                continue
            look = {"color": ACROSS, "linestyle": (0, (3, 2))} if across else {"color": INK, "linestyle": "-"}
            arrow = {"arrowstyle": "-|>", "mutation_scale": 6, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, **look}
            axes.annotate("", end, start, arrowprops=arrow, zorder=1)  # behind the blocks


def _say(axes, x: float, floor: float, stage: Stage) -> None:
    axes.text(x, floor, stage.name, ha="center", va="top", fontsize=8, weight="bold")
    axes.text(x, floor - 0.26, "\n".join(stage.words), ha="center", va="top", fontsize=6, color="#444444")
