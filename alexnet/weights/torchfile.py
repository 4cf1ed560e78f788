"""Files of tensors, read as data: .safetensors, and the zip that torch.save writes.

A .pth or .pt is a zip around a pickle, and a pickle is a program. Before torch's own data-only reader sees it, every
member must be stored as it is, intact and within MAX_NBYTES, and the pickle may name nothing but tensors and
dictionaries. There is no switch that turns this off.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from alexnet.errors import CheckpointError

MAX_NBYTES = 1 << 30  # AlexNet in float64 is 0.5 GB
MAX_MEMBERS = 1000
MAX_PICKLE_NBYTES = 1 << 20
STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Bool")  # whole numbers: counters beside the weights
HARMLESS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
HARMLESS |= {f"torch {kind}Storage" for kind in STORAGES}


def tensors_of(path: Path) -> dict:
    """What a file of weights holds, read as data. Raises CheckpointError saying what the file is instead."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            if head.startswith(b"PK\x03\x04"):
                return _read_zip(file, path)
        if head[8:9] == b"{":
            if path.stat().st_size > MAX_NBYTES:
                raise CheckpointError(f"{path} is {path.stat().st_size:,} bytes; AlexNet's weights are fewer")
            return load_file(path)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)})") from None
    raise CheckpointError(f"{path} {_what_it_is(head)}")


def _what_it_is(head: bytes) -> str:
    text = head.lstrip().lower()
    if not head:
        return "is empty; get it again"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights themselves; fetch them with: git lfs pull"
    if text.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not weights; the download gave an error or a login page"
    if head.startswith(b"\x80"):
        return (
            "is a bare pickle (an old torch file or another program's), which may run code; it is not read.\n"
            "Ask for it as .safetensors, or as saved by PyTorch 1.6 or later"
        )
    return "is no file of weights: a .safetensors, or a .pth or .pt of torch.save"


def _read_zip(file: BinaryIO, path: Path) -> dict:
    """torch.load of a zip that was found harmless. Whatever goes wrong in a foreign file is the file's fault."""
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive, path)
            _check_pickle(archive, path)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # damaged pickles raise anything, from UnpicklingError to IndexError
        raise CheckpointError(
            f"{path} is damaged or holds more than weights ({type(error).__name__}: {first_line(error)})"
        ) from None


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    """Sizes and packing as the directory tells them, before a byte is unpacked; then every checksum."""
    members = archive.infolist()
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size]
    if packed:
        raise CheckpointError(f"{path}: {packed[0]!r} is compressed, which torch.save never does; it is not unpacked")
    nbytes = sum(member.file_size for member in members)
    if nbytes > min(MAX_NBYTES, path.stat().st_size) or len(members) > MAX_MEMBERS:
        raise CheckpointError(f"{path} says it holds {nbytes:,} bytes in {len(members):,} parts: not AlexNet's weights")
    if len({member.filename for member in members}) < len(members):
        raise CheckpointError(f"{path} holds two parts of the same name; torch.save never does that")
    if (damaged := archive.testzip()) is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged!r} differs; get it again")


def _check_pickle(archive: zipfile.ZipFile, path: Path) -> None:
    """Reads the pickle's instructions without following them: which names would it look up?"""
    pickles = [name for name in archive.namelist() if name.lower().endswith(".pkl")]  # as torch finds them
    if len(pickles) != 1 or pickles[0].rpartition("/")[2] != "data.pkl":
        raise CheckpointError(f"{path} holds no data.pkl alone: it is a program (TorchScript) or not torch.save's")
    if archive.getinfo(pickles[0]).file_size > MAX_PICKLE_NBYTES:
        raise CheckpointError(f"{path} holds far more than AlexNet's weights; save its state_dict() alone")
    for code, argument, _ in pickletools.genops(archive.read(pickles[0])):
        wanted = argument if code.name in ("GLOBAL", "INST") else code.name
        if code.name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4") and wanted not in HARMLESS:
            what = str(wanted).replace(" ", ".")
            raise CheckpointError(f"{path} asks for {what!r}, which weights do not need; nothing in it was run")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:160]
