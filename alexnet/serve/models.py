"""The runs a server shows: their predictors, what each says of itself, and the nearest of its training pictures.

Several runs are told apart by name; a run that is still training has curves and no net yet.
"""

from __future__ import annotations

import io
import os
import sys
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import numpy as np
from PIL import Image

from alexnet import fidelity, verify
from alexnet import spec as spec_module
from alexnet.errors import AlexnetError, CheckpointError
from alexnet.predict import Predictor, load
from alexnet.report import answers, pages, parts, words
from alexnet.report.answers import Answers
from alexnet.serve import looks
from alexnet.spec import FileNetSpec, Spec

NEAREST = 6
WARM = 3  # the first pictures after loading are slow: memory is taken, kernels are chosen
AT_ONCE = 16  # training pictures: a stop waits for no more


class Stopped(Exception):
    """The server ends."""


@dataclass
class Model:
    """`near`: training pictures with what goes into the last dense layer for them, once they have been looked at;
    `coming` till then.
    """

    name: str
    run: Path
    predictor: Predictor
    near: Answers | None = None
    coming: bool = False
    about: dict = field(default_factory=dict)

    def nearest(self, square: np.ndarray) -> dict:
        """{"layer", "of", "coming", "pictures": [{"class", "key", "src"}]}: by Euclidean distance in
        the last hidden layer, as the paper's figure 4 has them.
        """
        if self.near is None:
            return {"layer": None, "of": 0, "coming": self.coming, "pictures": []}
        net = self.predictor.net
        hidden, _ = answers.hidden_and_softmax(net, self.predictor.views(square, 1))
        rows = answers.nearest(hidden.numpy(), self.near.hidden, NEAREST)[0]
        told = [{"class": self.near.classes[self.near.labels[r]], "key": self.near.key(int(r))} for r in rows]
        shown = [{**one, "src": _jpeg(self.near.pixels(int(r)))} for one, r in zip(told, rows, strict=True)]
        return {"layer": answers.last_hidden(net), "of": len(self.near), "coming": False, "pictures": shown}


def open_all(runs: Sequence[Path], device: str) -> tuple[dict[str, Model], dict[str, Path]]:
    """({name: model}, {name: run folder}) of all that were named; a run without a model yet is among the folders alone.

    Raises CheckpointError for what is neither, and where no run has a model.
    """
    names = parts.short_names([run.parent if run.name == "model.safetensors" else run for run in runs])
    folders = {name: run for name, run in zip(names, runs, strict=True) if (run / "run.json").exists()}
    unfinished = {n for n, run in folders.items() if not (run / "model.safetensors").exists()}
    if len(unfinished) == len(runs):
        raise CheckpointError(
            f"{runs[0]} has no model.safetensors yet: the run is not finished; its curves are in {runs[0]}/report.html"
        )
    models = {name: _open(name, run, device) for name, run in zip(names, runs, strict=True) if name not in unfinished}
    return models, folders


def _open(name: str, run: Path, device: str) -> Model:
    model = Model(name, run, load(run, device))
    black = np.zeros((model.predictor.prep.size_px,) * 2 + (3,), np.uint8)
    for _ in range(WARM):
        model.predictor.top5(black)
    model.about = _about(model)
    return model


def _about(model: Model) -> dict:
    """What /api/model answers."""
    predictor, passport = model.predictor, model.predictor.passport
    try:
        spec = spec_module.from_dict(passport["spec"], Spec)
    except AlexnetError:  # a model of another kind than a whole training says only which net it is
        spec = None
    plain = spec is not None and not isinstance(spec.net, FileNetSpec)
    return {
        "run": model.name,
        "preset": getattr(spec, "preset", None),
        "classes": predictor.classes,
        "accuracy": passport.get("accuracy"),
        "size_px": predictor.prep.size_px,
        "crop_px": predictor.prep.crop_px,
        "parameters": sum(p.numel() for p in predictor.net.parameters()),
        "words": [{"about": about, "text": text} for about, text in words.sentences(spec)] if spec else [],
        "fidelity": [
            {"detail": r.detail, "paper": r.paper, "as_run": r.as_run, "here": r.here, "matches": r.matches}
            for r in (fidelity.fidelity(spec) if plain else [])
        ],
        "layers": looks.layers(predictor),
        "kernels": looks.kernels(predictor),
    }


def look_at_training(model: Model, most: int, stopping: Event) -> str:
    """Takes the features of `most` training pictures for `nearest`; returns why not, or "". Takes seconds, in a thread
    of its own, which gives way to the questions asked meanwhile.
    """
    if sys.platform == "linux":
        os.nice(10)  # of this thread and those it starts
    try:
        if not answers.last_hidden(model.predictor.net):
            return "no layer goes into the last dense one"
        model.near = _looked_at(model, most, stopping)
        return ""
    except Stopped:
        return ""
    except (AlexnetError, OSError, KeyError) as error:
        return str(error)
    finally:
        model.coming = False


def _looked_at(model: Model, most: int, stopping: Event) -> Answers:
    def progress(done: int, total: int) -> None:
        if stopping.is_set():
            raise Stopped

    predictor = model.predictor
    place = replace(predictor.place, batch=AT_ONCE)
    pack = verify.data_of(model.run, predictor, None, lambda word: lambda done, total: None)
    verify.check_fit(predictor, pack)
    split = pack.splits["train"]
    options = {"limit": most, "hidden": True, "progress": progress}
    return answers.look(predictor.net, predictor.prep, place, split, pack.classes, **options)


def runs_page(folders: dict[str, Path]) -> str:
    """The list of runs with their curves as they stand, as HTML that loads itself again."""
    shown = []
    for name, run in folders.items():
        try:
            _, spec = pages.read_run(run)
        except AlexnetError as error:  # moved away or damaged since; the others are still to be seen
            nothing = {"preset": "", "report": False, "figures": [], "charts": []}
            shown.append({"name": name, "status": str(error), **nothing})
            continue
        history = pages.report_history.read(run / "metrics.jsonl")
        live = not (run / "model.safetensors").exists()
        row = {"name": name, "preset": spec.preset, "status": parts.status(history, spec, live)}
        row["report"] = (run / "report.html").is_file()
        charts = [chart for chart in parts.curves(history, spec) if chart["wide"]]
        shown.append({**row, "figures": parts.key_figures(history), "charts": charts})
    return _template().render(runs=shown, reload_s=pages.RELOAD_S)


def _template():
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader("alexnet", "serve/page"), PackageLoader("alexnet", "report")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": parts.percent, "duration": parts.duration, "count_text": "{:,}".format}
    return environment.get_template("runs.html")


def _jpeg(pixels_hwc: np.ndarray) -> str:
    small = Image.fromarray(pixels_hwc)
    small.thumbnail((160, 160))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(out.getvalue()).decode()}"
