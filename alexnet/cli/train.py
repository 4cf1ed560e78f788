"""`alexnet train`: a net learns, and goes on where it stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from alexnet import tables
from alexnet.cli.app import VERBS, Json, Settings, emit, progress
from alexnet.errors import UsageError
from alexnet.log import say


@VERBS.command
def train(
    data: Positional[str | None] = None,
    /,
    run: Path | None = None,
    preset: str = "as_run",
    epochs: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: Literal["auto", "fp32", "bf16"] | None = None,
    settings: Settings = (),
    json: Json = False,
) -> None:
    """Trains a net. The same command again goes on where it stopped, bit for bit.

    Args:
        data: a pack, or anything `alexnet pack` takes (packed once into a cache beside it); none: the built-in set.
        run: the run's folder; runs/<preset> if not given.
        preset: as_run, as_published, one_tower, caffe, owt2014, torchvision, modern, cifar_quick or cifar_11pct.
        epochs: passes over the training pictures.
        steps: updates, instead of epochs.
        batch: pictures per update (128).
        seed: of the initial weights, the order of pictures, crops, light and dropout.
        device: auto, cpu, cuda or cuda:N.
        precision: bf16 where the machine has it in hardware, else fp32.
        settings: any field of the spec, e.g. --set net.lrn.k=1 --set sgd.rate=0.005 --set run.checkpoint_every=50st.
    """
    from alexnet import spec as spec_module
    from alexnet import train as training
    from alexnet.data.pack import ensure_pack

    if epochs is not None and steps is not None:
        raise UsageError("give --epochs or --steps, not both")
    length = f"{epochs}ep" if epochs is not None else f"{steps}st" if steps is not None else None
    given = {"run.length": length, "run.batch": batch, "run.seed": seed, "run.device": device}
    options = [f"{name}={value}" for name, value in {**given, "run.precision": precision}.items() if value is not None]
    spec = spec_module.change(spec_module.preset(preset), [*options, *settings])  # what is wrong is told before packing
    small = data in (None, "shapes") and spec.net.crop_px <= 32
    opened = ensure_pack(data, size_px=32 if small else None, progress=progress("packing"), say=say)
    spec = spec_module.change(spec_module.preset(preset, classes=len(opened.classes)), [*options, *settings])
    if spec.net.classes != len(opened.classes):
        raise UsageError(
            f"net.classes={spec.net.classes}, but the data has {len(opened.classes)} classes; leave it out"
        )
    run = run or Path("runs") / preset
    try:
        record = training.train(spec, opened, run)
    except training.Stopped as stopped:
        sys.exit(stopped.code)
    emit({"run": str(run), **record}, json, tables.training(run, record))
