"""Weights of other tools to a model file, and a model file to what other tools read. Nothing in a foreign file runs.

    convert(Path("alexnet-owt.pth"), Path("model.safetensors"))             torchvision's state dict to ours
    convert(Path("bvlc_alexnet.caffemodel"), Path("model.safetensors"), mean=Path("imagenet_mean.binaryproto"))
    convert(Path("runs/torchvision"), Path("alexnet.pth"))                  ours to torchvision's
    convert(Path("runs/as_run"), Path("net.onnx"), pixels="square")         ours to ONNX, pixels in, logits out
    convert(Path("runs/as_run"), Path("net.pt2"))                           ours to a program of torch.export

The suffix says what a file is. `weights/` has one file per format; here is what they share: names of classes, the
passport, files that are whole or absent.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alexnet import checkpoint, runs
from alexnet import spec as spec_module
from alexnet.data.augment import Preprocessing
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.extract import Extractor
from alexnet.net import AlexNet
from alexnet.predict import model_path
from alexnet.spec import FileNetSpec, NetSpec
from alexnet.weights import caffe, torchvision
from alexnet.weights.torchfile import first_line

TARGETS = {
    **{".safetensors": "alexnet", ".pth": "torchvision", ".pt": "torchvision"},
    **{".onnx": "onnx", ".pt2": "torch.export"},
}
PIXELS = ("square", "crop")


@dataclass
class Model:
    """A net's weights under our names, its mean image (S, S, 3), its passport, and where each tensor came from."""

    weights: dict[str, Tensor]
    mean: Tensor
    passport: dict
    origin: dict[str, str]
    notes: list[str] = field(default_factory=list)


def convert(
    source: Path, target: Path, names: Path | None = None, *, mean: Path | None = None, pixels: str | None = None
) -> dict:
    """Reads a model file, a run folder, torchvision's weights (.pth, .pt, .safetensors) or Caffe's (.caffemodel) and
    writes TARGET: .safetensors is a model file, .pth or .pt torchvision's state dict, .onnx a graph, .pt2 a program
    of torch.export.

    `names` is a text file with one class name per line for weights that carry none; `mean` the mean file that belongs
    to a .caffemodel; `pixels` puts the preprocessing into an ONNX graph, which then takes uint8 pixels of the "square"
    or of a "crop". Returns {"source", "target", "format", "classes", "tensors": [{"name", "shape", "from"}], "notes"}.
    Raises UsageError for a target that cannot be, CheckpointError for a source that is not what it should be.
    """
    source, target = Path(source), Path(target)
    _check_target(source, target, pixels)
    model, kind = read(source, names, mean), TARGETS[target.suffix]
    if kind == "alexnet":
        rows = _write_ours(model, target)
    else:
        net, prep = understood(model)
        if kind == "torchvision":
            rows = _write_torchvision(model, net, prep, target)
        else:
            write = _write_onnx if kind == "onnx" else _write_program
            write(model, _filled(net, model.weights), prep, target, pixels)
            rows = [_row(name, tensor, model.origin[name]) for name, tensor in model.weights.items()]
    record = {"source": str(source), "target": str(target), "format": kind}
    return {**record, "classes": len(model.passport["classes"]), "tensors": rows, "notes": model.notes}


def _check_target(source: Path, target: Path, pixels: str | None) -> None:
    if target.suffix not in TARGETS:
        raise UsageError(f"{target}: name a {', '.join(TARGETS)} file; the suffix says what is written")
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"{target} is a folder" if target.is_dir() else f"there is no folder {target.parent}")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target} is the source itself; name another file")
    if pixels is not None and (pixels not in PIXELS or target.suffix != ".onnx"):
        raise UsageError(f"preprocessing {pixels!r}: {' or '.join(PIXELS)}, and only into an .onnx file")
    if target.suffix == ".onnx" and find_spec("onnx") is None:
        raise UsageError("writing .onnx needs the package onnx: pip install 'alexnet[onnx]'")


def read(source: Path, names: Path | None = None, mean: Path | None = None) -> Model:
    """The model of a model file, of a run folder or of another tool's weights. Raises CheckpointError."""
    is_caffe = source.suffix == ".caffemodel"
    if mean is not None and not is_caffe:
        raise UsageError(f"{mean}: a mean file belongs to a .caffemodel; leave it out")
    if source.exists() and not source.is_file() and not source.is_dir():
        raise CheckpointError(f"{source} is no file")
    if not source.is_file() or (not is_caffe and _is_ours(source)):
        return _ours(source, names)
    foreign = caffe.read(source, mean) if is_caffe else torchvision.read(source)
    classes = _class_names(names, foreign.spec.net.classes)
    data = SimpleNamespace(classes=classes, fingerprint=None)  # trained elsewhere, on unknown data
    passport = runs.passport(foreign.spec, None, data, foreign.prep, accuracy=None)
    return Model(foreign.weights, torch.from_numpy(foreign.prep.mean), passport, foreign.origin, foreign.notes)


def _ours(source: Path, names: Path | None) -> Model:
    tensors, passport = checkpoint.load_model(model_path(source))
    if names is not None:
        raise UsageError(f"{source} carries its own class names; leave {names} out")
    if "preprocessing.mean" not in tensors:
        raise CheckpointError(f"{source} carries no mean image: it was not written by alexnet train")
    mean = tensors.pop("preprocessing.mean")
    return Model(tensors, mean, passport, {name: name for name in tensors})


def _is_ours(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return "alexnet" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


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


def understood(model: Model) -> tuple[NetSpec, Preprocessing]:
    """What the passport says of the net and of how it sees. Raises CheckpointError, for layer files too."""
    try:
        net = spec_module.from_dict(model.passport["spec"]["net"], NetSpec | FileNetSpec)
        numbers = model.passport["preprocessing"]
        arrays = [np.array(numbers[name], np.float64) for name in ("stds", "colour_stds", "colour_axes")]
        prep = Preprocessing(numbers["size_px"], net.crop_px, model.mean.numpy(), *arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the model's passport is not of this version: {first_line(error)}") from None
    if isinstance(net, FileNetSpec):
        raise CheckpointError("this net is of layer files; only nets of presets become another tool's")
    return net, prep


def _write_ours(model: Model, target: Path) -> list[dict]:
    checkpoint.save_model(target, {**model.weights, "preprocessing.mean": model.mean}, model.passport)
    return [_row(name, tensor, model.origin[name]) for name, tensor in model.weights.items()]


def _write_torchvision(model: Model, net: NetSpec, prep: Preprocessing, target: Path) -> list[dict]:
    state = torchvision.state_of(net, model.weights)

    def save(temporary: Path) -> None:
        try:
            with open(temporary, "wb") as file:
                torch.save({name: tensor.clone() for name, tensor in state.items()}, file)
        except RuntimeError as error:  # what torch's writer makes of a full disk
            raise OSError(first_line(error)) from None

    checkpoint.publish(target, save)
    model.notes.append(torchvision.how_to_feed(prep.mean, prep.stds))
    own_names = torchvision.from_torchvision(state)
    return [_row(name, state[name], model.origin[own]) for name, own in zip(state, own_names, strict=True)]


def _filled(net_spec: NetSpec, weights: dict[str, Tensor]) -> AlexNet:
    """The net in inference, with these very tensors."""
    with torch.device("meta"):
        net = AlexNet(net_spec).eval()
    try:
        net.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the model's passport: {first_line(error)}") from None
    return net.requires_grad_(False)


def _write_onnx(model: Model, net: AlexNet, prep: Preprocessing, target: Path, pixels: str | None) -> None:
    """The graph, if onnxruntime answers with it as the net does."""
    from alexnet.weights import onnx

    facts = {"classes": model.passport["classes"], "spec": model.passport["spec"]}
    graph = onnx.model(net, prep, pixels, facts).SerializeToString()
    if find_spec("onnxruntime"):
        same = onnx.difference(graph, net, prep, pixels)
        model.notes.append(f"onnxruntime gives the same logits, to {same:.0e} of the largest")
    else:
        model.notes.append("not tried: onnxruntime is not installed")
    checkpoint.publish(target, lambda temporary: temporary.write_bytes(graph))
    model.notes.append(onnx.how_to_feed(prep, pixels))


def _write_program(model: Model, net: AlexNet, prep: Preprocessing, target: Path, pixels: None) -> None:
    """Squares in, logits out, for any number of pictures, as torch.export records it."""
    side = prep.size_px
    batch = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(Extractor(net, prep, "fc8"), (torch.zeros(2, 3, side, side),), dynamic_shapes=batch)

    whole = io.BytesIO()  # on a full disk PyTorch's writer would end the process
    torch.export.save(program, whole)
    checkpoint.publish(target, lambda temporary: temporary.write_bytes(whole.getbuffer()))
    model.notes.append(
        f"torch.export.load({target.name!r}).module() takes float32 (N, 3, {side}, {side}), red, green, blue, "
        "grey levels 0-255; the mean is subtracted inside"
    )


def _row(name: str, tensor: Tensor, origin: str) -> dict:
    return {"name": name, "shape": list(tensor.shape), "from": origin}
