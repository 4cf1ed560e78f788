"""Measuring models on the data they name, and checking that packs, checkpoints and models are what they say.

A model file carries its measured accuracy with its views. `verify` measures again: weights that are untrained, mixed
up or fed with other preprocessing do not reach it.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from alexnet import checkpoint, evaluate, submission
from alexnet.data.pack import Pack, ensure_pack, is_pack, open_pack, verify_pack
from alexnet.data.remote import is_uri, open_remote
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.evaluate import Member
from alexnet.log import say
from alexnet.net import compute_in
from alexnet.predict import Predictor, load

ROUNDING = 0.002  # another processor rounds differently and turns a few borderline pictures; more is another net


def runs_and_data(runs: tuple[str, ...], data: str | None) -> tuple[list[Path], str | None]:
    """RUN... [DATA]: the last one is the data if it is no run and no model file."""
    runs = tuple(run for run in runs if Path(run).name != "summary.json")  # of `alexnet train --seeds`
    paths = [Path(run) for run in runs]
    if not paths:
        raise UsageError("name a run or a model file, e.g. alexnet evaluate runs/pets")
    last = paths[-1]
    is_run = last.suffix == ".safetensors" or (last / "run.json").exists() or (last / "model.safetensors").exists()
    if data is None and len(paths) > 1 and not is_run:
        return paths[:-1], runs[-1]
    return paths, data


def measure(
    runs: list[Path],
    data: str | None,
    views: int,
    split: str,
    weights: tuple[float, ...],
    *,
    device: str = "auto",
    precision: str = "auto",
    batch: int = 128,
    submit: Path | None = None,
    progress,
) -> dict:
    """`evaluate.evaluate` of one run or an ensemble, on `data` or on what the first run was trained on.

    `submit` names a file for the five best guesses of every picture. Raises UsageError for weights that do not fit,
    DataError where the runs and the data do not tell the same classes.
    """
    if weights and (len(weights) != len(runs) or not all(0 < w < math.inf for w in weights)):
        raise UsageError(f"{len(weights)} weights for {len(runs)} runs; give one positive weight for each, or none")
    if batch < 1:
        raise UsageError(f"a batch of {batch} pictures: 1 or more")
    predictors = [load(run, device, precision) for run in runs]
    pack = data_of(runs[0], predictors[0], data, progress)
    for predictor in predictors:
        check_fit(predictor, pack)
    if views > 1 and all(p.prep.crop_px == pack.size_px for p in predictors):
        say(f"note: crops are as large as the squares here, {pack.size_px} px: the views are one place and its mirror")
    members = [Member(p.net, p.prep, w) for p, w in zip(predictors, weights or [1.0] * len(runs), strict=True)]
    place = replace(predictors[0].place, batch=batch)
    where, shown = (members, pack.splits[split], views, place, pack.classes), progress("evaluating")
    if submit is None:
        return evaluate.evaluate(*where, shown)
    submission.check(submit, pack)
    guesses: list[Tensor] = []
    result = evaluate.evaluate(*where, shown, lambda mean: guesses.append(submission.best(mean)))
    submission.write(submit, pack, split, torch.cat(guesses))
    return result


def data_of(run: Path, predictor: Predictor, data: str | None, progress) -> Pack:
    """The pack that was named, or the one the run was trained on."""
    if data is not None:
        return ensure_pack(data, progress=progress("packing"), say=say)
    record = run / "run.json"
    if not record.exists():
        raise UsageError(
            f"{run} does not say which data it was trained on; name it after the run (verify: --data DATA)"
        )
    known = json.loads(record.read_text())["data"]
    gone = "uri" in known and not is_pack(known["path"])  # from the cache, or on another machine
    pack = ensure_pack(known["uri"], say=say) if gone else open_pack(known["path"])
    if pack.fingerprint != predictor.passport["trained"]["fingerprint"]:
        raise DataError(f"{pack.path} is no longer the data {run} was trained on; name the data to use")
    return pack


def check_fit(predictor: Predictor, pack: Pack) -> None:
    """Raises DataError unless the model and the pack have the same classes and squares."""
    if predictor.classes != pack.classes:
        raise DataError(
            f"{predictor.path} tells {len(predictor.classes)} classes ({', '.join(predictor.classes[:3])} ...) and "
            f"{pack.path} has {len(pack.classes)} ({', '.join(pack.classes[:3])} ...)"
        )
    if predictor.prep.size_px != pack.size_px:
        size_px = predictor.prep.size_px
        raise DataError(f"{predictor.path} was trained on {size_px}-pixel squares, {pack.path} holds {pack.size_px}")


def verify(path: str | Path, data: str | None, progress) -> dict:
    """What a pack, a run or a model file is, once it has been found intact. Raises DataError or CheckpointError.

    A pack in a store is fetched anew, whatever the cache holds.
    """
    if is_uri(path):
        return {
            "path": path,
            "kind": "pack",
            **verify_pack(open_remote(path, say, anew=True).path, progress("verifying")),
        }
    path = Path(path)
    if is_pack(path):
        return {"path": str(path), "kind": "pack", **verify_pack(path, progress("verifying"))}
    if not path.exists():
        raise UsageError(f"there is no {path}")
    if (path / "run.json").exists() and not (path / "model.safetensors").exists():
        steps = checkpoint.verify(path / "checkpoints")
        return {"path": str(path), "kind": "run", "checkpoints": len(steps), "step": max(steps, default=0)}
    return verify_model(path, data, progress)


def verify_model(path: Path, data: str | None, progress) -> dict:
    """Measures a model again as its passport says it was measured. Raises CheckpointError where they differ."""
    predictor = load(path, precision="fp32")
    said = predictor.passport.get("accuracy")
    if not said:
        raise CheckpointError(f"{path} carries no measured accuracy")
    pack = data_of(path, predictor, data, progress)
    check_fit(predictor, pack)
    if pack.fingerprint != said["fingerprint"]:
        raise DataError(f"{path} was measured on other data than {pack.path}")
    place = replace(predictor.place, precision=said["precision"])
    member = replace(predictor.member, net=compute_in(predictor.net, place.dtype))
    split, classes = pack.splits["val"], pack.classes
    result = evaluate.evaluate([member], split, said["views"], place, classes, progress("evaluating"))
    for key in ("top1_error", "top5_error"):
        if abs(result[key] - said[key]) > 1.5 / result["images"] + ROUNDING:
            raise CheckpointError(
                f"{path} says {key} {said[key]:.4f} over {said['images']:,} pictures and measures {result[key]:.4f}:\n"
                "its weights, classes or preprocessing are not those it was measured with"
            )
    del result["classes"]
    kept = {key: said[key] for key in ("top1_error", "top5_error", "views")}
    return {"path": str(path), "kind": "model", **result, "said": kept}
