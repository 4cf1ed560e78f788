"""conv1's kernels, and how coloured they are: the paper's figure 3."""

from __future__ import annotations

import numpy as np
from torch import nn

from alexnet.figures.style import figure_of, picture, styled
from alexnet.report import answers


@styled
def filters(net: nn.Module):
    """A Figure of conv1's kernels, 16 a row, the towers apart and each with its colour index (the paper's figure 3);
    None for a net whose first layer has none to show.
    """
    found = answers.kernels_by_tower(net)
    if not found:
        return None
    names, parts = zip(*found, strict=True)
    columns = min(16, len(parts[0]))
    rows = -(-len(parts[0]) // columns)
    figure = figure_of(6.4, 0.4 + len(parts) * (0.3 + 6.2 * rows / columns))
    for axes, name, part in zip(figure.subplots(len(parts), 1, squeeze=False)[:, 0], names, parts, strict=True):
        picture(axes, answers.in_rows(part, columns))
        size = f"{len(part)} kernels of {part.shape[1]} × {part.shape[2]} × 3 px"
        axes.set_title(f"{name}{', ' * bool(name)}{size}, colour index {colour_index(part):.2f}")
    words = "grey is zero; one scale for all; colour index 0: no kernel has colour, 1: none has grey"
    figure.supxlabel(words, x=0.01, ha="left", fontsize=8, color="#555555")
    return figure


def colour_index(tiles_nhwc: np.ndarray) -> float:
    """The mean over kernels, uint8 (n, K, K, 3) about mid-grey, of the share of their squares in which the colours
    differ from each other; 2/3 where weights are random, 0 where all kernels are grey.
    """
    weights = tiles_nhwc.astype(np.float64) - 127.5
    coloured = np.square(weights - weights.mean(-1, keepdims=True)).sum((1, 2, 3))
    return float((coloured / np.square(weights).sum((1, 2, 3))).mean())
