"""The log that lies in a folder of 2012 layer files: every parameter file is a run, told in its comments.

    read_folder("layers", sort="top5")      # the runs: definition, pictures, what was changed, what it reached
    pair("layers", "145")                   # what to train, from scratch: two files and notes

Rates stand in the files as they were when a run ended, after many changes by hand; `pair` puts those of the start in
their place. A run is paired with the definition file of its own name, the one that its comments name, or the one whose
name its own begins with (145-2010, 145), and the two are read together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import NamedTuple

from alexnet.errors import UsageError
from alexnet.layerfile.geometry import picture_px
from alexnet.layerfile.lex import load, shown
from alexnet.layerfile.notes import Errors, Notes, data_of, definitions_of, notes_of
from alexnet.layerfile.parse import read
from alexnet.layerfile.records import Layer
from alexnet.spec import LayerFile

PARAMS, DEFINITION = re.compile(r"layer-params[-.](.+)\.cfg"), re.compile(r"layers[-.](.+)\.cfg")
LARGEST_FOLDER, MOST_WORDS = 2000, 70

# From scratch (the comments' "from 0.01"); biases learn at twice the rate. What the authors' drops by hand came to is
# what they wrote down as a schedule half a year later (run 170).
FROM_SCRATCH = {224: 0.01, 32: 0.001}
DROPS = "schedW=dexp[tgtFactor=250,noiseStdev=0,numSteps=4]\nschedB=dexp[tgtFactor=10,noiseStdev=0,numSteps=2]\n"
IN_2012 = "2012-07-23"  # the first run that says it is on the pictures of 2012 began a day later


@dataclass(frozen=True)
class Run:
    """A parameter file. `definition` is None, and `problem` says why, where no definition file fits."""

    name: str
    params: str
    definition: str | None = None
    data: str | None = None
    data_said: bool = False  # else concluded from the date or the net
    begun: str | None = None  # the day
    epochs: float | None = None
    change: str = ""
    errors: tuple[Errors, ...] = ()
    events: tuple[tuple[float, str], ...] = ()  # (epoch, what was done)
    problem: str | None = None

    @property
    def best(self) -> Errors | None:
        """The run's own errors, over ten views where they are known, else the first."""
        own = [e for e in self.errors if e.own]
        return next((e for e in own if e.views == 10), next(iter(own or self.errors), None))


class Pair(NamedTuple):
    """The files to train a run again from scratch, and what a user should be told of them."""

    layers: LayerFile
    params: LayerFile
    notes: tuple[str, ...]


def read_folder(folder: str | Path, sort: str = "name") -> list[Run]:
    """The runs of a folder and of those in it. Raises UsageError where there are none."""
    paths = _paths(Path(folder))
    runs = [_run(Path(folder), path, paths) for path in paths if PARAMS.fullmatch(path.name)]
    runs = _once(sorted(runs, key=lambda run: _natural(run.name)))
    if not runs:
        raise UsageError(f"{folder} has no layer-params-NAME.cfg; give a folder of the 2012 tool's layer files")
    return sorted(runs, key=lambda run: _key(run, sort))


def pair(folder: str | Path, name: str) -> Pair:
    """What `name` in the folder's list was trained from, with rates for a start from scratch.

    Where rates are those of a run's end the parameter file gets sections behind its own, which count more. Raises
    UsageError for a name that is not in the list, or a run whose definition file is missing.
    """
    runs = {run.name: run for run in read_folder(folder)}
    found = [run for run in runs.values() if name in (run.name, run.name.rpartition("/")[2])]
    run = runs.get(name) or (found[0] if len(found) == 1 else None)
    if run is None:
        near = [run.name for run in found] or get_close_matches(name[:100], runs, 3)
        hint = f"{', '.join(near)} or another of" if near else "one of"
        raise UsageError(f"{folder} has no run {shown(name)}; give {hint} the names that `alexnet history` lists")
    if run.definition is None:
        raise UsageError(f"run {run.name}: {run.problem}; give --layers and --params instead")
    layers, params = load(Path(folder) / run.definition), load(Path(folder) / run.params)
    return _from_scratch(run, layers, params)


def _paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give one with layers-NAME.cfg and layer-params-NAME.cfg files")
    paths = sorted((*folder.glob("*.cfg"), *folder.glob("*/*.cfg")))
    if len(paths) > LARGEST_FOLDER:
        raise UsageError(f"{folder} has {len(paths):,} .cfg files; give a folder with at most {LARGEST_FOLDER:,}")
    return paths


def _natural(name: str) -> list[tuple[int, int, str]]:
    """To sort 96 before 145."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d{1,9}|\D+", name)]


def _key(run: Run, sort: str) -> tuple:
    """Where a run stands in the list; what is not known comes last."""
    best = run.best
    value = {
        **{"name": None, "definition": run.definition, "data": run.data, "begun": run.begun, "epochs": run.epochs},
        **{"nll": best and best.nll, "top1": best and best.top1_error, "top5": best and best.top5_error},
    }[sort]
    if sort == "definition" and value is not None:
        value = _natural(value)
    return (sort != "name" and value is None, () if value is None else (value,), _natural(run.name))


def _run(folder: Path, path: Path, paths: list[Path]) -> Run:
    name = (path.parent.relative_to(folder) / PARAMS.fullmatch(path.name)[1]).as_posix()
    params = path.relative_to(folder).as_posix()
    try:
        notes = notes_of(load(path).text)
    except UsageError as error:
        return Run(name, params, problem=str(error))
    definition, problem = _definition(path, notes, paths)
    data = data_of(path.stem.removeprefix("layer-params-"), notes)
    return Run(
        name,
        params,
        definition and definition.relative_to(folder).as_posix(),
        data or _concluded(name, definition, notes),
        data is not None,
        *(notes.begun, notes.epochs, notes.change, notes.errors, notes.events, problem),
    )


def _concluded(name: str, definition: Path | None, notes: Notes) -> str | None:
    """The pictures of a run that does not name them: CIFAR's by their size, ImageNet's year by the date."""
    if definition is not None and picture_px(read(definition)) == 32:
        return "CIFAR-10"
    if notes.begun is None:
        return "ILSVRC-2012" if "imagenet" in name else None
    return "ILSVRC-2012" if notes.begun > IN_2012 else "ILSVRC-2010"


def _once(runs: list[Run]) -> list[Run]:
    """Comments were copied from file to file: errors that are some run's own are not told of any other."""
    owned = {_numbers(e): run.name for run in runs for e in run.errors if e.own}
    return [
        replace(run, errors=tuple(e for e in run.errors if e.own or owned.get(_numbers(e), run.name) == run.name))
        for run in runs
    ]


def _numbers(e: Errors) -> tuple[float, float, float]:
    return e.nll, e.top1_error, e.top5_error


def _definition(path: Path, notes: Notes, paths: list[Path]) -> tuple[Path | None, str | None]:
    """(definition file, None), or (None, what is missing). Every candidate is read together with the parameters."""
    beside = {m[1]: p for p in paths if p.parent == path.parent and (m := DEFINITION.fullmatch(p.name))}
    name, reason = PARAMS.fullmatch(path.name)[1], ""
    named, like = definitions_of(notes)
    for candidate in dict.fromkeys((name, *named, *_shorter(name), *like, *_nearest(name, beside))):
        if candidate in beside:
            try:
                read(beside[candidate], path)
                return beside[candidate], None
            except UsageError as error:
                reason = reason or str(error)
    return None, reason or f"no definition file beside {path.name} fits it"


def _shorter(name: str) -> list[str]:
    """120-4gpu-auto2: 120-4gpu, 120."""
    parts = name.split("-")
    return ["-".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def _nearest(name: str, beside: dict[str, Path]) -> list[str]:
    """The numbered definitions, those of the runs around this one first."""
    number = re.match(r"\d{1,6}", name)
    if number is None:
        return []
    numbered = [n for n in beside if re.match(r"\d{1,6}", n)]
    return sorted(numbered, key=lambda n: (abs(int(re.match(r"\d{1,6}", n)[0]) - int(number[0])), n))


def _from_scratch(run: Run, layers: LayerFile, params: LayerFile) -> Pair:
    network = read(layers, params)
    learning = [layer for layer in network.layers if layer.bias_update is not None]
    bases = {layer.name: [u.schedule.base for u in layer.weight_updates] for layer in learning}
    rate, highest = FROM_SCRATCH[picture_px(network)], max(max(b) for b in bases.values())
    if highest >= rate:
        changed = [layer for layer in learning if min(bases[layer.name]) <= 0]
        rate, bias_rate = highest, max(layer.bias_update.schedule.base for layer in learning)
    else:
        changed, bias_rate = learning, 2 * rate
    if not changed:
        return Pair(layers, params, (f"{run.params} holds the rates of its run's start; they are used as they are",))
    drops = "" if any(_moves(layer) for layer in learning) else DROPS
    sections = (_section(layer, rate, bias_rate, drops) for layer in changed)
    text = f"{params.text.rstrip()}\n\n# for a start from scratch\n\n" + "\n".join(sections)
    return Pair(layers, LayerFile(params.name, text), _notes(run, changed, learning, rate, bias_rate, drops))


def _moves(layer: Layer) -> bool:
    """Does a rate of it fall? `linear[1,1]` only adds noise."""
    return any(
        u.schedule.kind != "const" and u.schedule.factor != 1 for u in (*layer.weight_updates, layer.bias_update)
    )


def _section(layer: Layer, rate: float, bias_rate: float, drops: str) -> str:
    rates = ",".join([f"{rate:g}"] * len(layer.weight_updates))
    noise = max(update.schedule.noise for update in layer.weight_updates)
    drops = drops.replace("noiseStdev=0", f"noiseStdev={noise:g}", 1)  # the weights'; the next is the biases'
    return f"[{layer.name}]\nepsW={rates}\nepsB={bias_rate:g}\n{drops}"


def _notes(
    run: Run, changed: list[Layer], learning: list[Layer], rate: float, bias_rate: float, drops: str
) -> tuple[str, ...]:
    stored = sorted({u.schedule.base for layer in changed for u in layer.weight_updates})
    names = "all layers" if len(changed) == len(learning) else ", ".join(layer.name for layer in changed)
    span = " to ".join(f"{value:g}" for value in dict.fromkeys((stored[0], stored[-1])))
    notes = [
        f"{run.params} holds rates of late in its run (epsW {span}); from scratch, {names}: epsW {rate:g}, "
        f"epsB {bias_rate:g}"
    ]
    lowered = [f"epoch {epoch:g}: {text}" for epoch, text in run.events if "eps" in text]
    if lowered:
        notes.append(f"by hand, its authors did: {'; '.join(lowered)}")
    if drops:
        notes.append("in their place: weights' rates fall to 1/250 in 4 steps, biases' to 1/10 in 2, as in run 170")
    noise = next((epoch for epoch, text in run.events if "color noise to 0" in text), None)
    if noise is not None:
        end = f" of {run.epochs:g}" if run.epochs else ""
        notes.append(f"colour noise was 0.1 until epoch {noise:g}{end}, then 0")
    return tuple(notes)


def reached(run: Run) -> dict:
    """The errors that stand for a run, each None where it is not known."""
    best = run.best
    return {key: best and getattr(best, key) for key in ("nll", "top1_error", "top5_error", "views")}


def table(runs: list[Run]) -> list[tuple[str, ...]]:
    """The runs as cells, the heading first; errors in per cent."""
    cells = [("run", "definition", "pictures", "begun", "epochs", "what it is", "nll", "top-1 %", "top-5 %", "views")]
    for run in runs:
        found = reached(run)
        data = f"{run.data}{'' if run.data_said else '?'}" if run.data else ""
        change = run.change if len(run.change) <= MOST_WORDS else f"{run.change[: MOST_WORDS - 1]}…"
        percents = ["" if e is None else f"{100 * e:.2f}" for e in (found["top1_error"], found["top5_error"])]
        nll, views = ("" if found[key] is None else f"{found[key]:g}" for key in ("nll", "views"))
        epochs = "" if run.epochs is None else f"{run.epochs:g}"
        definition = DEFINITION.fullmatch(PurePath(run.definition).name)[1] if run.definition else "missing"
        cells.append((run.name, definition, data, run.begun or "", epochs, change, nll, *percents, views))
    return cells
