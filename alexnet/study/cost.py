"""How long a study will take, told before it starts: trainings that are missing, over images/s of a warm-up.

The warm-up is twenty steps of the scale's own net on made-up pictures, or as many as fit into three seconds; it is kept
in studies/speed.json, so that it is done once for each net and machine.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from alexnet.spec import Spec
from alexnet.study.run import seeds_done
from alexnet.study.words import Arm, Claim, Scale, spec_of

STEPS, AT_MOST_S = 20, 3.0
EVALUATION = 1.1  # twenty evaluations, views, checkpoints: a tenth on top


def pictures_trained(
    claim: Claim,
    scale: Scale,
    seeds: int,
    rows: list[dict],
    pictures: int | None = None,
    settings: tuple[str, ...] = (),
) -> float:
    """Pictures that the missing seeds' trainings will see, in all epochs together."""
    share = (scale.classes or scale.of_classes) / scale.of_classes
    whole = pictures or scale.pictures
    missing = max(0, seeds - seeds_done(claim, scale, rows))
    trained = [arm for arm in claim.arms_at(scale) if not arm.runs_of]
    lengths = 0.0
    for arm in trained:
        spec = _base(claim, scale, arm, settings)
        of_run = _length(spec, round(whole * share))
        probes = len(arm.grid) if missing else 0
        probe = _base(claim, scale, arm, (f"run.length={scale.probe or scale.length}", *settings))
        lengths += missing * claim.members * of_run + probes * _length(probe, round(whole * share))
        lengths += arm.pretrained * missing * _length(spec, whole)
    return lengths


def _base(claim: Claim, scale: Scale, arm: Arm, settings: tuple[str, ...]) -> Spec:
    return spec_of(claim, arm, scale, scale.classes or scale.of_classes, 0, settings)


def _length(spec: Spec, pictures: int) -> float:
    """Pictures of one training."""
    per_epoch = -(-pictures // spec.run.batch)
    return spec.run.length.steps(per_epoch, 0) * pictures / per_epoch


def cost_s(
    claim: Claim,
    scale: Scale,
    seeds: int,
    rows: list[dict],
    cache: Path,
    pictures: int | None = None,
    settings: tuple[str, ...] = (),
) -> float:
    """Seconds that `seeds` seeds of the claim will still take on this machine; `pictures` of the data, if known."""
    todo = pictures_trained(claim, scale, seeds, rows, pictures, settings)
    if not todo:
        return 0.0
    arm = next(arm for arm in claim.arms_at(scale) if not arm.runs_of)
    return EVALUATION * todo / images_per_s(_base(claim, scale, arm, settings), cache)


def images_per_s(spec: Spec, cache: Path) -> float:
    """Training speed of the spec's net and batch here, from `cache` or a warm-up."""
    import torch

    from alexnet import machine

    versions, precision = machine.versions(), machine.precision(spec.run.precision, machine.device(spec.run.device)[0])
    on = [versions["torch"], versions["cpu"], versions["threads"], precision[0]]
    key = json.dumps([asdict(spec.net), spec.run.batch, *on])
    known = json.loads(cache.read_text()) if cache.exists() else {}
    if key not in known:
        known[key] = _warm_up(spec, torch)
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(known, indent=1) + "\n")
    return known[key]


def _warm_up(spec: Spec, torch) -> float:
    from contextlib import redirect_stderr
    from io import StringIO

    from alexnet import train

    size_px, batch = spec.net.crop_px, spec.run.batch
    colours = {"channel_means": np.zeros(3), "colour_stds": np.ones(3), "colour_axes": np.eye(3)}
    mean = np.zeros((size_px, size_px, 3), np.float32)
    pictures = {"train": range(100 * batch)}  # of which only the number is looked at
    stand_in = SimpleNamespace(splits=pictures, size_px=size_px, mean_image=mean, **colours)
    with redirect_stderr(StringIO()):
        state, place = train.prepare(spec, stand_in)
    images = 60 * torch.randn(batch, 3, size_px, size_px, device=place.device, dtype=place.dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(spec.net.classes, (batch,), device=place.device)
    train.step(state, images, labels)  # compiles
    start, steps = time.perf_counter(), 0
    while steps < STEPS and time.perf_counter() - start < AT_MOST_S:
        train.step(state, images, labels)
        steps += 1
    return steps * batch / (time.perf_counter() - start)
