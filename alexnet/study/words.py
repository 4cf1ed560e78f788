"""The words in which an experiment is said: arms, what is measured of them, findings, scales; and the spec they add
up to.

An arm is a change to a base spec, in the strings `--set` takes or as a function on Spec; a scale says on which pictures
the base is trained, how large and how long. Errors are fractions; a difference is the worse arm minus the better.
The experiments themselves are in `claims.py`, functions on Spec in `changes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from alexnet import spec as spec_module
from alexnet.errors import UsageError
from alexnet.spec import Spec

Change = str | Callable[[Spec], Spec]


@dataclass(frozen=True)
class Metric:
    """What is measured of an arm and a seed; smaller is better. A ratio is compared by its logarithm, a share is a
    mean of zeros and ones.
    """

    title: str
    kind: str = "error"  # error (a fraction, told in per cent), ratio, share


METRICS = {
    "top1_error": Metric("top-1 error"),
    "top5_error": Metric("top-5 error"),
    "train_error": Metric("top-1 error on the training pictures"),
    "gap": Metric("top-1 error, validation minus training"),
    "epochs_to_target": Metric("epochs to the target training error", "ratio"),
    "stalled": Metric("share of starts that stall", "share"),
}


@dataclass(frozen=True)
class Arm:
    """One way to train, or to measure what another arm trained (`runs_of`).

    `grid` holds settings of which the best is found beforehand, by runs of a seed of their own. `pretrained` starts
    from a run of the same net on all classes of the data. `scales` are those that have this arm; empty: all.
    """

    name: str
    changes: tuple[Change, ...] = ()
    preset: str | None = None
    runs_of: str | None = None
    views: int | None = None
    ensemble: bool = False
    grid: tuple[tuple[str, ...], ...] = ()
    pretrained: bool = False
    scales: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """`worse` has the larger metric, says the paper by `paper` and the log by `log` (a ratio for ratios).

    `claimed` is False where nobody claims which is better: then both are measured and no verdict is given.
    """

    worse: str
    better: str
    metric: str = "top1_error"
    paper: float | None = None
    log: float | None = None
    claimed: bool = True


@dataclass(frozen=True)
class Scale:
    """Data (`None`: must be named), squares of `size_px`, the base spec and the run's length.

    `target` is the training error of `epochs_to_target`; `classes` keeps only the first so many of the data's
    `of_classes`, all of them being there for pre-training; `probe` is the length of the runs that choose from a grid,
    where it is not that of the others.
    """

    name: str
    data: str | None
    size_px: int
    pictures: int
    length: str
    preset: str
    changes: tuple[Change, ...] = ()
    target: float = 0.25
    classes: int | None = None
    of_classes: int = 10
    probe: str | None = None


@dataclass(frozen=True)
class Claim:
    """`members`: runs per seed, measured one by one and averaged, or together as an ensemble."""

    name: str
    section: str
    statement: str
    arms: tuple[Arm, ...]
    findings: tuple[Finding, ...]
    scales: tuple[Scale, ...]
    seeds: int = 3
    views: int = 1
    members: int = 1
    note: str = ""

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def arms_at(self, scale: Scale) -> list[Arm]:
        return [arm for arm in self.arms if not arm.scales or scale.name in arm.scales]

    def findings_at(self, scale: Scale) -> list[Finding]:
        """Those of arms that the scale has; of five classes everything is in the top five."""
        names = {arm.name for arm in self.arms_at(scale)}
        of_five = (scale.classes or scale.of_classes) <= 5
        found = [finding for finding in self.findings if {finding.worse, finding.better} <= names]
        return [finding for finding in found if not (of_five and finding.metric == "top5_error")]

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(finding.metric for finding in self.findings))

    def scale(self, name: str) -> Scale:
        known = [scale.name for scale in self.scales]
        if name not in known:
            raise UsageError(f"{self.name} has no scale {name!r}; its scales: {', '.join(known)}")
        return self.scales[known.index(name)]


def change(spec: Spec, changes: tuple[Change, ...]) -> Spec:
    """`spec` with settings and functions applied in order. Raises UsageError for a setting that does not exist."""
    for one in changes:
        spec = spec_module.change(spec, [one]) if isinstance(one, str) else one(spec)
    return spec


def spec_of(claim: Claim, arm: Arm, scale: Scale, classes: int, seed: int, settings: tuple[str, ...] = ()) -> Spec:
    """The resolved spec of one run: preset, the scale's changes, the arm's, then `settings`."""
    base = spec_module.preset(arm.preset or scale.preset, classes=classes)
    how_often = ("run.evaluate_every=25%", "run.log_every=0.25ep", "run.checkpoint_every=25%", "run.keep=1")
    run = (f"run.length={scale.length}", f"run.seed={seed}", *how_often)
    if {finding.metric for finding in claim.findings_at(scale)} == {"epochs_to_target"}:
        run += (f"run.until_train_error={scale.target}",)  # nothing is measured of what comes later
    return change(base, (*scale.changes, *arm.changes, *run, *settings))
