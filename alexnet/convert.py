"""Weights of other tools to a model file, and back: what a file holds is read as data, and nothing in it ever runs.

    convert(Path("alexnet-owt.pth"), Path("model.safetensors"))     torchvision's state dict to ours
    convert(Path("runs/torchvision"), Path("alexnet.pth"))          ours to torchvision's

A .pth or .pt is a zip around a pickle, and a pickle is a program. Before torch's own data-only reader sees it, every
member must be stored as it is, intact and within MAX_NBYTES, and the pickle may name nothing but tensors and
dictionaries. There is no switch that turns this off.
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from alexnet import checkpoint, presets, runs
from alexnet import spec as spec_module
from alexnet.data.augment import Preprocessing
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.predict import model_path
from alexnet.spec import ConvSpec, DenseSpec, NetSpec
from alexnet.weights.torchvision import from_torchvision, to_torchvision

MAX_NBYTES = 1 << 30  # AlexNet in float64 is 0.5 GB
MAX_MEMBERS = 1000
MAX_PICKLE_NBYTES = 1 << 20
SIZE_PX = 256  # torchvision's crops are cut from these
CHANNEL_MEANS = tuple(255 * x for x in (0.485, 0.456, 0.406))  # ImageNet's, in grey levels
CHANNEL_STDS = tuple(255 * x for x in (0.229, 0.224, 0.225))
TARGETS = {".safetensors": "alexnet", ".pth": "torchvision", ".pt": "torchvision"}
DTYPES = {torch.float32, torch.float16, torch.bfloat16, torch.float64}
STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Bool")  # whole numbers: counters beside the weights
HARMLESS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
HARMLESS |= {f"torch {kind}Storage" for kind in STORAGES}


@dataclass
class Model:
    """A net's weights under our names, its mean image (S, S, 3), its passport, and where each tensor came from."""

    weights: dict[str, Tensor]
    mean: Tensor
    passport: dict
    origin: dict[str, str]
    notes: list[str] = field(default_factory=list)


def convert(source: Path, target: Path, names: Path | None = None) -> dict:
    """Reads a model file, a run folder or torchvision's AlexNet weights (.pth, .pt, .safetensors) and writes TARGET:
    .safetensors is a model file, .pth or .pt torchvision's state dict.

    `names` is a text file with one class name per line for weights that carry none. Returns {"source", "target",
    "format", "classes", "tensors": [{"name", "shape", "from"}], "notes"}. Raises UsageError for a target that cannot
    be, CheckpointError for a source that is not what it should be.
    """
    source, target = Path(source), Path(target)
    if target.suffix not in TARGETS:
        raise UsageError(f"{target}: name a {', '.join(TARGETS)} file; the suffix says what is written")
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"{target} is a folder" if target.is_dir() else f"there is no folder {target.parent}")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target} is the source itself; name another file")
    model = read(source, names)
    rows = _write_torchvision(model, target) if TARGETS[target.suffix] == "torchvision" else _write_ours(model, target)
    record = {"source": str(source), "target": str(target), "format": TARGETS[target.suffix]}
    return {**record, "classes": len(model.passport["classes"]), "tensors": rows, "notes": model.notes}


def read(source: Path, names: Path | None = None) -> Model:
    """The model of a model file, of a run folder or of torchvision's weights. Raises CheckpointError."""
    if not source.is_file() or _is_ours(source):
        tensors, passport = checkpoint.load_model(model_path(source))
        if names is not None:
            raise UsageError(f"{source} carries its own class names; leave {names} out")
        if "preprocessing.mean" not in tensors:
            raise CheckpointError(f"{source} carries no mean image: it was not written by alexnet train")
        mean = tensors.pop("preprocessing.mean")
        return Model(tensors, mean, passport, {name: name for name in tensors})
    notes: list[str] = []
    weights = from_torchvision(_as_float32(_unwrapped(tensors_of(source), source, notes), source, notes))
    origin = dict(zip(weights, to_torchvision(weights), strict=True))
    count = len(weights["fc8.bias"])
    prep, passport = _torchvision_passport(count, _class_names(names, count), notes)
    return Model(weights, torch.from_numpy(prep.mean), passport, origin, notes)


def _is_ours(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return "alexnet" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


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
        raise CheckpointError(f"{path} cannot be read ({_first_line(error)})") from None
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
            f"{path} is damaged or holds more than weights ({type(error).__name__}: {_first_line(error)})"
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
    pickles = [name for name in archive.namelist() if name.endswith(".pkl")]
    if len(pickles) != 1 or pickles[0].rpartition("/")[2] != "data.pkl":
        raise CheckpointError(f"{path} holds no data.pkl alone: it is a program (TorchScript) or not torch.save's")
    if archive.getinfo(pickles[0]).file_size > MAX_PICKLE_NBYTES:
        raise CheckpointError(f"{path} holds far more than AlexNet's weights; save its state_dict() alone")
    for code, argument, _ in pickletools.genops(archive.read(pickles[0])):
        wanted = argument if code.name in ("GLOBAL", "INST") else code.name
        if code.name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4") and wanted not in HARMLESS:
            what = str(wanted).replace(" ", ".")
            raise CheckpointError(f"{path} asks for {what!r}, which weights do not need; nothing in it was run")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:160]


def _unwrapped(content: object, path: Path, notes: list[str]) -> dict[str, Tensor]:
    """The state dict, out of a training checkpoint's "state_dict" and without DataParallel's "module."."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        notes.append(f"took 'state_dict' and left the rest: {', '.join(str(k) for k in content if k != 'state_dict')}")
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    state = {str(name).replace("module.", ""): value for name, value in content.items()}
    if len(state) < len(content):
        raise CheckpointError(f"{path} holds the same tensor with and without 'module.'; keep one of them")
    if list(state) != list(content):
        notes.append("removed 'module.' from the names (a net saved inside DataParallel)")
    return state


def _as_float32(state: dict, path: Path, notes: list[str]) -> dict[str, Tensor]:
    """Checked before they are touched: a tensor can claim a shape far larger than its bytes."""
    foreign = [name for name, t in state.items() if not isinstance(t, Tensor) or t.dtype not in DTYPES]
    tensors = {name: t for name, t in state.items() if name not in foreign}
    if sum(t.numel() * t.element_size() for t in tensors.values()) > MAX_NBYTES:
        raise CheckpointError(f"{path} holds tensors larger than AlexNet's")
    from_torchvision(state)  # names and shapes, before the first copy
    if foreign:
        value = state[foreign[0]]
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(f"{path}: {foreign[0]} is {kind}; weights are floating-point numbers")
    cast = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()} - {"float32"})
    if cast:
        notes.append(f"cast {' and '.join(cast)} to float32")
    tensors = {name: t.detach().to(torch.float32).contiguous() for name, t in tensors.items()}
    broken = [name for name, t in tensors.items() if not torch.isfinite(t).all()]
    if broken:
        raise CheckpointError(f"{path}: {broken[0]} holds values that are not finite, or beyond float32")
    return tensors


def _class_names(names: Path | None, count: int) -> list[str]:
    if names is None:
        return [str(i) for i in range(count)]
    try:
        lines = [line.strip() for line in Path(names).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{names} cannot be read as class names ({error})") from None
    if len(lines) != count or len(set(lines)) != count or "" in lines:
        raise DataError(f"{names} has {len(set(lines) - {''})} different names; these weights tell {count} classes")
    return lines


def _torchvision_passport(count: int, classes: list[str], notes: list[str]) -> tuple[Preprocessing, dict]:
    """How torchvision's nets see pictures, and the passport of a model that was trained elsewhere, on unknown data."""
    if count < 1:
        raise CheckpointError("classifier.6 has no outputs")
    spec = presets.torchvision(classes=count)
    mean = np.ascontiguousarray(np.broadcast_to(np.float32(CHANNEL_MEANS), (SIZE_PX, SIZE_PX, 3)))
    prep = Preprocessing(SIZE_PX, spec.net.crop_px, mean, np.array(CHANNEL_STDS), np.zeros(3), np.eye(3))
    notes.append("preprocessing is ImageNet's, as torchvision's own weights expect; the file itself carries none")
    data = SimpleNamespace(classes=classes, fingerprint=None)
    return prep, runs.passport(spec, None, data, prep, accuracy=None)


def _write_ours(model: Model, target: Path) -> list[dict]:
    checkpoint.save_model(target, {**model.weights, "preprocessing.mean": model.mean}, model.passport)
    return [_row(name, tensor, model.origin[name]) for name, tensor in model.weights.items()]


def _write_torchvision(model: Model, target: Path) -> list[dict]:
    try:
        differing = _differences(spec_module.from_dict(model.passport["spec"]["net"], NetSpec))
        note = _how_to_feed(model)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the model's passport is not of this version: {_first_line(error)}") from None
    if differing:
        raise CheckpointError(
            f"only nets of the torchvision preset fit torchvision's AlexNet; this one differs in {', '.join(differing)}"
        )
    state = to_torchvision(model.weights)

    def save(temporary: Path) -> None:
        try:
            with open(temporary, "wb") as file:
                torch.save({name: tensor.clone() for name, tensor in state.items()}, file)
        except RuntimeError as error:  # what torch's writer makes of a full disk
            raise OSError(_first_line(error)) from None

    checkpoint.publish(target, save)
    model.notes.append(note)
    own_names = from_torchvision(state)
    return [_row(name, state[name], model.origin[own]) for name, own in zip(state, own_names, strict=True)]


def _differences(net: NetSpec) -> list[str]:
    """Fields in which a net computes something else than torchvision's; how it began and its dropout rate are free."""
    like = presets.torchvision(classes=net.classes).net
    free = {name: getattr(like, name) for name in ("init", "fc8_sigma", "fc8_bias", "dropout")}
    alike = replace(net, **free, **({"talk": like.talk} if net.towers == 1 else {}))
    fields = {name: (getattr(alike, name), getattr(like, name)) for name in spec_module.to_dict(like)}
    return [name for name, (ours, theirs) in fields.items() if _without_start(ours) != _without_start(theirs)]


def _without_start(value):
    return replace(value, sigma=0.0, bias=0.0) if isinstance(value, ConvSpec | DenseSpec) else value


def _how_to_feed(model: Model) -> str:
    """torchvision's files carry no preprocessing, so say it, for pictures on [0, 1] as torchvision has them."""
    mean, stds = model.mean.double() / 255, [f"{std / 255:.4g}" for std in model.passport["preprocessing"]["stds"]]
    means = [f"{x:.4g}" for x in mean.mean((0, 1)).tolist()]
    flat = bool((mean == mean[0, 0]).all())
    rest = "" if flat else "; it was trained with a mean image, of which these are the averages"
    return f"for pictures on [0, 1]: Normalize(mean=({', '.join(means)}), std=({', '.join(stds)})){rest}"


def _row(name: str, tensor: Tensor, origin: str) -> dict:
    return {"name": name, "shape": list(tensor.shape), "from": origin}
