"""The compiled resampling against Pillow's, one axis after the other, digit for digit; and exact colour sums."""

import numpy as np
import pytest
from PIL import Image

from alexnet.data import image
from alexnet.data.statistics import ColourSums


def harsh(height: int, width: int) -> np.ndarray:
    """Noise with pure black and white in it, so that the cubic overshoots."""
    pixels = np.random.default_rng(height * 1009 + width).integers(0, 256, (height, width, 3), np.uint8)
    return np.where(pixels > 200, 255, np.where(pixels < 60, 0, pixels)).astype(np.uint8)


def by_pillow(pixels: np.ndarray, size_px: int) -> np.ndarray:
    """Columns, then rows: one axis at a time leaves Pillow no choice of which comes first."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    columns = Image.fromarray(pixels).resize(
        (size_px, height), Image.Resampling.BICUBIC, box=(left, 0, left + side, height)
    )
    return np.asarray(columns.resize((size_px, size_px), Image.Resampling.BICUBIC, box=(0, top, size_px, top + side)))


@pytest.mark.parametrize(
    ("height", "width", "size_px"),
    [
        *((375, 500, 256), (500, 375, 256), (90, 123, 256), (7, 5, 32), (333, 1000, 64), (1, 1, 8), (300, 300, 299)),
        *((299, 300, 300), (767, 1001, 128), (1201, 900, 32), (1, 900, 7), (64, 65, 1)),
    ],
)
def test_same_as_pillow_in_this_order(height, width, size_px):
    pixels = harsh(height, width)
    np.testing.assert_array_equal(image.square(pixels, size_px), by_pillow(pixels, size_px))


def test_any_array_will_do():
    pixels = harsh(40, 60)
    wanted = image.square(pixels, 32)
    locked = pixels.copy()
    locked.setflags(write=False)
    np.testing.assert_array_equal(image.square(locked, 32), wanted)
    np.testing.assert_array_equal(image.square(np.repeat(pixels, 2, axis=1)[:, ::2], 32), wanted)
    assert image.square(locked, 40).flags.writeable


def test_colour_sums_are_exact():
    pictures = [harsh(9, 9) + np.uint8(i) for i in range(3)]
    sums = ColourSums.of(pictures[:2]) + ColourSums.of(pictures[2:])
    rgb = np.concatenate(pictures).reshape(-1, 3).astype(object)  # Python's whole numbers
    assert sums.products.tolist() == (rgb.T @ rgb).tolist()
    assert sums.pixels_hwc.tolist() == np.sum(pictures, axis=0, dtype=object).tolist()
    assert sums.n_images == 3
