"""`alexnet convert`: weights of other tools to ours and back."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from alexnet import tables
from alexnet.cli.app import VERBS, Json, emit
from alexnet.log import say


@VERBS.command
def convert(
    source: Positional[Path],
    target: Positional[Path],
    /,
    names: Path | None = None,
    json: Json = False,
) -> None:
    """Weights of torchvision's AlexNet to a model file, or a model file to torchvision's weights. Nothing in them runs.

    Args:
        source: a run folder, a model file, or torchvision's weights (.pth, .pt or .safetensors).
        target: .safetensors for a model file, .pth or .pt for torchvision's state dict.
        names: a text file of class names, one per line, for weights that carry none; 0, 1, 2 ... if not given.
    """
    from alexnet import convert as conversion

    record = conversion.convert(source, target, names)
    for note in record["notes"]:
        say(f"note: {note}")
    rows = [(row["name"], " x ".join(map(str, row["shape"])), row["from"]) for row in record["tensors"]]
    text = f"{target}: {len(rows)} tensors for {record['classes']:,} classes, from {source}"
    emit(record, json, f"{tables.aligned([('name', 'shape', 'from'), *rows])}\n{text}")
