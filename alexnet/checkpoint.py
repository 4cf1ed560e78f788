"""Checkpoints that are either whole or absent, and the model file a finished run leaves.

`checkpoints/step-00000074.safetensors` holds weights and velocities; `step-00000074.json`, written last, is its commit
record: size, sha256 and everything else a run needs to go on. A file without a record never counts. The newest intact
one is found by looking, not by a pointer; if there are records and none is intact, the run stops.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from alexnet.errors import CheckpointError, MachineError, UsageError
from alexnet.log import say


@contextmanager
def locked(run: Path):
    """Holds the run folder for this process. Raises UsageError if another one has it."""
    with open(run / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{run} is in use by another process; wait for it or give another --run") from None
        yield


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(path: Path, write) -> str:
    """`write(temporary path)`, fsync, rename to `path`; returns the sha256. Raises MachineError; `path` is never
    half-written.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.rename(temporary, path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        free_mb = shutil.disk_usage(_existing(path.parent)).free // 2**20
        raise MachineError(
            f"cannot write {path}: {error}\n{free_mb:,} MB are free there; nothing older was touched"
        ) from None
    return digest


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def write_json(path: Path, record: dict) -> None:
    publish(path, lambda temporary: temporary.write_text(json.dumps(record, indent=1) + "\n"))


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict, keep: int) -> None:
    """One checkpoint: tensors, then its commit record holding `state`; then all but the newest `keep` go."""
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:08}.safetensors"
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    digest = publish(path, lambda temporary: save_file(tensors, temporary))
    record = {"step": step, "sha256": digest, "nbytes": path.stat().st_size, **state}
    write_json(path.with_suffix(".json"), record)
    for old in sorted(folder.glob("step-*.json"))[:-keep]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def latest(folder: Path) -> tuple[dict[str, Tensor], dict] | None:
    """(tensors, record) of the newest intact checkpoint; None where none was ever committed.

    Damaged ones are named and passed over. Raises CheckpointError if records exist and none is intact.
    """
    for leftover in folder.glob(".tmp-*"):
        leftover.unlink()
    records = sorted(folder.glob("step-*.json"), reverse=True)
    for path in records:
        try:
            return _read(path)
        except CheckpointError as error:
            say(f"warning: {error}; trying the one before")
    if records:
        raise CheckpointError(f"no checkpoint in {folder} is intact; delete the folder to start afresh, knowingly")
    return None


def verify(folder: Path) -> list[int]:
    """The steps of all checkpoints, each read and found intact. Raises CheckpointError naming the first that is not."""
    return [_read(path)[1]["step"] for path in sorted(folder.glob("step-*.json"))]


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    tensors_path = path.with_suffix(".safetensors")
    try:
        record = json.loads(path.read_bytes())
        if tensors_path.stat().st_size != record["nbytes"]:
            raise CheckpointError(f"{tensors_path} is {tensors_path.stat().st_size:,} bytes, not {record['nbytes']:,}")
        with open(tensors_path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != record["sha256"]:
                raise CheckpointError(f"{tensors_path} is damaged (its sha256 differs)")
        if path.stem != f"step-{record['step']:08}":
            raise CheckpointError(f"{path} is the record of step {record['step']}")
        return load_file(tensors_path), record
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read ({error})") from None


def save_model(path: Path, tensors: dict[str, Tensor], passport: dict) -> None:
    """model.safetensors: weights, mean image and, as metadata, the passport (spec, classes, preprocessing,
    accuracy).
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    metadata = {"alexnet": json.dumps(passport)}  # one entry: safetensors writes several in a random order
    publish(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_model(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, passport) of a model file. Raises CheckpointError for anything that is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            passport = json.loads((file.metadata() or {}).get("alexnet", "{}"))
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable model file ({error})") from None
    missing = {"spec", "classes", "preprocessing"} - set(passport)
    if missing:
        raise CheckpointError(f"{path} carries no {', '.join(sorted(missing))}: it was not written by alexnet train")
    if not all(torch.isfinite(t).all() for t in tensors.values()):
        raise CheckpointError(f"{path} holds weights that are not finite")
    return tensors, passport
