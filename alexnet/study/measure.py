"""What is measured of finished runs: errors by views and split, the gap between them, epochs to a training error,
whether a start stalled.

A run whose loss stopped being finite answers by chance, never arrives, and counts as stalled.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean

from alexnet import checkpoint, evaluate, predict
from alexnet.data.pack import Pack
from alexnet.log import read_metrics
from alexnet.startup import GLUED
from alexnet.study.words import Arm, Claim, Scale

DIVERGED = "diverged.txt"  # stands in a run folder in place of a model
MEASURED = ".errors.json"  # what was measured of a run's model


def measure(claim: Claim, arm: Arm, scale: Scale, runs: list[Path], pack: Pack) -> dict:
    """{"values": {metric: number}, "censored": [metrics that were not reached]} of the runs of one seed: the mean of
    theirs, or that of the ensemble.
    """
    groups = [runs] if arm.ensemble else [[run] for run in runs]
    views = arm.views or claim.views
    metrics = tuple(dict.fromkeys(finding.metric for finding in claim.findings_at(scale)))
    each = [{metric: _value(metric, group, views, scale, pack) for metric in metrics} for group in groups]
    censored = [m for m in metrics if m == "epochs_to_target" and any(math.isinf(one[m]) for one in each)]
    for one, group in zip(each, groups, strict=True):
        one.update({m: _last_epoch(group[0]) for m in censored if math.isinf(one[m])})
    return {"values": {m: fmean(one[m] for one in each) for m in metrics}, "censored": censored}


def _value(metric: str, runs: list[Path], views: int, scale: Scale, pack: Pack) -> float:
    if metric == "epochs_to_target":
        return epochs_to(scale.target, logged(runs[0], "train_error"))
    if metric == "stalled":
        return float(any(stalled(run, len(pack.classes)) for run in runs))
    if any((run / DIVERGED).exists() for run in runs):
        return {"gap": 0.0, "top5_error": max(0.0, 1 - 5 / len(pack.classes))}.get(metric, 1 - 1 / len(pack.classes))
    if metric == "train_error":
        return errors(runs, pack, "train", 1)["top1_error"]
    if metric == "gap":
        return errors(runs, pack, "val", 1)["top1_error"] - errors(runs, pack, "train", 1)["top1_error"]
    return errors(runs, pack, "val", views)[metric]


def errors(runs: list[Path], pack: Pack, split: str, views: int) -> dict:
    """{"top1_error", "top5_error"} of the runs' models, averaged; of a single one measured once and kept beside it."""
    kept = runs[0] / MEASURED
    known = json.loads(kept.read_text()) if len(runs) == 1 and kept.exists() else {}
    key = f"{pack.fingerprint}, {split}, {views} views"
    if key not in known:
        predictors = [predict.load(run, precision="auto") for run in runs]
        members = [predictor.member for predictor in predictors]
        found = evaluate.evaluate(members, pack.splits[split], views, predictors[0].place, pack.classes)
        known[key] = {name: found[name] for name in ("top1_error", "top5_error")}
        if len(runs) == 1:
            checkpoint.write_json(kept, known)
    return known[key]


def asked(claim: Claim, arm: Arm, scale: Scale) -> frozenset[tuple[str, int]]:
    """(split, views) of the errors that `measure` wants of a run of the arm."""
    metrics = {finding.metric for finding in claim.findings_at(scale)}
    found = (
        {("val", arm.views or claim.views)} if metrics & {"top1_error", "top5_error"} and not arm.ensemble else set()
    )
    found |= {("train", 1)} if metrics & {"gap", "train_error"} else set()
    return frozenset(found | ({("val", 1)} if "gap" in metrics else set()))


def logged(run: Path, key: str) -> list[tuple[float, float]]:
    """(epoch, value) of every record of a run that has `key`; training windows stand at their middle."""
    records = [r for r in read_metrics(run / "metrics.jsonl") if key in r and "epoch" in r]
    ends = [r["epoch"] for r in records]
    if key == "top1_error":
        return [(end, r[key]) for end, r in zip(ends, records, strict=True)]
    starts = [0.0, *ends][: len(ends)]
    return [((a + b) / 2, r[key]) for a, b, r in zip(starts, ends, records, strict=True)]


def epochs_to(target: float, curve: list[tuple[float, float]]) -> float:
    """The epoch at which the curve first comes down to `target`, on the line between two points; inf if never."""
    before = None
    for epoch, value in curve:
        if value <= target:
            if before is None or before[1] <= value:
                return epoch
            share = (before[1] - target) / (before[1] - value)
            return before[0] + share * (epoch - before[0])
        before = (epoch, value)
    return math.inf


def last_loss(run: Path) -> float:
    """The last logged training loss; inf of a run that diverged."""
    losses = logged(run, "loss") if (run / "metrics.jsonl").exists() else []
    return math.inf if (run / DIVERGED).exists() or not losses else losses[-1][1]


def stalled(run: Path, classes: int) -> bool:
    """Whether the last logged loss is still that of guessing, or worse."""
    return last_loss(run) > (1 - GLUED) * math.log(classes)


def _last_epoch(run: Path) -> float:
    curve = logged(run, "train_error")
    return curve[-1][0] if curve else 1.0
