"""Curves of training: of one run, and of several in one chart as in the paper's figure 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alexnet.figures.style import BLUE, INK, ORANGE, PALE, figure_of, styled
from alexnet.report.charts import number
from alexnet.report.history import History, smoothed

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
SHADES = (INK, BLUE, ORANGE, "#7a7a7a", "#5a9bd4")


@styled
def curves(history: History, classes: int):
    """A Figure of loss (nats), errors (%), rate and speed over the epochs; None before the first logged step."""
    from matplotlib.ticker import MaxNLocator

    if not history.steps:
        return None
    figure = figure_of(7.2, 4.6)
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
    rate.plot(epochs, values, color=INK, drawstyle="steps-pre")
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
    axes.plot(x, y, color=PALE, lw=0.8)
    axes.plot(x, _calm(y), color=colour, ls=dash, label=label)


def _calm(y: np.ndarray) -> np.ndarray:
    width = len(y) // 25
    return smoothed(y, width) if width > 1 else y


@styled
def together(names: Sequence[str], histories: Sequence[History]):
    """A Figure of several runs: training and validation error (%) over the epochs, each run with dashes of its own, as
    the paper's figure 1 tells ReLU from tanh; None before a step of any of them has been logged.
    """
    if not any(history.steps for history in histories):
        return None
    figure = figure_of(7.2, 3.2)
    training, validation = figure.subplots(1, 2, sharex=True, sharey=True)
    for i, (name, history) in enumerate(zip(names, histories, strict=True)):
        look = {"color": SHADES[i % len(SHADES)], "ls": DASHES[i % len(DASHES)]}
        epochs, values = history.column("train_error")
        training.plot(epochs, 100 * _calm(values), label=name, **look)
        epochs, values = history.column("top1_error")
        validation.plot(epochs, 100 * values, marker="os^Dv"[i % 5], ms=3, label=name, **look)
    training.set(title="Training error", xlabel="epoch", ylabel="%", ylim=(0, None), xlim=(0, None))
    validation.set(title="Validation error, one view", xlabel="epoch")
    training.legend(handlelength=3.2)
    return figure
