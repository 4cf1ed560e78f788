"""Crops of any size: which boxes are drawn, what resizing makes of them, and that nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_augment import EACH, cut_by_numpy, draws_of, prep_of

from alexnet import spec
from alexnet.data import augment, resized_crop
from alexnet.errors import UsageError

QUARTER = replace(EACH, resized_crop=0.25)


def test_boxes_hold_their_share_and_lie_in_the_square():
    draws = draws_of(QUARTER, 50_000)
    heights, widths = draws.heights, draws.widths
    assert (draws.tops >= 0).all()
    assert (draws.lefts >= 0).all()
    assert (draws.tops + heights).max() == (draws.lefts + widths).max() == 256
    shares, shapes = heights * widths / 256**2, widths / heights
    assert 0.245 < shares.min() < 0.26
    assert shares.max() > 0.99
    assert 0.74 < shapes.min() < shapes.max() < 1.35
    # Even from 0.25 to 1, but for the largest, whose longer side is cut to the square's.
    assert np.histogram(shares, 4, (0.25, 0.65))[0] / 50_000 == pytest.approx(np.full(4, 0.1 / 0.75), abs=0.01)
    assert np.log(shapes[shares < 0.6]).mean() == pytest.approx(0, abs=0.01)


def test_a_whole_share_is_the_whole_square_in_its_middle_shape():
    tops, lefts, heights, widths = resized_crop.boxes(20, 1.0, np.array([[0.3], [0.5], [0.9], [0.9]]))
    assert (tops[0], lefts[0], heights[0], widths[0]) == (0, 0, 20, 20)


def test_groups_share_a_box_and_places_alone_count():
    draws = draws_of(replace(QUARTER, draw_group=4), 40)
    for sides in (draws.heights, draws.widths, draws.tops, draws.lefts):
        assert (sides.reshape(10, 4) == sides[::4, None]).all()
        assert len(set(sides[::4])) > 5
    some = augment.training_draws(QUARTER, prep_of(), 0, 0, np.array([7, 3]), True)
    np.testing.assert_array_equal(some.heights, draws_of(QUARTER, 8).heights[[7, 3]])


def test_mirrors_and_light_are_those_of_crops_as_they_are():
    one, other = draws_of(EACH, 100), draws_of(QUARTER, 100)
    np.testing.assert_array_equal(one.mirrors, other.mirrors)
    np.testing.assert_array_equal(one.shifts, other.shifts)


def resized_by_torch(square_hwc: np.ndarray, box: tuple[int, ...], crop_px: int) -> np.ndarray:
    """The same part in float64."""
    top, left, height, width = box
    part = torch.from_numpy(square_hwc[top : top + height, left : left + width]).permute(2, 0, 1)[None].double()
    resized = torch.nn.functional.interpolate(part, size=(crop_px, crop_px), mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("size_px", "crop_px"), [(64, 56), (31, 40), (13, 9), (7, 7), (20, 1), (1, 1)])
def test_pixels_are_blended_of_their_neighbours(size_px, crop_px):
    squares = np.random.default_rng(0).integers(0, 256, (20, size_px, size_px, 3), np.uint8)
    u = np.random.default_rng(1).random((4, 20))
    boxes = resized_crop.boxes(size_px, 0.05, u)
    out = np.zeros((20, crop_px, crop_px, 3), np.uint8)
    resized_crop.resize_loop(squares, *boxes, out, 0)
    for n, box in enumerate(zip(*boxes, strict=True)):
        assert abs(out[n] - resized_by_torch(squares[n], box, crop_px)).max() < 1.5  # weights are 256ths


def test_a_box_of_the_crops_size_is_left_as_it_is():
    squares = np.random.default_rng(0).integers(0, 256, (5, 30, 30, 3), np.uint8)
    tops, lefts, sides = np.arange(5), np.arange(5)[::-1].copy(), np.full(5, 24)
    out = np.zeros((5, 24, 24, 3), np.uint8)
    resized_crop.resize_loop(squares, tops, lefts, sides, sides, out, 0)
    for n in range(5):
        np.testing.assert_array_equal(out[n], squares[n, tops[n] : tops[n] + 24, lefts[n] : lefts[n] + 24])


def test_mirror_mean_and_light_come_after():
    squares = np.random.default_rng(1).integers(0, 256, (6, 40, 40, 3), np.uint8)
    prep = prep_of(40, 32, stds=(50.0, 60.5, 71.25))
    draws = augment.training_draws(QUARTER, prep, 0, 0, np.arange(6), True)
    got = augment.cut(squares, draws, prep, np.empty((6, 32, 32, 3), np.float32))
    whole = np.zeros((6, 32, 32, 3), np.uint8)
    resized_crop.resize_loop(squares, draws.tops, draws.lefts, draws.heights, draws.widths, whole, 0)
    zeros = np.zeros(6, np.int64)
    plain = replace(draws, tops=zeros, lefts=zeros, heights=None, widths=None)
    np.testing.assert_allclose(got, cut_by_numpy(whole, plain, prep), rtol=1e-5, atol=1e-5)


def test_views_and_centre_crops_are_never_resized():
    assert augment.view_draws(prep_of(), 3, 0).heights is None
    assert draws_of(replace(QUARTER, crop=False), 3).heights is None


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
def test_a_share_is_from_0_to_1(share):
    with pytest.raises(UsageError, match="resized_crop"):
        spec.change(spec.preset("modern"), [f"data.resized_crop={share}"])
