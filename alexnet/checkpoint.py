"""Checkpoints that are either whole or absent, and the model file a finished run leaves.

`checkpoints/step-00000074.safetensors` holds weights and velocities; `step-00000074.json`, written last, is its commit
record: size, sha256 and everything else a run needs to go on, with a checksum of its own. A file without a record
never counts. The newest intact one is found by looking, not by a pointer; if there are records and none is intact, the
run stops. Old ones go only when as many newer ones as are to be kept have been read and found intact.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from alexnet.errors import CheckpointError, MachineError, UsageError
from alexnet.log import say


@contextmanager
def locked(run: Path):
    """Holds the run folder for this process, and clears it of what a killed one left half-written. Raises UsageError
    if another one has it.
    """
    with open(run / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{run} is in use by another process; wait for it or give another --run") from None
        for name in ("run.json", "model.safetensors"):
            _remove(_room(run / name))
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

    The temporary path lies in a folder of its own: safetensors writes beside the name it is given, under another one,
    which a kill would leave there for ever.
    """
    room = _room(path)
    temporary = room / path.name
    try:
        _remove(room)
        room.mkdir()
        write(temporary)
        os.chmod(temporary, room.stat().st_mode & 0o666)  # what a new file gets here; safetensors' own is for one user
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.rename(temporary, path)
        sync_folder(path.parent)
        _remove(room)
    except (OSError, SafetensorError) as error:
        _remove(room)
        free_mb = shutil.disk_usage(_existing(path.parent)).free // 2**20
        raise MachineError(
            f"cannot write {path}: {error}\n{free_mb:,} MB are free there; nothing older was touched"
        ) from None
    return digest


def _room(path: Path) -> Path:
    return path.with_name(f".tmp-{path.name}")


def _remove(path: Path) -> None:
    """A file or a folder with all that is in it, as far as it can be."""
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Removes what `publish` was at when it was killed, and tensors whose record was just removed when it was."""
    for leftover in folder.glob(".tmp-*"):
        _remove(leftover)
    committed = sorted(path.stem for path in folder.glob("step-*.json"))
    for tensors in folder.glob("step-*.safetensors"):
        if committed and tensors.stem < committed[0]:
            _remove(tensors)


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def write_json(path: Path, record: dict) -> None:
    publish(path, lambda temporary: temporary.write_text(_text(record)))


def _text(record: dict) -> str:
    return json.dumps(record, indent=1) + "\n"


def _signed(record: dict) -> dict:
    """The record with a checksum of its text."""
    return {**record, "checksum": hashlib.sha256(_text(record).encode()).hexdigest()}


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict, keep: int) -> None:
    """One checkpoint: tensors, its commit record holding `state`; then all but the newest `keep` intact ones go."""
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:08}.safetensors"
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    digest = publish(path, lambda temporary: save_file(tensors, temporary))
    record = {"step": step, "sha256": digest, "nbytes": path.stat().st_size, **state}
    write_json(path.with_suffix(".json"), _signed(record))
    _retain(folder, keep, path.stem)


def _retain(folder: Path, keep: int, saved: str) -> None:
    """Damaged ones never count, nor do tensors without a record; `saved` was read back when it was written."""
    kept: set[str] = set()
    for record in sorted(folder.glob("step-*.json"), reverse=True):
        if len(kept) < keep and (record.stem == saved or _is_intact(record)):
            kept.add(record.stem)
    for old in sorted(folder.glob("step-*")):  # each record before its tensors
        if old.stem not in kept:
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def _is_intact(path: Path) -> bool:
    try:
        return bool(_checked(path))
    except CheckpointError:
        return False


def latest(folder: Path) -> tuple[dict[str, Tensor], dict] | None:
    """(tensors, record) of the newest intact checkpoint; None where none was ever committed.

    Damaged ones are named and passed over. Raises CheckpointError if records exist and none is intact.
    """
    _clear(folder)
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
    record = _checked(path)
    try:
        return load_file(path.with_suffix(".safetensors")), record
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.with_suffix('.safetensors')} cannot be read ({error})") from None


def _checked(path: Path) -> dict:
    """The record at `path`, if it and its tensors are to the byte what was written. Raises CheckpointError."""
    tensors_path = path.with_suffix(".safetensors")
    try:
        text = path.read_text()
        record = json.loads(text)
        record.pop("checksum")
        if _text(_signed(record)) != text or path.stem != f"step-{record['step']:08}":
            raise CheckpointError(f"{path} was changed after it was written")
        if tensors_path.stat().st_size != record["nbytes"]:
            raise CheckpointError(f"{tensors_path} is {tensors_path.stat().st_size:,} bytes, not {record['nbytes']:,}")
        with open(tensors_path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != record["sha256"]:
                raise CheckpointError(f"{tensors_path} is damaged (its sha256 differs)")
        return record
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from None


def save_model(path: Path, tensors: dict[str, Tensor], passport: dict) -> None:
    """model.safetensors: weights, mean image and, as metadata, the passport (spec, classes, preprocessing,
    accuracy), with a sha256 of all of it.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    passport = {**passport, "sha256": _model_sha256(tensors, passport)}
    metadata = {"alexnet": json.dumps(passport)}  # one entry: safetensors writes several in a random order
    publish(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_model(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, passport) of a model file. Raises CheckpointError for anything that is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            passport = json.loads((file.metadata() or {}).get("alexnet", "{}"))
        tensors = load_file(path)
        missing = {"spec", "classes", "preprocessing"} - set(passport)
        digest = None if missing else passport.pop("sha256", None)
    except (OSError, ValueError, SafetensorError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a readable model file ({error})") from None
    if missing:
        raise CheckpointError(f"{path} carries no {', '.join(sorted(missing))}: it was not written by alexnet train")
    if digest is not None and digest != _model_sha256(tensors, passport):
        raise CheckpointError(f"{path} is damaged (its sha256 differs)")
    if not all(torch.isfinite(t).all() for t in tensors.values()):
        raise CheckpointError(f"{path} holds weights that are not finite")
    return tensors, passport


def _model_sha256(tensors: dict[str, Tensor], passport: dict) -> str:
    """A hash of every tensor's name, kind, shape and bytes, and of the passport's text."""
    digest = hashlib.sha256(json.dumps(passport).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
