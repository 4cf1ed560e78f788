"""What a few seeds can say: means, spread, the 95 % interval of a difference paired by seed, and the verdict.

Two arms share their seeds: what a seed does to both cancels in the difference. Student's distribution has a closed form
for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4), so no further library is needed. Shares of
zeros and ones get the interval of Agresti and Min for matched proportions (Statistics in Medicine 24, 2005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

AGREES, SMALLER, DISAGREES = "agrees", "agrees in sign", "disagrees"
UNDECIDED, NO_CLAIM, IDLE = "too few seeds to tell", "nothing claimed", "an arm learnt nothing"
Z_95 = 1.959963984540054  # of the normal distribution


@dataclass(frozen=True)
class Difference:
    """Worse arm minus better arm over `n` seeds with its 95 % interval; for ratios, worse over better (geometric)."""

    n: int
    value: float
    low: float
    high: float


def student_within(t: float, df: int) -> float:
    """P(|T| <= t) of Student's distribution with `df` degrees of freedom."""
    angle = math.atan(t / math.sqrt(df))
    cosine = math.cos(angle)
    total, term = 0.0, 1.0
    for k in range(df % 2, df - 1, 2):
        total += term
        term *= cosine**2 * (k + 1) / (k + 2)
    if df % 2 == 0:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + math.sin(angle) * cosine * total)


def student_95(df: int) -> float:
    """The t within which 95 % of Student's distribution lie, by halving an interval."""
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_within(middle, df) < 0.95 else (low, middle)
    return high


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """(mean, standard deviation); None for a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def difference(worse: Sequence[float], better: Sequence[float], kind: str) -> Difference | None:
    """Paired by position; None without pairs. `kind` is a Metric's: error, ratio or share."""
    n = len(worse)
    if n == 0:
        return None
    if kind == "share":
        return _shares(worse, better)
    if kind == "ratio":
        worse, better = ([math.log(v) for v in values] for values in (worse, better))
    differences = [w - b for w, b in zip(worse, better, strict=True)]
    value = fmean(differences)
    half = student_95(n - 1) * stdev(differences) / math.sqrt(n) if n > 1 else math.inf
    numbers = (value, value - half, value + half)
    return Difference(n, *(_exp(x) for x in numbers) if kind == "ratio" else numbers)


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _shares(worse: Sequence[float], better: Sequence[float]) -> Difference:
    """Half a pair is added to each of the four cells; t intervals have no width where all pairs are alike."""
    n = len(worse)
    only_worse = sum(w > b for w, b in zip(worse, better, strict=True)) + 0.5
    only_better = sum(w < b for w, b in zip(worse, better, strict=True)) + 0.5
    centre = (only_worse - only_better) / (n + 2)
    half = Z_95 * math.sqrt(only_worse + only_better - (only_worse - only_better) ** 2 / (n + 2)) / (n + 2)
    return Difference(n, fmean(worse) - fmean(better), max(-1.0, centre - half), min(1.0, centre + half))


def verdict(seen: Difference | None, kind: str, claimed: bool, stated: float | None) -> str:
    """agrees: the whole interval has the claimed sign, and reaches half of what is stated; agrees in sign: it does not
    reach that. disagrees: it has no such sign and lies below that. Anything else is too few seeds to tell.
    """
    if not claimed:
        return NO_CLAIM
    if seen is None or seen.n < 2:
        return UNDECIDED
    nothing = 1.0 if kind == "ratio" else 0.0
    least = nothing if stated is None else math.sqrt(stated) if kind == "ratio" else stated / 2
    if seen.low > nothing:
        return AGREES if seen.high >= least else SMALLER
    return DISAGREES if seen.high < least else UNDECIDED
