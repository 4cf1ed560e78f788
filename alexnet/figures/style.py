"""How all figures look, and how they are written: whole or not at all, equal ones as equal files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from alexnet.checkpoint import publish

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


def figure_of(width_in: float, height_in: float):
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


def picture(axes, pixels_hwc: np.ndarray) -> None:
    axes.imshow(pixels_hwc, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def short(name: str, most: int = 22) -> str:
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
