"""The pictures themselves: what augmentation makes of one, and along which axes their colours vary (section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from alexnet.data import augment
from alexnet.data.augment import Draws, Preprocessing
from alexnet.figures.style import INK, figure_of, picture, styled
from alexnet.spec import DataSpec

SHOWN = 7  # pictures a row
STRENGTHS = (1, 3, 10)  # of the light, in times what the run has
LIGHTEST = 255
AXIS_STDS = np.linspace(-3, 3, 13)  # where an axis' colours are shown


@styled
def augmentation(square_hwc: np.ndarray, prep: Preprocessing, data: DataSpec, seed: int = 0):
    """A Figure of one square, uint8 (S, S, 3), under the crops and mirror images of `data`, and with its light changed
    at several strengths; the mean is added back.
    """
    rows = list(_rows(square_hwc, prep, data, seed))
    figure = figure_of(1.05 * (SHOWN + 1), 1.12 * len(rows))
    grid = figure.subplots(len(rows), SHOWN + 1, squeeze=False)
    for line, (words, pictures) in zip(grid, rows, strict=True):
        line[0].axis("off")
        line[0].text(1, 0.5, words, ha="right", va="center", fontsize=7, color=INK, wrap=False)
        for axes, pixels in zip(line[1:], pictures, strict=True):
            picture(axes, pixels)
    return figure


def _rows(square_hwc: np.ndarray, prep: Preprocessing, data: DataSpec, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """(words, uint8 (SHOWN, crop, crop, 3))."""
    dark, places = replace(data, relight="none"), np.arange(SHOWN)
    drawn = augment.training_draws(replace(dark, draw_group=1), prep, seed, 0, places, True)
    if data.crop and data.resized_crop:
        cut = f"{100 * data.resized_crop:g} to 100 %\nof the square\nresized"
    else:
        cut = f"{prep.crop_px} px of {prep.size_px}\n{'at random' if data.crop else 'the centre'}"
    yield cut + ("\nhalf mirrored" if data.mirror else ""), _seen(square_hwc, prep, drawn)
    kind = "as_run" if data.relight == "none" else data.relight
    normals, centre = (
        augment.normals(seed, 0, places, augment.LIGHT),
        augment.view_draws(prep, SHOWN, augment.CENTRE_VIEW),
    )
    for times in STRENGTHS:
        lit = replace(data, relight=kind, relight_strength=times * data.relight_strength)
        shifts, divisor = augment.relighting(lit, prep, normals)
        used = "as in training" if times == 1 and data.relight != "none" else "not in training"
        words = f"light {kind}\nstrength {lit.relight_strength:g}\n{used}"
        yield words, _seen(square_hwc, prep, replace(centre, shifts=shifts.astype(np.float32), divisor=divisor))


def _seen(square_hwc: np.ndarray, prep: Preprocessing, draws: Draws) -> np.ndarray:
    """uint8 (SHOWN, crop, crop, 3), as cut and lit, with no mean taken away."""
    plain = replace(prep, mean=np.zeros_like(prep.mean), stds=np.ones(3))
    out = np.empty((SHOWN, prep.crop_px, prep.crop_px, 3), np.float32)
    augment.cut(np.repeat(square_hwc[None], SHOWN, 0), draws, plain, out)
    return np.uint8(np.clip(out, 0, LIGHTEST).round())


@styled
def colours(prep: Preprocessing):
    """A Figure of the three principal axes of RGB values over the training pictures: the colours from three standard
    deviations below their mean to three above, and the axis in numbers.
    """
    mean = prep.mean.mean((0, 1)) if prep.mean.any() else np.full(3, 127.5)
    figure = figure_of(6.4, 3.6)
    for axes, std, axis in zip(figure.subplots(3, 1), prep.colour_stds, prep.colour_axes.T, strict=True):
        strip = mean + np.outer(AXIS_STDS * std, axis)
        axes.imshow(np.uint8(np.clip(strip, 0, LIGHTEST).round())[None], aspect="auto", extent=(-3.25, 3.25, 0, 1))
        axes.set(yticks=[], xticks=range(-3, 4))
        axes.grid(visible=False)
        red, green, blue = axis
        axes.set_title(f"{std:.1f} grey levels along ({red:+.2f}, {green:+.2f}, {blue:+.2f}) of red, green and blue")
    axes.set_xlabel("standard deviations from the mean colour")
    return figure
