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
    seed: int = 0,
    json: Json = False,
) -> None:
    """Pictures to a pack: decoded, cut to squares, stored with their statistics.

    Args:
        src: a folder (train/<class>/, val/<class>/, or <class>/), a CIFAR archive, a tar of either, or `shapes`.
        out: the folder to make.
        size: side of the stored squares in pixels; 256, or the pictures' own size where all are small squares.
        val_fraction: share of the pictures kept for validation where SRC has no val folder.
        encoding: jpeg (quality 95), or raw bytes; small pictures are raw.
        seed: of the order in which pictures are stored, and of the validation split.
    """
    from alexnet.data import pack as packs
    from alexnet.data.sources import open_source

    source = open_source(src, val_fraction, seed)
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
    _emit({"run": str(run), **record}, json, _train_table(run, record))


def _train_table(run: Path, record: dict) -> str:
    lines = [f"{run}: {record['step']:,} steps, {record['epoch']:g} epochs, training loss {record['train_loss']:.4f}"]
    if record["top1_error"] is not None:
        top1, top5 = 100 * (1 - record["top1_error"]), 100 * (1 - record["top5_error"])
        lines.append(f"validation accuracy {top1:.2f} % (top-5 {top5:.2f} %), one view")
    return "\n".join([*lines, f"next: alexnet evaluate {run} --views 10    alexnet predict {run} PICTURE"])


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
        _errors_table(result, classes if per_class else []),
    )


def _errors_table(result: dict, classes: list[dict]) -> str:
    views = "one view" if result["views"] == 1 else f"{result['views']} views"
    lines = [
        f"{result['images']:,} pictures, {views}: top-1 error {100 * result['top1_error']:.2f} %, "
        f"top-5 error {100 * result['top5_error']:.2f} %"
    ]
    width = max((len(row["class"]) for row in classes), default=0)
    for row in classes:
        error = "-" if row["top1_error"] is None else f"{100 * row['top1_error']:6.2f} %"
        lines.append(f"  {row['class']:{width}}  {row['images']:7,} pictures  top-1 error {error}")
    return "\n".join(lines)


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
    _emit({"net": net, "rows": records}, json, _table(cells))


def _table(cells: list[tuple[str, ...]]) -> str:
    """Rows of text in aligned columns, wrapped to the terminal where there is one; the first row is the heading."""
    import io

    from rich.console import Console
    from rich.table import Table

    table = Table(*cells[0], box=None, pad_edge=False)
    for row in cells[1:]:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=None if sys.stdout.isatty() else 160).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


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
        text = f"measured {_errors_table(record, [])}, as it says"
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
    cells = [("what", "ours", "peers", "ratio", "more"), *map(_bench_cells, rows)]
    _emit({"rows": rows}, json, _table(cells))


def _bench_cells(row: dict) -> tuple[str, ...]:
    peers = ", ".join(f"{name} {value:,}" for name, value in row["peer"].items()) or "-"
    known = ("name", "value", "unit", "peer", "ratio", "ratios", "versions", "threads", "toy")
    more = ", ".join(f"{name} {value}" for name, value in row.items() if name not in known)
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return row["name"], f"{row['value']:,} {row['unit']}", peers, ratio, more
