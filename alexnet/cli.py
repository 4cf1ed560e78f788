"""One function per verb: its signature and docstring are its help. Heavy imports stay inside the verbs.

With --json, standard output holds one JSON object and nothing else; progress and tables go to standard error.
"""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from alexnet import tables
from alexnet.errors import DataError, UsageError
from alexnet.log import say

VERBS = tyro.extras.SubcommandApp()
Settings = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="PART.FIELD=VALUE")]
Json = Annotated[bool, arg(help="One JSON object on standard output, nothing else.")]


def _emit(record, as_json: bool, table: str) -> None:
    """The result: a JSON object for programs, or a table for people."""
    print(json_module.dumps(record) if as_json else table, flush=True)


def _progress(word: str):
    """progress(done, total) that rewrites one line of a terminal, and stays silent elsewhere."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{word} {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


@VERBS.command
def pack(
    src: Positional[str],
    out: Positional[Path],
    /,
    size: int | None = None,
    val_fraction: float | None = None,
    encoding: Literal["jpeg", "raw"] | None = None,
    class_order: Literal["wnid", "devkit"] = "wnid",
    seed: int = 0,
    json: Json = False,
) -> None:
    """Pictures to a pack: decoded, cut to squares, stored with their statistics.

    Args:
        src: a folder (train/<class>/, val/<class>/, or <class>/), a CIFAR archive, a tar of either, a folder with the
            ILSVRC archives as downloaded, Parquet files with picture bytes, WebDataset tars, or `shapes`.
        out: the folder to make.
        size: side of the stored squares in pixels; 256, or the pictures' own size where all are small squares.
        val_fraction: share of the pictures kept for validation where SRC has no val folder.
        encoding: jpeg (quality 95), or raw bytes; small pictures are raw.
        class_order: of ILSVRC's classes: sorted WordNet ids, as most weights have it, or the devkit's ids.
        seed: of the order in which pictures are stored, and of the validation split.
    """
    from alexnet.data import pack as packs
    from alexnet.data.sources import open_source

    source = open_source(src, val_fraction, seed, class_order)
    meta = packs.pack(source, out, size_px=size, encoding=encoding, seed=seed, progress=_progress("packing"), say=say)
    counts = {split: sum(s["rows"] for s in meta["shards"] if s["split"] == split) for split in ("train", "val")}
    text = (
        f"{out}: {counts['train']:,} training and {counts['val']:,} validation pictures, {len(meta['classes'])} classes"
    )
    _emit({"path": str(out), **meta}, json, f"{text}, {meta['size_px']} px, {meta['encoding']}")


@VERBS.command
def train(
    data: Positional[str | None] = None,
    /,
    run: Path | None = None,
    preset: str = "as_run",
    epochs: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: Literal["auto", "fp32", "bf16"] | None = None,
    settings: Settings = (),
    json: Json = False,
) -> None:
    """Trains a net. The same command again goes on where it stopped, bit for bit.

    Args:
        data: a pack, or anything `alexnet pack` takes (packed once into a cache beside it); none: the built-in set.
        run: the run's folder; runs/<preset> if not given.
        preset: as_run, as_published, one_tower, caffe, owt2014, torchvision, modern, cifar_quick or cifar_11pct.
        epochs: passes over the training pictures.
        steps: updates, instead of epochs.
        batch: pictures per update (128).
        seed: of the initial weights, the order of pictures, crops, light and dropout.
        device: auto, cpu, cuda or cuda:N.
        precision: bf16 where the machine has it in hardware, else fp32.
        settings: any field of the spec, e.g. --set net.lrn.k=1 --set sgd.rate=0.005 --set run.checkpoint_every=50st.
    """
    from alexnet import spec as spec_module
    from alexnet import train as training
    from alexnet.data.pack import ensure_pack

    if epochs is not None and steps is not None:
        raise UsageError("give --epochs or --steps, not both")
    length = f"{epochs}ep" if epochs is not None else f"{steps}st" if steps is not None else None
    given = {"run.length": length, "run.batch": batch, "run.seed": seed, "run.device": device}
    options = [f"{name}={value}" for name, value in {**given, "run.precision": precision}.items() if value is not None]
    spec = spec_module.change(spec_module.preset(preset), [*options, *settings])  # what is wrong is told before packing
    small = data in (None, "shapes") and spec.net.crop_px <= 32
    opened = ensure_pack(data, size_px=32 if small else None, progress=_progress("packing"), say=say)
    spec = spec_module.change(spec_module.preset(preset, classes=len(opened.classes)), [*options, *settings])
    if spec.net.classes != len(opened.classes):
        raise UsageError(
            f"net.classes={spec.net.classes}, but the data has {len(opened.classes)} classes; leave it out"
        )
    run = run or Path("runs") / preset
    try:
        record = training.train(spec, opened, run)
    except training.Stopped as stopped:
        sys.exit(stopped.code)
    _emit({"run": str(run), **record}, json, tables.training(run, record))


@VERBS.command
def evaluate(
    runs: Positional[tuple[str, ...]],
    /,
    data: str | None = None,
    views: int = 1,
    weights: tuple[float, ...] = (),
    split: Literal["val", "train"] = "val",
    batch: int = 128,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    per_class: bool = False,
    json: Json = False,
) -> None:
    """Errors on the validation pictures, every picture counted once. Several runs are averaged as an ensemble.

    Args:
        runs: run folders or model files; a pack may stand last, as in `alexnet evaluate RUN DATA`.
        data: the pack, or anything `alexnet pack` takes; the run's own data if not given.
        views: 1 (centre) or 10 (corners, centre and their mirror images; softmax averaged).
        weights: of the runs in the average, one for each; equal if not given.
        split: val or train.
        per_class: also a table of errors by class.
    """
    from alexnet import verify as verifying

    paths, data = verifying.runs_and_data(runs, data)
    machine = {"device": device, "precision": precision, "batch": batch}
    result = verifying.measure(paths, data, views, split, weights, progress=_progress, **machine)
    classes = result.pop("classes")
    record = {**result, "split": split, "runs": [str(path) for path in paths]}
    _emit(
        {**record, **({"classes": classes} if per_class else {})},
        json,
        tables.errors(result, classes if per_class else []),
    )


@VERBS.command
def predict(
    run: Positional[str],
    files: Positional[tuple[str, ...]],
    /,
    views: int = 10,
    device: str = "auto",
    json: Json = False,
) -> None:
    """The five most probable classes of each picture.

    Args:
        run: a run folder or a model file.
        files: pictures, of any format `alexnet pack` takes.
        views: 1 (centre) or 10 (corners, centre and their mirror images).
    """
    if views not in (1, 10):
        raise UsageError(f"--views {views}: 1 or 10")
    if not files:
        raise UsageError("no pictures were named: alexnet predict RUN FILE...")
    from alexnet.predict import load

    predictor = load(run, device)
    answers, failures = [], []
    for file in files:
        try:
            answers.append({"file": file, "top5": predictor.top5(file, views)})
        except DataError as error:
            failures.append(error)
            say(f"error: {error}")
    lines = [
        f"{a['file']}\n" + "\n".join(f"  {100 * t['probability']:6.2f} %  {t['class']}" for t in a["top5"])
        for a in answers
    ]
    _emit(answers, json, "\n".join(lines))
    if failures:
        sys.exit(DataError.exit_code)


@VERBS.command
def features(
    run: Positional[str],
    data: Positional[str | None] = None,
    /,
    *,
    out: Path,
    layer: str | None = None,
    before: str | None = None,
    split: Literal["val", "train"] = "val",
    tower: Literal["a", "b"] | None = None,
    views: Literal[1, 10] = 1,
    dtype: Literal["float32", "float16"] = "float32",
    batch: int = 128,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    json: Json = False,
) -> None:
    """The outputs of one layer for every picture, streamed to a file.

    Args:
        run: a run folder or a model file.
        data: a pack, or anything `alexnet pack` takes; the run's own data if not given.
        out: .npy (keys and labels beside it, in OUT.keys.csv) or .parquet (key, label, class, features).
        layer: such as conv1 (the convolution's own output), relu1, pool5, fc7 or relu7.
        before: a layer, to take what goes into it; instead of --layer.
        split: val or train.
        tower: the first (a) or second (b) half of the maps or units of a net of two towers.
        views: 1 (centre), or the mean over 10 (corners, centre and their mirror images).
        dtype: float16 halves the file.
    """
    from alexnet import features as activations
    from alexnet import verify as verifying
    from alexnet.predict import load

    predictor = load(run, device, precision)
    pack = verifying.data_of(Path(run), predictor, data, _progress)
    options = {"split": split, "tower": tower, "before": before, "views": views, "dtype": dtype, "batch": batch}
    record = activations.write(predictor, pack, layer, out, **options, progress=_progress)
    shape = " x ".join(map(str, record["shape"]))
    _emit(record, json, f"{out}: {record['layer']} of {record['pictures']:,} pictures, {shape} {dtype} each")


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
    _emit(record, json, f"{tables.aligned([('name', 'shape', 'from'), *rows])}\n{text}")


@VERBS.command
def fidelity(net: Positional[str] = "as_run", /, settings: Settings = (), json: Json = False) -> None:
    """What this net does, detail by detail, beside the paper's text and the run behind its numbers.

    Args:
        net: a preset, or a run folder.
        settings: fields to change first, as for `alexnet train`.
    """
    from alexnet import fidelity as details
    from alexnet import spec as spec_module

    record = Path(net) / "run.json"
    if record.exists():
        spec = spec_module.from_dict(json_module.loads(record.read_text())["spec"])
    else:
        spec = spec_module.preset(net)
    rows = details.fidelity(spec_module.change(spec, settings))
    columns = ("detail", "paper", "as run", "here", "agrees with")
    cells = [columns, *((r.detail, r.paper, r.as_run, r.here, r.matches) for r in rows)]
    records = [dict(zip(("detail", "paper", "as_run", "here", "matches"), row, strict=True)) for row in cells[1:]]
    _emit({"net": net, "rows": records}, json, tables.aligned(cells))


@VERBS.command
def verify(path: Positional[Path], /, data: str | None = None, json: Json = False) -> None:
    """Is this pack, run or model file intact? A model's accuracy is measured again and must be what it says.

    Of a run that is not finished, the checkpoints are read and compared with their hashes.

    Args:
        path: a pack, a run folder or a model file.
        data: the data to measure on, where a model file is not in its run folder.
    """
    from alexnet import verify as verifying

    record = verifying.verify(path, data, _progress)
    if record["kind"] == "pack":
        text = f"intact, {record['images']:,} pictures in {record['shards']} shards"
    elif record["kind"] == "run":
        text = f"not finished; {record['checkpoints']} checkpoints are intact, the newest at step {record['step']:,}"
    else:
        text = f"measured {tables.errors(record, [])}, as it says"
    _emit(record, json, f"{path}: {text}")


@VERBS.command
def info(json: Json = False) -> None:
    """What was chosen on this machine, and why."""
    import torch

    from alexnet import __version__, machine
    from alexnet.kernels import lrn

    device, why_device = machine.device("auto")
    precision, why_precision = machine.precision("auto", device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    backend, why_backend = lrn.chosen(device, dtype)
    record = {"alexnet": __version__, **machine.versions(), "device": str(device), "device_reason": why_device}
    record |= {"precision": precision, "precision_reason": why_precision, "lrn": backend, "lrn_reason": why_backend}
    _emit(record, json, "\n".join(f"{name:17} {value}" for name, value in record.items()))


@VERBS.command
def bench(
    what: Positional[Literal["train", "lrn", "loader", "predict", "doctor", "all"]],
    data: Positional[str | None] = None,
    /,
    toy: bool = False,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """How fast, as ratios: ours, the peers and the physical limit, in turns in the same run.

    Args:
        what: a training step, the response norm, the loader, prediction, what limits a run (doctor), or all.
        data: a pack, or anything `alexnet pack` takes; none: the built-in set.
        toy: small sizes, to see that it runs.
        out: a file of JSON lines to append the rows to, such as results/speed.jsonl.
    """
    import importlib

    from alexnet.bench.turns import place

    names = ("train", "lrn", "loader", "predict", "doctor") if what == "all" else (what,)
    found = [importlib.import_module(f"alexnet.bench.{name}").rows(toy, data) for name in names]
    rows = [{**row, "toy": toy, **place()} for group in found for row in group]
    if out is not None:
        with open(out, "a") as file:
            file.writelines(json_module.dumps(row) + "\n" for row in rows)
    cells = [("what", "ours", "peers", "ratio", "more"), *map(tables.bench_row, rows)]
    _emit({"rows": rows}, json, tables.aligned(cells))
