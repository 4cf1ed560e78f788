"""The paper's figures, drawn from what a run is and learnt: PNG to look at, SVG or PDF for print.

net           the layers with their sizes, tower a above tower b (the paper's figure 2)
filters       conv1's kernels, the towers apart, and how coloured they are (figure 3)
curves        loss, errors, rate and speed over the epochs; of several runs, their errors in one chart (figure 1)
predictions   eight validation pictures, the five most probable classes of each (figure 4, left)
neighbours    five validation pictures and the training pictures nearest to them in relu7 (figure 4, right)
confusion     which class is taken for which
augmentation  a training picture as the net may see it: crops, mirror images, light of several strengths
colours       the principal axes of the training pictures' colours (section 4.1)

Each is a function that returns a matplotlib Figure. All can be read in grey: what matters differs by brightness, dashes
or words, never by hue alone. Equal runs give equal files.
"""

from alexnet.figures.answers import confusion, neighbours, predictions
from alexnet.figures.history import curves, together
from alexnet.figures.kernels import filters
from alexnet.figures.layers import net
from alexnet.figures.pictures import augmentation, colours
from alexnet.figures.style import save

__all__ = [
    "NAMES",
    "augmentation",
    "colours",
    "confusion",
    "curves",
    "filters",
    "neighbours",
    "net",
    "predictions",
    "save",
    "together",
]
NAMES = ("net", "filters", "curves", "predictions", "neighbours", "confusion", "augmentation", "colours")
