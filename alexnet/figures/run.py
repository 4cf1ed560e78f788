"""`alexnet figures`: which figures there are of a run, of several, or of a pack, drawn one after the other.

A run that is not finished has curves and its net; a model file away from its run has filters, colours and its net, and
with DATA all but the curves. Several runs have their curves together. A pack has augmentation and colours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet import figures, runs, verify
from alexnet import spec as spec_module
from alexnet.data.pack import Pack, is_pack, open_pack
from alexnet.errors import CheckpointError, MachineError, UsageError
from alexnet.predict import Predictor, load
from alexnet.report import answers as report_answers
from alexnet.report import history as report_history
from alexnet.report.parts import short_names
from alexnet.spec import FileNetSpec, Spec

PREDICTIONS, NEIGHBOURS = 8, 5  # pictures, as in figure 4
OF_ANSWERS = {"predictions", "neighbours", "confusion"}
Drawn = dict[str, object]  # {name: a matplotlib Figure, or why there is none}


@dataclass(frozen=True)
class Wish:
    """`wanted`: names of figures; `limit` pictures of a split are looked at; `only_errors`: wrong predictions alone."""

    wanted: Sequence[str]
    limit: int | None = None
    only_errors: bool = False
    device: str = "auto"
    progress: Callable = lambda word: lambda done, total: None


def usual(paths: Sequence[Path]) -> tuple[str, ...]:
    """The figures that there can be of these."""
    if len(paths) > 1:
        return ("curves",)
    return ("augmentation", "colours") if is_pack(paths[0]) else figures.NAMES


def usual_folder(paths: Sequence[Path]) -> Path:
    """RUN/figures; beside a model file, a pack, or the first of several runs."""
    alone = len(paths) == 1 and paths[0].is_dir() and not is_pack(paths[0])
    return (paths[0] if alone else paths[0].parent) / "figures"


def write(paths: Sequence[Path], data: str | None, folder: Path, kind: str, wish: Wish) -> dict:
    """Draws the figures into `folder`; returns {"run", "figures": {name: path}, "left_out": {name: reason}}.

    Raises CheckpointError, DataError for a run or data that cannot be read, MachineError where nothing can be written.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no {path}; give a run folder, a model file or a pack")
    if not set(wish.wanted) & set(usual(paths)):
        what = "several runs" if len(paths) > 1 else "a pack"
        raise UsageError(f"of {what} there are {' and '.join(usual(paths))}; give one run for {', '.join(wish.wanted)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make {folder}: {error.strerror}; give another --out") from None
    if len(paths) > 1:
        drawn = _together(paths, wish)
    else:
        drawn = _of_pack(open_pack(paths[0])) if is_pack(paths[0]) else _of_run(paths[0], data, wish)
    made, left_out = {}, {}
    for name in wish.wanted:
        if isinstance(drawn[name], str):
            left_out[name] = drawn[name]
        else:
            made[name] = str(figures.save(drawn[name], folder / f"{name}.{kind}"))
    return {"run": " ".join(map(str, paths)), "figures": made, "left_out": left_out}


def _together(paths: Sequence[Path], wish: Wish) -> Drawn:
    for path in paths:
        if not (path / "metrics.jsonl").exists():
            raise UsageError(
                f"{path} is no run folder, which has metrics.jsonl; several runs have their curves together"
            )
    histories = [report_history.read(path / "metrics.jsonl") for path in paths]
    drawn = dict.fromkeys(wish.wanted, "of several runs there are curves; give one run for the others")
    return drawn | {"curves": figures.together(short_names(paths), histories) or "no step has been logged yet"}


def _of_pack(pack: Pack) -> Drawn:
    """As `as_run` would see the pictures, at as large a crop."""
    spec = spec_module.preset("as_run", classes=len(pack.classes))
    crop_px = min(spec.net.crop_px, max(1, 7 * pack.size_px // 8))
    prep = runs.preprocessing(spec_module.change(spec, [f"net.crop_px={crop_px}"]), pack)
    drawn = dict.fromkeys(figures.NAMES, "that needs a run; of a pack there are augmentation and colours")
    return drawn | {"augmentation": _augmentation(prep, spec, pack), "colours": figures.colours(prep)}


def _of_run(run: Path, data: str | None, wish: Wish) -> Drawn:
    drawn = {"curves": _curves(run)} if "curves" in wish.wanted else {}
    return drawn | _of_model(run, data, wish) if set(wish.wanted) - {"curves"} else drawn


def _curves(run: Path):
    metrics = run / "metrics.jsonl"
    if not metrics.exists() or not (run / "run.json").exists():
        return f"{run} is no run folder, which has metrics.jsonl"
    classes = _spec(run / "run.json").net.classes
    return figures.curves(report_history.read(metrics), classes) or "no step has been logged yet"


def _spec(record: Path) -> Spec:
    try:
        return spec_module.from_dict(json.loads(record.read_text())["spec"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{record} is not readable as a run's record") from None


def _of_model(run: Path, data: str | None, wish: Wish) -> Drawn:
    """All but the curves: each a figure, or the reason why there is none."""
    try:
        predictor = load(run, wish.device)
    except CheckpointError:
        if not (run / "run.json").exists() or (run / "model.safetensors").exists():
            raise
        unfinished = dict.fromkeys(set(wish.wanted) - {"curves"}, "the run is not finished")
        return unfinished | {"net": _net(_spec(run / "run.json"))}
    spec = spec_module.from_dict(predictor.passport["spec"])
    ways = {
        "net": lambda: _net(spec),
        "colours": lambda: figures.colours(predictor.prep),
        "filters": lambda: figures.filters(predictor.net) or "conv1 has no kernels over three colours",
    }
    drawn = {name: draw() for name, draw in ways.items() if name in wish.wanted}
    if set(wish.wanted) & {*OF_ANSWERS, "augmentation"}:
        pack = verify.data_of(run, predictor, data, wish.progress)
        verify.check_fit(predictor, pack)
        drawn["augmentation"] = _augmentation(predictor.prep, spec, pack)
        drawn |= _of_answers(predictor, pack, wish) if OF_ANSWERS.intersection(wish.wanted) else {}
    return drawn


def _net(spec: Spec):
    if isinstance(spec.net, FileNetSpec):
        return "a net of layer files is shown by `alexnet layers`"
    return figures.net(spec.net, spec.preset)


def _augmentation(prep, spec: Spec, pack: Pack):
    split = next((pack.splits[name] for name in ("train", "val") if len(pack.splits[name])), None)
    return (
        figures.augmentation(split.pixels(0), prep, spec.data, spec.run.seed) if split else "the pack has no pictures"
    )


def _of_answers(predictor: Predictor, pack: Pack, wish: Wish) -> Drawn:
    if not len(pack.splits["val"]):
        return dict.fromkeys(OF_ANSWERS, "the pack has no validation pictures")
    limit = wish.limit or report_answers.usual_limit(len(pack.classes))

    def look(split: str):
        net, prep, place = predictor.net, predictor.prep, predictor.place
        said = wish.progress(f"looking at {split} pictures,")
        hidden = "neighbours" in wish.wanted
        part = pack.splits[split]
        return report_answers.look(net, prep, place, part, pack.classes, limit=limit, hidden=hidden, progress=said)

    seen = look("val")
    rows = report_answers.one_of_each(seen, PREDICTIONS, wish.only_errors)
    drawn = {"confusion": figures.confusion(seen)}
    drawn["predictions"] = figures.predictions(seen, rows) if rows else f"all {len(seen):,} answers are right"
    layer = report_answers.last_hidden(predictor.net)
    if not layer:
        drawn["neighbours"] = "no layer goes into the last dense one"
    elif "neighbours" in wish.wanted:
        shown = report_answers.one_of_each(seen, NEIGHBOURS)
        drawn["neighbours"] = figures.neighbours(seen, shown, look("train"), layer)
    return drawn
