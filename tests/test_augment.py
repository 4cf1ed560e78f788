"""What the net sees is a pure function of (seed, epoch, index), and the one the paper and the 2012 source describe."""

from dataclasses import replace

import numpy as np
import pytest

from alexnet.data import augment
from alexnet.data.augment import Preprocessing, cut, epoch_order, training_draws, view_draws
from alexnet.spec import DataSpec

COLOUR_STDS = np.array([121.7801, 37.0939, 19.7208])  # of ILSVRC-2012 (2014 source), axes as columns over R, G, B
COLOUR_AXES = np.array([[-0.56351, -0.71258, 0.41796], [-0.57618, -0.02354, -0.81698], [-0.59200, 0.70120, 0.39731]])
EACH = DataSpec(draw_group=1)


def prep_of(size_px: int = 256, crop_px: int = 224, stds=(1.0, 1.0, 1.0)) -> Preprocessing:
    mean = np.random.default_rng(0).uniform(90, 140, (size_px, size_px, 3)).astype(np.float32)
    return Preprocessing(size_px, crop_px, mean, np.array(stds), COLOUR_STDS, COLOUR_AXES)


def draws_of(data: DataSpec, count: int, seed: int = 0, epoch: int = 0, relit: bool = True) -> augment.Draws:
    return training_draws(data, prep_of(), seed, epoch, np.arange(count), relit)


def columns(draws: augment.Draws) -> np.ndarray:
    return np.column_stack([draws.tops, draws.lefts, draws.mirrors, draws.shifts])


@pytest.mark.parametrize("data", [DataSpec(), EACH], ids=["groups", "each"])
def test_draws_depend_on_the_place_alone(data):
    whole = columns(draws_of(data, 300, seed=5, epoch=7))
    prep = prep_of()
    pieces = [np.arange(250, 300), np.arange(0, 33), np.arange(33, 250), np.array([299, 4, 140])]
    for places in pieces:
        np.testing.assert_array_equal(columns(training_draws(data, prep, 5, 7, places, True)), whole[places])


def test_seed_and_epoch_change_every_draw():
    base = columns(draws_of(EACH, 500))
    for other in (columns(draws_of(EACH, 500, seed=1)), columns(draws_of(EACH, 500, epoch=1))):
        assert (base[:, :2] == other[:, :2]).all(1).mean() < 0.02
        assert 0.4 < (base[:, 2] == other[:, 2]).mean() < 0.6
        assert not (base[:, 3:] == other[:, 3:]).any()


def test_33_by_33_offsets_and_mirrors_are_equally_likely():
    """2012 source: start offsets uniform on {0 ... 32}, mirrored half the time."""
    draws = draws_of(EACH, 200_000)
    cells = np.zeros((33, 33, 2))
    np.add.at(cells, (draws.tops, draws.lefts, draws.mirrors.astype(int)), 1)
    expected = 200_000 / cells.size
    chi_square, freedom = ((cells - expected) ** 2 / expected).sum(), cells.size - 1
    assert cells.min() > 0
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)
    assert abs(draws.mirrors.mean() - 0.5) < 0.005


def test_places_that_follow_each_other_are_not_alike():
    draws = draws_of(EACH, 100_000)
    for values in (draws.tops, draws.lefts, draws.mirrors, draws.shifts[:, 0]):
        values = values.astype(float)
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.015


def test_32_consecutive_pictures_share_crop_and_mirror_but_not_light():
    """2012 source: one offset and one flip decision per chunk of 32."""
    draws = draws_of(DataSpec(), 320)
    groups = np.column_stack([draws.tops, draws.lefts, draws.mirrors]).reshape(10, 32, 3)
    assert (groups == groups[:, :1]).all()
    assert len(np.unique(groups[:, 0], axis=0)) == 10
    assert len(np.unique(draws.shifts, axis=0)) == 320


def test_crop_and_mirror_can_be_switched_off():
    draws = draws_of(replace(EACH, crop=False, mirror=False), 50)
    assert set(draws.tops) == set(draws.lefts) == {16}
    assert not draws.mirrors.any()


def test_relighting_as_run():
    """2012 source: 0.1 x N(0, 1) x standard deviation along each axis, the picture divided by 1.1."""
    draws = draws_of(EACH, 100_000)
    along = draws.shifts @ COLOUR_AXES
    np.testing.assert_allclose(along.std(0), 0.1 * COLOUR_STDS, rtol=0.01)
    np.testing.assert_allclose(along.mean(0) / along.std(0), 0, atol=0.012)
    np.testing.assert_allclose(np.corrcoef(along.T), np.eye(3), atol=0.012)
    np.testing.assert_allclose((along**4).mean(0) / along.std(0) ** 4, 3, rtol=0.03)
    assert draws.divisor == pytest.approx(1.1)


def test_relighting_as_published():
    """Paper, section 4.1: alpha times the eigenvalue, of RGB values on [0, 1]; here in grey levels."""
    draws = draws_of(replace(EACH, relight="as_published"), 100_000)
    eigenvalues = (COLOUR_STDS / 255) ** 2
    np.testing.assert_allclose(eigenvalues, (0.228, 0.0212, 0.006), rtol=0.01)
    np.testing.assert_allclose((draws.shifts @ COLOUR_AXES).std(0), 0.1 * eigenvalues * 255, rtol=0.01)
    assert draws.divisor == 1


@pytest.mark.parametrize(("data", "relit"), [(EACH, False), (replace(EACH, relight="none"), True)])
def test_no_relighting(data, relit):
    draws = draws_of(data, 20, relit=relit)
    assert not draws.shifts.any()
    assert draws.divisor == 1


def cut_by_numpy(squares: np.ndarray, draws: augment.Draws, prep: Preprocessing) -> np.ndarray:
    first, size = (prep.size_px - prep.crop_px) // 2, prep.crop_px
    mean = prep.mean[first : first + size, first : first + size].astype(np.float64)
    out = []
    for square, top, left, mirror, shift in zip(
        squares, draws.tops, draws.lefts, draws.mirrors, draws.shifts, strict=True
    ):
        crop = square[top : top + size, left : left + size].astype(np.float64)
        crop = crop[:, ::-1] if mirror else crop
        out.append((crop - mean + shift) / draws.divisor / prep.stds)
    return np.stack(out)


@pytest.mark.parametrize(("size_px", "crop_px"), [(13, 8), (13, 9), (7, 7), (20, 1)])
@pytest.mark.parametrize("data", [EACH, replace(EACH, relight="as_published"), DataSpec(draw_group=3, mirror=False)])
def test_cut_is_crop_mirror_mean_light_scale(size_px, crop_px, data):
    squares = np.random.default_rng(1).integers(0, 256, (11, size_px, size_px, 3), np.uint8)
    prep = prep_of(size_px, crop_px, stds=(50.0, 60.5, 71.25))
    draws = training_draws(data, prep, 3, 4, np.arange(11), True)
    out = np.full((11, crop_px, crop_px, 3), np.nan, np.float32)
    assert cut(squares, draws, prep, out) is out
    np.testing.assert_allclose(out, cut_by_numpy(squares, draws, prep), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("view", range(10))
def test_ten_views(view):
    """Paper, section 4.1; in the order of the 2012 source: two top corners, centre, two bottom corners, mirrored."""
    corners = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    draws = view_draws(prep_of(), 3, view)
    assert list(zip(draws.tops, draws.lefts, strict=True)) == [corners[view % 5]] * 3
    assert list(draws.mirrors) == [view > 4] * 3
    assert not draws.shifts.any()
    assert draws.divisor == 1


def test_views_of_a_test():
    assert augment.views(1) == [2]
    assert augment.views(10) == list(range(10))
    assert len(augment.views(9)) == 9


def test_views_by_hand():
    """A 4-pixel square whose red is 10 y + x, cut to 2."""
    y, x = np.mgrid[:4, :4]
    square = np.repeat((10 * y + x)[:, :, None], 3, axis=2).astype(np.uint8)[None]
    prep = replace(prep_of(4, 2), mean=np.zeros((4, 4, 3), np.float32))
    out = np.empty((1, 2, 2, 3), np.float32)
    reds = [cut(square, view_draws(prep, 1, view), prep, out)[0, :, :, 0].tolist() for view in range(10)]
    assert reds[:5] == [
        *([[0, 1], [10, 11]], [[2, 3], [12, 13]], [[11, 12], [21, 22]], [[20, 21], [30, 31]], [[22, 23], [32, 33]]),
    ]
    assert reds[5:] == [[row[::-1] for row in red] for red in reds[:5]]


def test_nine_views_are_three_by_three_places():
    """The multi-view test of the 2012 tool on CIFAR: offsets 0, 4, 8 on both axes, without mirror images."""
    draws = [view_draws(prep_of(32, 24), 2, view) for view in augment.views(9)]
    assert [(d.tops[0], d.lefts[1]) for d in draws] == [(y, x) for y in (0, 4, 8) for x in (0, 4, 8)]
    assert not any(d.mirrors.any() for d in draws)


def test_order_of_pictures():
    orders = [epoch_order(1000, 1, epoch, reshuffle=True) for epoch in (0, 1, 0)]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    np.testing.assert_array_equal(orders[0], orders[2])
    assert (orders[0] == orders[1]).mean() < 0.01
    assert (orders[0] == epoch_order(1000, 2, 0, reshuffle=True)).mean() < 0.01
    assert abs(np.corrcoef(orders[0], np.arange(1000))[0, 1]) < 0.1
    for epoch in (0, 1):
        np.testing.assert_array_equal(epoch_order(1000, 1, epoch, reshuffle=False), np.arange(1000))
