"""`alexnet convert`: weights of other tools to ours and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from alexnet import tables
from alexnet.cli.app import VERBS, Json, emit
from alexnet.log import say


@VERBS.command
def convert(
    source: Positional[Annotated[Path, arg(metavar="SOURCE")]],
    target: Positional[Annotated[Path, arg(metavar="TARGET")]],
    /,
    names: Path | None = None,
    mean: Path | None = None,
    with_preprocessing: Literal["square", "crop"] | None = None,
    json: Json = False,
) -> None:
    """Weights of torchvision's or Caffe's AlexNet to a model file; a model file to ONNX, torch.export or torchvision.

    Nothing in a foreign file runs.

    Args:
        source: a run folder, a model file, torchvision's weights (.pth, .pt or .safetensors) or a .caffemodel.
        target: .safetensors for a model file, .onnx, .pt2 for torch.export, .pth or .pt for torchvision's state dict.
        names: a text file of class names, one per line, for weights that carry none; 0, 1, 2 ... if not given.
        mean: the mean file of a .caffemodel, .binaryproto or .npy; ImageNet's channel means if not given.
        with_preprocessing: an ONNX graph that takes uint8 pixels (N, size, size, 3): of the square, or of a crop.
    """
    from alexnet import convert as conversion

    record = conversion.convert(source, target, names, mean=mean, pixels=with_preprocessing)
    for note in record["notes"]:
        say(f"note: {note}")
    rows = [(row["name"], " x ".join(map(str, row["shape"])), row["from"]) for row in record["tensors"]]
    text = f"{target}: {len(rows)} tensors for {record['classes']:,} classes, from {source}"
    emit(record, json, f"{tables.aligned([('name', 'shape', 'from'), *rows])}\n{text}")
