"""What training needs to know about a set's colours: the mean picture, channel means, and the principal axes of RGB.

All sums are whole numbers (float64 holds them exactly for one picture, uint64 for all of ILSVRC), so the result does
not depend on the order or the number of workers. The paper's section 4.1 adds noise along these axes; as run in 2012
the scale is the square root of each eigenvalue, in grey levels.
"""

from dataclasses import dataclass

import numpy as np

from alexnet.kernels.compiled import exact


@dataclass(frozen=True)
class ColourSums:
    """Sums over some pictures of one size: `pixels_hwc` uint64 (S, S, 3), `products` uint64 (3, 3) of RGB pairs."""

    n_images: int
    pixels_hwc: np.ndarray
    products: np.ndarray

    @staticmethod
    def none(size_px: int) -> "ColourSums":
        return ColourSums(0, np.zeros((size_px, size_px, 3), np.uint64), np.zeros((3, 3), np.uint64))

    @staticmethod
    def of(images_nhwc: list[np.ndarray]) -> "ColourSums":
        """At least one picture, uint8 (S, S, 3) each."""
        pixels_hwc = np.zeros(images_nhwc[0].shape, np.uint64)
        products = np.zeros((3, 3), np.uint64)
        for image_hwc in images_nhwc:
            _add_image(image_hwc, pixels_hwc, products)
        return ColourSums(len(images_nhwc), pixels_hwc, products)

    def __add__(self, other: "ColourSums") -> "ColourSums":
        return ColourSums(
            self.n_images + other.n_images, self.pixels_hwc + other.pixels_hwc, self.products + other.products
        )


@exact
def _add_image(image_hwc, pixels_hwc, products):
    """`pixels_hwc += image_hwc; rgb = image_hwc.reshape(-1, 3); products += rgb.T @ rgb`, in whole numbers."""
    values, sums = image_hwc.reshape(-1), pixels_hwc.reshape(-1)
    for i in range(np.uintp(len(values))):
        sums[i] += np.uint64(values[i])
    rr = rg = rb = gg = gb = bb = np.uint64(0)
    for i in range(np.uintp(0), np.uintp(len(values)), np.uintp(3)):
        r, g, b = np.uint32(values[i]), np.uint32(values[i + 1]), np.uint32(values[i + 2])
        rr, rg, rb = rr + np.uint64(r * r), rg + np.uint64(r * g), rb + np.uint64(r * b)
        gg, gb, bb = gg + np.uint64(g * g), gb + np.uint64(g * b), bb + np.uint64(b * b)
    six = ((0, 0, rr), (0, 1, rg), (0, 2, rb), (1, 1, gg), (1, 2, gb), (2, 2, bb))
    for i, j, product in six:
        products[i, j] += product
        if i != j:
            products[j, i] += product


@dataclass(frozen=True)
class ColourStatistics:
    """`mean_hwc` float32 (S, S, 3); `channel_means` (3,); `colour_stds` (3,) descending, in grey levels;
    `colour_axes` (3, 3), one axis per column, rows R, G, B."""

    mean_hwc: np.ndarray
    channel_means: np.ndarray
    colour_stds: np.ndarray
    colour_axes: np.ndarray


def colour_statistics(sums: ColourSums) -> ColourStatistics:
    """Population statistics of every pixel of every picture. Needs at least one picture."""
    n_pixels = sums.n_images * sums.pixels_hwc.shape[0] * sums.pixels_hwc.shape[1]
    channel_sums = sums.pixels_hwc.sum(axis=(0, 1)).astype(np.float64)
    channel_means = channel_sums / n_pixels
    covariance = sums.products.astype(np.float64) / n_pixels - np.outer(channel_means, channel_means)
    variances, axes = np.linalg.eigh(covariance)
    variances, axes = variances[::-1], axes[:, ::-1]
    mean_hwc = (sums.pixels_hwc / np.float64(sums.n_images)).astype(np.float32)
    return ColourStatistics(mean_hwc, channel_means, np.sqrt(np.maximum(variances, 0)), axes * _signs(axes))


def _signs(axes: np.ndarray) -> np.ndarray:
    """+1 or -1 per column: eigenvectors have no sign of their own, so the largest entry of each is made positive."""
    largest = axes[np.abs(axes).argmax(axis=0), range(3)]
    return np.where(largest < 0, -1.0, 1.0)
