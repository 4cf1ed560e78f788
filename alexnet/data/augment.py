"""How a packed square becomes what the net sees (paper, section 4.1), all of it a pure function of (seed, epoch,
index).

`index` is a picture's place in its epoch's order, so nothing depends on workers, batches or how often a run was
stopped. Random numbers are hashes of (seed, epoch, index, what for): there is no generator state to save. Squares are
uint8 (N, S, S, 3); what leaves is float32 (N, crop, crop, 3), mean-subtracted grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from alexnet.data import resized_crop
from alexnet.kernels.compiled import exact, narrow
from alexnet.spec import DataSpec

OFFSET_Y, OFFSET_X, MIRROR, LIGHT, ORDER, AREA, SHAPE, FADED, FADED_WITH = range(9)  # what a random number is for


@exact
def _mix(x):
    """splitmix64's finaliser: every bit of x moves every bit of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@exact
def uniforms(seed, epoch, indices, purpose):
    """(N,) float64 in [0, 1), one for each index."""
    out = np.empty(indices.size, np.float64)
    key = _mix(_mix(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15)) + np.uint64(epoch))
    key = _mix(key + np.uint64(purpose) * np.uint64(0x9E3779B97F4A7C15))
    for i in range(indices.size):
        out[i] = (_mix(key ^ _mix(np.uint64(indices[i]) + np.uint64(1))) >> np.uint64(11)) * (1.0 / (1 << 53))
    return out


def normals(seed: int, epoch: int, indices: np.ndarray, purpose: int) -> np.ndarray:
    """(N, 3) float64 standard normal numbers (Box and Muller's transform of uniforms)."""
    u = [uniforms(seed, epoch, indices, purpose + 16 * k) for k in range(1, 5)]
    r1, r2 = (np.sqrt(-2 * np.log1p(-x)) for x in u[:2])
    a1, a2 = 2 * np.pi * u[2], 2 * np.pi * u[3]
    return np.stack([r1 * np.cos(a1), r1 * np.sin(a1), r2 * np.cos(a2)], axis=1)


def epoch_order(count: int, seed: int, epoch: int, reshuffle: bool) -> np.ndarray:
    """(count,) int64: which picture comes when in this epoch; as packed, or reshuffled."""
    indices = np.arange(count)
    return np.argsort(uniforms(seed, epoch, indices, ORDER), kind="stable") if reshuffle else indices


@dataclass(frozen=True)
class Preprocessing:
    """The one object that turns squares of `size_px` into net inputs of `crop_px`, for training, evaluation, prediction
    and export alike (paper, sections 2 and 4.1).

    mean (S, S, 3) float32 to subtract (constant over pixels for a channel mean); stds (3,) to divide by, ones in 2012;
    colour_stds (3,) and colour_axes (3, 3), axes as columns over R, G, B, in grey levels.
    """

    size_px: int
    crop_px: int
    mean: np.ndarray
    stds: np.ndarray
    colour_stds: np.ndarray
    colour_axes: np.ndarray

    @property
    def border_px(self) -> int:
        return self.size_px - self.crop_px

    def central_mean(self) -> np.ndarray:
        """(crop, crop, 3): the central part of the mean image, subtracted whatever a crop's position and mirror, as in
        2012.
        """
        first = self.border_px // 2
        return np.ascontiguousarray(self.mean[first : first + self.crop_px, first : first + self.crop_px])


@dataclass(frozen=True)
class Draws:
    """Of a batch: offsets in pixels (N,), mirrors (N,) bool, colour shifts (N, 3) in grey levels, and what the result
    is divided by. `heights` and `widths` (N,) of what is cut, which is then resized; None: the net's crop as it is.
    """

    tops: np.ndarray
    lefts: np.ndarray
    mirrors: np.ndarray
    shifts: np.ndarray
    divisor: float = 1.0
    heights: np.ndarray | None = None
    widths: np.ndarray | None = None

    def part(self, rows: slice | np.ndarray) -> Draws:
        """Of some of the pictures."""
        names = ("tops", "lefts", "mirrors", "shifts", "heights", "widths")
        each = {name: getattr(self, name) for name in names}
        return replace(self, **{name: values[rows] for name, values in each.items() if values is not None})


def training_draws(
    data: DataSpec, prep: Preprocessing, seed: int, epoch: int, indices: np.ndarray, relit: bool
) -> Draws:
    """What is drawn for the pictures at places `indices` (N,) of an epoch, a pure function of its arguments; `relit`:
    whether light is changed at this step (paper, section 4.1).

    Offsets are uniform on {0 ... size - crop}: 33 x 33 for 224 of 256; one draw serves `draw_group` consecutive places.
    """
    groups = indices // data.draw_group
    places, sides = prep.border_px + 1, ()
    if not data.crop:
        tops = lefts = np.full(indices.size, prep.border_px // 2, np.int64)
    elif data.resized_crop:
        drawn = np.stack([uniforms(seed, epoch, groups, p) for p in (AREA, SHAPE, OFFSET_Y, OFFSET_X)])
        tops, lefts, *sides = resized_crop.boxes(prep.size_px, data.resized_crop, drawn)
    else:
        tops, lefts = ((uniforms(seed, epoch, groups, p) * places).astype(np.int64) for p in (OFFSET_Y, OFFSET_X))
    mirrors = (uniforms(seed, epoch, groups, MIRROR) < 0.5) & data.mirror
    shifts, divisor = np.zeros((indices.size, 3)), 1.0
    if relit and data.relight != "none":
        shifts, divisor = relighting(data, prep, normals(seed, epoch, indices, LIGHT))
    return Draws(tops, lefts, mirrors, shifts.astype(np.float32), divisor, *sides)


def faded(data: DataSpec, seed: int, epoch: int, places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows of `places` that are mixed with another picture, the places of those others) in an epoch of `count`
    pictures: a group of `draw_group` is, with probability `fade`, mixed with any whole group, picture by picture.
    """
    size, groups = data.draw_group, places // data.draw_group
    rows = np.flatnonzero(uniforms(seed, epoch, groups, FADED) < data.fade)
    whole = max(1, count // size)  # an epoch's last group may be short
    others = (uniforms(seed, epoch, groups[rows], FADED_WITH) * whole).astype(np.int64)
    return rows, (others * size + places[rows] % size) % count


def fade(own, other):
    """Three quarters of a picture and one of another (run 170-fade); both float32, arrays or tensors."""
    return own * 0.75 + other * 0.25


def relighting(data: DataSpec, prep: Preprocessing, normals_n3: np.ndarray) -> tuple[np.ndarray, float]:
    """Colour shifts (N, 3) in grey levels, and the divisor of the picture, of standard normal numbers (N, 3).

    as_run: strength * z * standard deviation along each axis, the picture then divided by 1 + strength (2012 source).
    as_published: strength * z * eigenvalue of the covariance of RGB values on [0, 1], times 255 (paper, section 4.1).
    """
    scale = prep.colour_stds if data.relight == "as_run" else 255 * (prep.colour_stds / 255) ** 2
    shifts = data.relight_strength * (normals_n3 * scale) @ prep.colour_axes.T
    return shifts, 1.0 + data.relight_strength if data.relight == "as_run" else 1.0


def view_draws(prep: Preprocessing, count: int, view: int) -> Draws:
    """The crop of one view. 0 to 9: top left, top right, centre, bottom left, bottom right, then their mirror images;
    10 to 18: three by three places, row by row, not mirrored.
    """
    b = prep.border_px
    places = (0, b // 2, b)
    if view < 10:
        top, left = ((0, 0), (0, b), (b // 2, b // 2), (b, 0), (b, b))[view % 5]
    else:
        top, left = places[(view - 10) // 3], places[(view - 10) % 3]
    full = np.full(count, 1, np.int64)
    return Draws(full * top, full * left, np.full(count, 5 <= view < 10), np.zeros((count, 3), np.float32))


CENTRE_VIEW = 2
VIEWS = {1: [CENTRE_VIEW], 9: list(range(10, 19)), 10: list(range(10))}  # 9: how the 2012 tool tested on CIFAR


def views(number: int) -> list[int]:
    """The numbers of a test's views: the centre alone for 1, 9 places, or the 10 views of the paper (section 4.1)."""
    return VIEWS[number]


def cut(squares_nhwc: np.ndarray, draws: Draws, prep: Preprocessing, out_nhwc: np.ndarray) -> np.ndarray:
    """Crop, mirror, subtract the mean, relight and scale a batch of uint8 (N, S, S, 3) into `out_nhwc` (N, crop, crop,
    3) float32, or the bits of bfloat16, which is returned.
    """
    cut_part(squares_nhwc, draws, mean_and_scales(draws, prep), out_nhwc, 0, len(out_nhwc))
    return out_nhwc


def mean_and_scales(draws: Draws, prep: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """What every picture of a batch is cut with: the central mean (crop, crop, 3) and the colours' factors (3,)."""
    return prep.central_mean(), (1.0 / (prep.stds * draws.divisor)).astype(np.float32)


def cut_part(
    squares_nhwc: np.ndarray,
    draws: Draws,
    mean_scales: tuple[np.ndarray, np.ndarray],
    out_nhwc: np.ndarray,
    first: int,
    last: int,
) -> None:
    """`cut` for the pictures [first, last) of a batch, whose squares alone are `squares_nhwc`."""
    mean, scales = mean_scales
    each = draws.tops, draws.lefts, draws.mirrors
    if draws.heights is not None:
        whole, each = np.empty((last - first, *mean.shape), np.uint8), (np.zeros_like(draws.tops),) * 2
        resized_crop.resize_loop(squares_nhwc, draws.tops, draws.lefts, draws.heights, draws.widths, whole, first)
        squares_nhwc, each = whole, (*each, draws.mirrors)
    cut_loop(squares_nhwc, *each, mean, draws.shifts, scales, out_nhwc, first, last)


@exact
def cut_loop(squares, tops, lefts, mirrors, mean, shifts, scales, out, begin, end):
    """A row is crop * 3 numbers side by side, so that one vectorised loop serves its colours; mirrored rows are first
    turned round in a buffer of bytes. Rows are places in flat arrays and their numbers unsigned: less than half the
    time of slices.
    """
    width, line = np.uintp(3 * out.shape[2]), np.uintp(3 * squares.shape[2])
    means, mirrored = mean.reshape(-1), np.empty(width, np.uint8)
    shift, scale = np.empty(width, np.float32), np.empty(width, np.float32)
    for i in range(width):
        scale[i] = scales[i % 3]
    for n in range(begin, end):
        for i in range(width):
            shift[i] = shifts[n, i % 3]
        pixels, cut = squares[n - begin].reshape(-1), out[n].reshape(-1)
        corner = np.uintp(tops[n]) * line + np.uintp(3) * np.uintp(lefts[n])
        for y in range(np.uintp(out.shape[1])):
            first, to = corner + y * line, y * width
            if mirrors[n]:
                _mirror(pixels, first, mirrored)
                _row(mirrored, np.uintp(0), means, shift, scale, cut, to)
            else:
                _row(pixels, first, means, shift, scale, cut, to)


@exact
def _mirror(pixels, first, out):
    """The row's pixels in reverse; colours written out and indices unsigned, or it takes three times as long."""
    last = first + np.uintp(len(out)) - np.uintp(3)
    for x in range(np.uintp(len(out) // 3)):
        to = np.uintp(3) * x
        source = last - to
        out[to] = pixels[source]
        out[to + np.uintp(1)] = pixels[source + np.uintp(1)]
        out[to + np.uintp(2)] = pixels[source + np.uintp(2)]


@exact
def _row(pixels, first, means, shift, scale, out, to):
    for i in range(np.uintp(len(shift))):
        value = (np.float32(pixels[first + i]) - means[to + i] + shift[i]) * scale[i]
        out[to + i] = narrow(value, out[to + i])
