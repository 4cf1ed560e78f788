"""What a net of layer files consists of: one row per section, with its shape, its parameters and what it costs.

    rows = rows_of("layers-145.cfg", "layer-params-170.cfg")
    rows[2].name, rows[2].shape, rows[2].parameters             # "conv1a", (48, 55, 55), 17472

A section's neuron is part of its row, as in the file; a net knows it as NAME_neuron. Shapes are those of one picture.
Multiply-adds are those of convolutions and dense layers in one forward pass of one picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from alexnet.layerfile.build import LayerNet, build
from alexnet.layerfile.lex import read_sections
from alexnet.layerfile.records import Layer, Neuron, Schedule, Update
from alexnet.spec import LayerFile

CfgFile = str | Path | LayerFile


@dataclass(frozen=True)
class Row:
    """A section. `tower` is its `gpu=` ("" for data; "0,1" are two copies of one layer, in files of 2014); `shape` is
    empty for labels and costs; `weights` and `biases` say how it is trained.
    """

    name: str
    type: str
    detail: str  # e.g. "11x11 / 4"
    neuron: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    tower: str
    weights: tuple[Update, ...] = ()
    biases: Update | None = None


def rows_of(
    layers: CfgFile, params: CfgFile | None = None, *, classes: int | None = None, size_px: int | None = None
) -> list[Row]:
    """The rows of a definition file, in its order. Raises UsageError as `build` does."""
    with torch.device("meta"):
        net = build(layers, params, classes=classes, size_px=size_px)
    gpus = {name: settings.get("gpu", "").replace(" ", "") for name, settings in read_sections(layers).items()}
    towers: dict[str, str] = {}
    rows = []
    for layer in net.records:
        if layer.name in gpus:  # else the neuron that a section brought with it
            inputs = tuple(name if name in gpus else net.by_name[name].inputs[0] for name in layer.inputs)
            first = next((towers[name] for name in inputs if towers[name]), "0")
            towers[layer.name] = "" if layer.type == "data" else gpus[layer.name] or first
            rows.append(_row(net, layer, inputs, towers[layer.name]))
    return rows


def _row(net: LayerNet, layer: Layer, inputs: tuple[str, ...], tower: str) -> Row:
    weights, total = [], 0
    if layer.bias_update is not None:
        module = net.module(layer.name)
        weights = [w.numel() for i, w in enumerate(module.weights) if (layer.name, i) not in net.borrowed]
        total = sum(w.numel() for w in module.weights)
        weights += [w.numel() for w in (module.bias, *getattr(module, "nodes", ()))]
    shape = net.shapes[layer.name] or ()
    applied = total * prod(shape[1:]) if layer.type == "conv" else total
    neuron = _neuron(layer.neuron) if layer.neuron and not layer.type.startswith("cost.") else ""
    described = (layer.name, layer.type, _detail(layer), neuron, inputs, shape)
    return Row(*described, sum(weights), applied, tower, layer.weight_updates, layer.bias_update)


def _neuron(neuron: Neuron) -> str:
    numbers = ",".join(f"{number:g}" for number in neuron.numbers)
    return f"{neuron.kind}[{numbers}]" if numbers else neuron.kind


def _detail(layer: Layer) -> str:
    """The numbers that make a layer what it is."""
    o = layer.options
    if layer.type in ("conv", "local"):
        each = zip(o["filtersize"], o["stride"], o["groups"], o["randsparse"], strict=True)
        texts = [
            f"{size}x{size}{f' / {stride}' if stride > 1 else ''}{f', {n} groups' if n > 1 else ''}{' random' * sparse}"
            for size, stride, n, sparse in each
        ]
        return " + ".join(texts) if len(set(texts)) > 1 else texts[0]
    if layer.type == "pool":
        return f"{o['pool']} {o['sizex']}x{o['sizex']} / {o['stride']}"
    if layer.type in ("cmrnorm", "rnorm", "cnorm"):
        return f"over {o['size']}" if layer.type == "cmrnorm" else f"{o['size']}x{o['size']}"
    if layer.type in ("hs", "dropout", "dropout2"):
        return f"keep {o['keep']:g}" if layer.params["enable"] else "off"
    if layer.type in ("blur", "nailbed"):
        return f"{o['filtersize']} taps" if layer.type == "blur" else f"/ {o['stride']}"
    return ""


def table(rows: list[Row], rates: bool) -> list[tuple[str, ...]]:
    """The rows as cells, heading first and totals last; `rates` adds those of weights and biases."""
    cells = [("layer", "type", "", "inputs", "output", "parameters", "multiply-adds", "gpu")]
    for row in rows:
        kind = f"{row.type} {row.neuron}" if row.neuron else row.type
        numbers = [f"{n:,}" if n else "" for n in (row.parameters, row.multiply_adds)]
        shape = " x ".join(map(str, row.shape))
        cells.append((row.name, kind, row.detail, ", ".join(row.inputs), shape, *numbers, row.tower))
    totals = (f"{sum(row.parameters for row in rows):,}", f"{sum(row.multiply_adds for row in rows):,}")
    cells.append(("total", "", "", "", "", *totals, ""))
    wide = [max(len(cell[i]) for cell in cells) for i in (5, 6)]
    cells = [(*cell[:5], cell[5].rjust(wide[0]), cell[6].rjust(wide[1]), cell[7]) for cell in cells]
    if not rates:
        return cells
    extra = [("weights' rate", "biases' rate"), *((_rates(row.weights), _rates(row.biases)) for row in rows), ("", "")]
    return [(*cell, *more) for cell, more in zip(cells, extra, strict=True)]


def _rates(updates: tuple[Update, ...] | Update | None) -> str:
    """The rates of a layer's matrices, said once where they are one."""
    texts = [said(u.schedule) for u in (updates if isinstance(updates, tuple) else (updates,)) if u is not None]
    return ", ".join(texts if len(set(texts)) > 1 else texts[:1])


def said(schedule: Schedule) -> str:
    """A rate over a run in words: `0.01 dexp / 250 in 4`."""
    if schedule.base <= 0:
        return "frozen"
    text = f"{schedule.base:g}"
    if schedule.kind != "const" and schedule.factor != 1:
        text += f" {schedule.kind} / {schedule.factor:g}"
        text += f" in {schedule.steps}" if schedule.kind in ("dexp", "jdexp") else ""
    return text + (f", noise {schedule.noise:g}" if schedule.noise else "")


def record(rows: list[Row], rates: bool) -> dict:
    """The rows for programs."""
    return {
        "layers": [_record(row, rates) for row in rows],
        "parameters": sum(row.parameters for row in rows),
        "multiply_adds": sum(row.multiply_adds for row in rows),
    }


def _record(row: Row, rates: bool) -> dict:
    keys = ("name", "type", "detail", "neuron", "inputs", "shape", "parameters", "multiply_adds", "tower")
    values = {key: getattr(row, key) for key in keys}
    if not rates:
        return values
    biases = None if row.biases is None else _update(row.biases)
    return {**values, "weights": [_update(update) for update in row.weights], "biases": biases}


def _update(update: Update) -> dict:
    s = update.schedule
    return {
        **{"rate": s.base, "schedule": s.kind, "factor": s.factor, "steps": s.steps, "noise": s.noise},
        **{"momentum": update.momentum, "decay": update.decay},
    }


def schedules(rows: list[Row]) -> dict[tuple[str, Schedule], list[str]]:
    """{("weights" or "biases", schedule): the layers that have it}, in the net's order."""
    alike: dict[tuple[str, Schedule], list[str]] = {}
    for row in rows:
        for schedule in dict.fromkeys(update.schedule for update in row.weights):
            alike.setdefault(("weights", schedule), []).append(row.name)
        if row.biases is not None:
            alike.setdefault(("biases", row.biases.schedule), []).append(row.name)
    return alike
