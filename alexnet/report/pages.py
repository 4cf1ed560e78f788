"""report.html of a run: what it learnt and how, on one page that needs nothing else, in light, dark and print.

    report.refresh(run)                      curves and spec, while it trains: well under half a second, never raises
    report.refresh(run, net, look)           the same with conv1's kernels, and with pictures: look() gives Answers
    report.write(run, net, answers)          the whole page; raises
    report.compare(runs, out)                several runs: curves over each other, only the settings that differ

Pages are jinja2 templates (*.html) with every text escaped: class names and file names are strangers' words.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from alexnet import fidelity
from alexnet import spec as spec_module
from alexnet.errors import MachineError, UsageError
from alexnet.log import say
from alexnet.net import AlexNet
from alexnet.report import history as report_history
from alexnet.report import parts as report_page
from alexnet.report import words as report_words
from alexnet.report.answers import Answers
from alexnet.spec import FileNetSpec

FRESH_S = 15  # a page of a run in training is not written more often
RELOAD_S = 30  # nor shown anew by the browser
TOLD: set[Path] = set()  # runs whose page failed, which is said once


def refresh(run: Path, net: AlexNet | None = None, look: Callable[[], Answers | None] | None = None) -> None:
    """Writes RUN/report.html if it is older than FRESH_S; at once where `look` is given, which is for the end.

    Whatever goes wrong is said once and does not concern the training.
    """
    page = run / "report.html"
    try:
        if look is None and page.exists() and time.time() - page.stat().st_mtime < FRESH_S:
            return
        write(run, net, look and look(), live=look is None)
    except Exception as error:
        if run not in TOLD:
            TOLD.add(run)
            say(f"note: {page} could not be written ({error}); the training goes on without it")


def write(
    run: Path, net: AlexNet | None = None, seen: Answers | None = None, *, live: bool = False, out: Path | None = None
) -> Path:
    """The page of a run as it stands; `net` adds conv1's kernels, `seen` pictures, `live` a reload.

    Raises UsageError where run.json is not readable, MachineError where the page cannot be written.
    """
    record, spec = read_run(run)
    history = report_history.read(run / "metrics.jsonl")
    page = {
        "name": run.resolve().name,
        "reload_s": RELOAD_S if live else None,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "status": report_page.status(history, spec, live),
        "figures": report_page.key_figures(history),
        "warnings": history.warnings(),
        "charts": report_page.curves(history, spec),
        "evaluations": history.evaluations,
        "sentences": told(spec)[0],
        "preset": spec.preset,
        "settings": report_words.settings(spec),
        "fidelity": told(spec)[1],
        "data": record["data"],
        "machine": report_page.machine(record),
        "classes": len(record["data"].get("classes", ())),
        "kernels": None if net is None else report_page.kernels(net),
        "seen": None if seen is None else report_page.seen(seen),
        "commands": commands(run, spec) if (run / "model.safetensors").exists() else [],
        "train": record.get("command"),
    }
    return _put(out or run / "report.html", _template("run.html").render(page))


def compare(runs: Sequence[Path], out: Path) -> Path:
    """One page of several runs: a table of results, curves over each other, the settings in which they differ."""
    read = [(*read_run(run), report_history.read(run / "metrics.jsonl")) for run in runs]
    names = report_page.short_names(runs)
    specs = [spec_module.to_dict(spec) for _, spec, _ in read]
    page = {
        "names": names,
        "samples": report_page.samples(len(runs)),
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "rows": [report_page.result_row(*one) for one in read],
        "same_data": len({record["data"].get("fingerprint") for record, _, _ in read}) == 1,
        "charts": report_page.curves_together(names, [history for _, _, history in read]),
        "differences": [(n, [report_words.shown(v) for v in vs]) for n, vs in report_history.differences(specs)],
    }
    return _put(out, _template("compare.html").render(page))


@cache
def told(spec: spec_module.Spec) -> tuple[list, list]:
    """The sentences and the fidelity table of a spec, which nets of layer files do not have."""
    rows = [] if isinstance(spec.net, FileNetSpec) else fidelity.fidelity(spec)
    return report_words.sentences(spec), rows


def read_run(run: Path) -> tuple[dict, spec_module.Spec]:
    """run.json and the spec in it. Raises UsageError."""
    try:
        record = json.loads((run / "run.json").read_text())
        return {**record, "data": dict(record["data"])}, spec_module.from_dict(record["spec"])
    except UsageError as error:
        raise UsageError(f"{run / 'run.json'}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{run / 'run.json'} is not readable as a run's record") from None


def commands(run: Path, spec: spec_module.Spec) -> list[tuple[str, str]]:
    """(what for, what to type), ready to paste wherever one is."""
    here, layer = shlex.quote(str(run.resolve())), "fc7" if getattr(spec.net, "fc7", None) is not None else "fc8"
    return [
        ("Errors with ten views", f"alexnet evaluate {here} --views 10"),
        ("Errors on other pictures", f"alexnet evaluate {here} PICTURES --per-class"),
        ("Ask it about a picture", f"alexnet predict {here} PICTURE.jpg"),
        (f"Activations of {layer}", f"alexnet features {here} --layer {layer} --out {layer}.parquet"),
        ("Figures for print", f"alexnet figures {here} --format pdf"),
        ("One file to hand on", f"alexnet convert {here} alexnet.safetensors"),
        ("Is it intact?", f"alexnet verify {here}"),
        ("In Python", f"import alexnet; alexnet.load({str(run.resolve())!r}).top5('PICTURE.jpg')"),
    ]


@cache
def _template(name: str):
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("alexnet", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": report_page.percent, "duration": report_page.duration}
    environment.filters["count_text"] = "{:,}".format
    return environment.get_template(name)


def _put(path: Path, text: str) -> Path:
    """Whole or not at all, and without waiting for the disk: a page can be written again."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no file; name one to write, such as report.html")
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MachineError(f"cannot write {path}: {error.strerror or error}") from None
    return path
