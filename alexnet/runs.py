"""The run folder: run.json, what may change between two starts of one run, and the passport of its model file.

run.json           the resolved spec, versions, the data's fingerprint
metrics.jsonl      one object per logged step
checkpoints/       see checkpoint.py
model.safetensors  weights, mean image and the passport, once the run is finished
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet import __version__, checkpoint, machine
from alexnet import spec as spec_module
from alexnet.data.augment import Preprocessing
from alexnet.data.packfile import Pack
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.log import read_metrics
from alexnet.spec import Spec

MOST_NAMED = 6  # settings in a message
# Without changing a bit, `parallel` up to the order of additions. Precision is compared as it was chosen, not as it was
# asked for: train.resume does that. Without `deterministic` a GPU has promised no bits that it could break.
FREE_TO_CHANGE = (
    *("parallel", "workers", "keep", "checkpoint_every", "checkpoint_minutes", "log_every", "precision"),
    *("deterministic", "graphs", "until_train_error"),
)


def open_run(run: Path, spec: Spec, pack: Pack) -> None:
    """Writes run.json of a new run, or compares it with that of one to go on with. Raises if the folder belongs to
    other data or another spec.
    """
    path = run / "run.json"
    resolved = spec_module.to_dict(spec)
    if not path.exists() or not has_begun(run):
        if not path.exists() and any(not entry.name.startswith(".") for entry in run.iterdir()):
            raise UsageError(f"{run} holds files but no run; give another --run or an empty folder")
        record = {
            "spec": resolved,
            "data": {"path": str(pack.path.resolve()), "fingerprint": pack.fingerprint, "classes": pack.classes},
        }
        if pack.uri:
            record["data"]["uri"] = pack.uri
        record |= {"command": shlex.join(["alexnet", *sys.argv[1:]])}
        record |= {"versions": {"alexnet": __version__, **machine.versions()}}
        checkpoint.write_json(path, record)
        return
    try:
        record = json.loads(path.read_text())
        before, fingerprint = _complete(record["spec"]), record["data"]["fingerprint"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} is not readable as a run's record; give another --run") from None
    if fingerprint != pack.fingerprint:
        raise DataError(f"{run} was trained on other data ({record['data']['path']}); give another --run or that data")
    free = {"parent.path", *(f"run.{name}" for name in FREE_TO_CHANGE)}
    differing = [name for name in _differences(before, resolved) if name not in free]
    if "parent.sha256" in differing:
        raise CheckpointError(
            f"{spec.parent.path} is no longer the model that {run} was begun from (its sha256 differs);\n"
            "give that model, or another --run"
        )
    if differing:
        more = f" and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
        named = ", ".join(differing[:MOST_NAMED]) + more
        raise UsageError(f"{run} is a run with other settings ({named}); give another --run or the same settings")


def has_begun(run: Path) -> bool:
    """Whether a run has done more than to say what it will be: a setting may have been refused only then."""
    return any((run / name).exists() for name in ("metrics.jsonl", "checkpoints", "model.safetensors", "summary.json"))


def _complete(resolved: dict) -> dict:
    """The record of a spec with the fields that have been added since it was written."""
    try:
        return spec_module.to_dict(spec_module.from_dict(resolved))
    except (UsageError, AttributeError):
        return resolved  # of another version: whatever differs is named


def _differences(a, b, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two spec records differ."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [prefix[:-1]]
    return [name for key in a.keys() | b.keys() for name in _differences(a.get(key), b.get(key), f"{prefix}{key}.")]


def preprocessing(spec: Spec, pack: Pack) -> Preprocessing:
    """The pack's statistics as the spec uses them. Raises UsageError if the crop does not fit the pack's squares."""
    if spec.net.crop_px > pack.size_px:
        raise UsageError(
            f"the net takes {spec.net.crop_px} px and the pack holds {pack.size_px} px: pack with a larger --size"
        )
    means = {
        "image": pack.mean_image,
        "channel": np.broadcast_to(np.float32(pack.channel_means), pack.mean_image.shape),
        "none": np.zeros_like(pack.mean_image),
    }
    stds = np.sqrt((pack.colour_axes**2 * pack.colour_stds**2).sum(1)) if spec.data.divide_by_std else np.ones(3)
    mean = np.ascontiguousarray(means[spec.data.mean], np.float32)
    return Preprocessing(pack.size_px, spec.net.crop_px, mean, stds, pack.colour_stds, pack.colour_axes)


def model_tensors(weights: dict[str, Tensor], prep: Preprocessing) -> dict[str, Tensor]:
    return {**weights, "preprocessing.mean": torch.from_numpy(prep.mean)}


def passport(spec: Spec, step: int, pack: Pack, prep: Preprocessing, accuracy: dict | None) -> dict:
    """What a model file says about itself; nothing in it depends on when or how often a run was stopped."""
    numbers = {"size_px": prep.size_px, "stds": prep.stds.tolist()}
    numbers |= {"colour_stds": prep.colour_stds.tolist(), "colour_axes": prep.colour_axes.tolist()}
    resolved = spec_module.to_dict(spec)
    if spec.parent:
        del resolved["parent"]["path"]
    resolved["run"] = {name: value for name, value in resolved["run"].items() if name not in FREE_TO_CHANGE}
    return {
        "format": "alexnet 1",
        "spec": resolved,
        "classes": pack.classes,
        "preprocessing": numbers,
        "accuracy": accuracy,
        "trained": {"step": step, "fingerprint": pack.fingerprint},
    }


def speed(run: Path) -> dict:
    """Median images/s of the logged steps, and the training time they add up to."""
    steps = [r for r in read_metrics(run / "metrics.jsonl") if "images_per_s" in r]
    if not steps:
        return {"images_per_s": None, "time_s": 0.0}
    per_step = [b["step"] - a["step"] for a, b in zip([{"step": 0}, *steps], steps, strict=False)]
    batch = json.loads((run / "run.json").read_text())["spec"]["run"]["batch"]
    images = (r.get("images", n * batch) for n, r in zip(per_step, steps, strict=True))  # older versions did not say
    time_s = sum(n / r["images_per_s"] for n, r in zip(images, steps, strict=True))
    return {"images_per_s": float(np.median([r["images_per_s"] for r in steps])), "time_s": time_s}


def last_record(run: Path) -> dict:
    return next(r["summary"] for r in reversed(read_metrics(run / "metrics.jsonl")) if "summary" in r)
