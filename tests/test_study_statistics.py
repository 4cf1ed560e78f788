"""Statistics of a few seeds against known values, and verdicts."""

import math

import pytest

from alexnet.study.statistics import (
    AGREES,
    DISAGREES,
    NO_CLAIM,
    SMALLER,
    UNDECIDED,
    Difference,
    difference,
    spread,
    student_95,
    student_within,
    verdict,
)

# Two-sided 95 % points of Student's distribution, as in every printed table (e.g. Abramowitz and Stegun, table 26.10).
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 19: 2.093, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("df", "t"), T_95.items())
def test_students_points(df, t):
    assert student_95(df) == pytest.approx(t, abs=6e-4)


def test_students_distribution_of_one_degree_is_cauchys():
    assert student_within(1, 1) == pytest.approx(0.5)
    assert student_within(2, 2) == pytest.approx(2 / math.sqrt(6))  # t / sqrt(2 + t^2)
    assert student_within(1e9, 7) == pytest.approx(1)


def test_a_paired_interval_by_hand():
    """Differences 1, 2, 3: mean 2, deviation 1, half width 4.303 / sqrt(3)."""
    seen = difference([11, 22, 33], [10, 20, 30], "error")
    half = 4.30265 / math.sqrt(3)
    assert (seen.n, seen.value) == (3, 2)
    assert (seen.low, seen.high) == pytest.approx((2 - half, 2 + half), abs=1e-4)


def test_pairing_takes_out_what_seeds_share():
    apart = [10.0, 20.0, 30.0]
    seen = difference([x + 1 + d for x, d in zip(apart, (0, 0.1, -0.1), strict=True)], apart, "error")
    assert seen.low > 0


def test_ratios_are_compared_by_their_logarithms():
    seen = difference([2.0, 8.0], [1.0, 2.0], "ratio")
    assert seen.value == pytest.approx(math.sqrt(8))
    assert seen.low * seen.high == pytest.approx(seen.value**2)


def test_shares_have_width_even_where_all_pairs_are_alike():
    """Agresti and Min: ten of ten stall, none of ten; half a pair added to each cell."""
    seen = difference([1.0] * 10, [0.0] * 10, "share")
    assert (seen.value, seen.high) == (1, 1)
    assert seen.low == pytest.approx(10 / 12 - 1.95996 * math.sqrt(11 - 100 / 12) / 12, abs=1e-4)
    same = difference([0.0] * 10, [0.0] * 10, "share")
    assert same.low == pytest.approx(-same.high)
    assert same.high == pytest.approx(1.95996 / 12, abs=1e-4)


def test_one_pair_has_no_interval_and_none_has_nothing():
    seen = difference([2.0], [1.0], "error")
    assert (seen.value, seen.low, seen.high) == (1, -math.inf, math.inf)
    assert difference([3.0], [1.0], "ratio").high == math.inf
    assert difference([], [], "error") is None
    assert spread([2.0]) == (2.0, None)


@pytest.mark.parametrize(
    ("low", "high", "kind", "stated", "expected"),
    [
        (0.001, 0.020, "error", 0.014, AGREES),
        (0.030, 0.050, "error", 0.014, AGREES),  # more than was claimed
        (0.001, 0.006, "error", 0.014, SMALLER),  # under half of it
        (-0.020, -0.001, "error", 0.014, DISAGREES),
        (-0.002, 0.006, "error", 0.014, DISAGREES),  # at most under half of it
        (-0.002, 0.008, "error", 0.014, UNDECIDED),
        (-0.010, 0.020, "error", None, UNDECIDED),
        (-0.010, -0.001, "error", None, DISAGREES),
        (1.5, 9.0, "ratio", 6.0, AGREES),
        (1.5, 2.4, "ratio", 6.0, SMALLER),
        (0.5, 2.0, "ratio", 6.0, DISAGREES),
        (0.5, 3.0, "ratio", 6.0, UNDECIDED),
        (0.2, 0.9, "ratio", None, DISAGREES),
    ],
)
def test_verdicts(low, high, kind, stated, expected):
    assert verdict(Difference(3, (low + high) / 2, low, high), kind, True, stated) == expected


def test_no_verdict_on_one_seed_nor_where_nothing_is_claimed():
    assert verdict(Difference(1, 0.5, -math.inf, math.inf), "error", True, 0.1) == UNDECIDED
    assert verdict(None, "error", True, 0.1) == UNDECIDED
    assert verdict(Difference(3, 0.5, 0.4, 0.6), "error", False, None) == NO_CLAIM
