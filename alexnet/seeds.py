"""The same training for many seeds as one job: for what differs between nets that differ in nothing but chance.

    train_all(spec, pack, Path("runs/pets"), parse("0-9"), together=2)      the summary, also in runs/pets/summary.json

runs/pets/seed-000 ...   one run folder for each seed, as `alexnet train --seed 0` makes it, byte for byte
runs/pets/summary.json   errors by seed with mean, deviation and the 95 % interval of the mean; how alike the nets are

Seeds are trained one after the other, or `together` at once: child processes that share out threads and GPUs, each as
resumable as any run. How alike: RSA of one layer (compare.py), for every pair of nets.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread

import numpy as np
import torch

from alexnet import checkpoint, compare, extract, machine, recipe, runs, train
from alexnet import spec as spec_module
from alexnet.data.pack import Pack, open_pack
from alexnet.errors import AlexnetError, DataError, UsageError
from alexnet.log import say
from alexnet.spec import FileNetSpec, NetSpec, Spec
from alexnet.study.statistics import spread, student_95

MOST = 1000
PICTURES = 1000  # that nets are compared on
STOP_S = 300  # that children get to finish a step and save
CHILD = "from alexnet import __main__, seeds; __main__.guarded(seeds.child)"


class Failed(AlexnetError):
    """A child has ended; the job ends with its exit code."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.exit_code = code


@dataclass
class Child:
    """A training in a process of its own; `tail` holds the last lines it said."""

    seed: int
    process: subprocess.Popen
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=20))

    def listen(self) -> None:
        """Says what it says, until it ends."""
        for line in self.process.stderr:
            self.tail.append(line.rstrip("\n"))
            say(f"seed {self.seed}: {self.tail[-1]}")


def parse(text: str) -> list[int]:
    """The seeds of `0-9`, `0,3,5` or `0-2,7`. Raises UsageError."""
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + MOST:
            raise UsageError(f"--seeds {text}: write 0-9 or 0,3,5, at most {MOST} of them")
        found += range(first, last + 1)
    if len(set(found)) < len(found) or len(found) > MOST:
        raise UsageError(f"--seeds {text}: each seed once, at most {MOST} of them")
    return found


def folder(run: Path, seed: int) -> Path:
    return run / f"seed-{seed:03}"


def train_all(
    spec: Spec, pack: Pack, run: Path, seeds: Sequence[int], *, together: int = 1, layer: str | None = None
) -> dict:
    """Trains what is not finished of `seeds`, `together` at once (children open `pack.path` for themselves), and
    returns the summary; `layer` is the one whose features are compared, the last hidden one if not named.

    Raises UsageError, what `train.train` raises, with the seed before it, Failed for a child that ended, and
    train.Stopped after a signal.
    """
    layer = _layer(spec.net, layer)
    run.mkdir(parents=True, exist_ok=True)
    specs = {seed: replace(spec, run=replace(spec.run, seed=seed)) for seed in seeds}
    with checkpoint.locked(run):
        _check(run, specs, pack)
        missing = {seed: one for seed, one in specs.items() if not (folder(run, seed) / "model.safetensors").exists()}
        if len(missing) < len(specs):
            say(f"{len(specs) - len(missing)} of {len(specs)} seeds are finished already")
        if together == 1:
            _in_turn(missing, pack, run)
        else:
            _side_by_side(missing, pack, run, together)
        record = summary(spec, run, seeds, layer)
        checkpoint.write_json(run / "summary.json", record)
    return record


def _layer(net: NetSpec | FileNetSpec, name: str | None) -> str:
    """The layer of that name, else the last with weights before the one that tells the classes. Raises UsageError."""
    with torch.device("meta"):
        built = recipe.build(net)
    weighted = list(dict.fromkeys(n.rpartition(".")[0] for n, p in built.named_parameters() if p.dim() > 1))
    return extract.layer_named(built, name or weighted[-2:][0])


def _check(run: Path, specs: dict[int, Spec], pack: Pack) -> None:
    """Raises before anything is trained if the folder is not ours, or a seed in it has other settings or data."""
    there = [path.name for path in run.iterdir() if not path.name.startswith(".")]
    if "run.json" in there or (there and not any(name.startswith("seed-") for name in there)):
        what = "is the folder of a single run" if "run.json" in there else "holds other files"
        raise UsageError(f"{run} {what}; give another --run for several seeds")
    for seed, spec in specs.items():
        if (folder(run, seed) / "run.json").exists():
            runs.open_run(folder(run, seed), spec, pack)


def _in_turn(specs: dict[int, Spec], pack: Pack, run: Path) -> None:
    threads = torch.get_num_threads()
    for number, (seed, spec) in enumerate(specs.items(), 1):
        say(f"seed {seed}, {number} of {len(specs)}: {folder(run, seed)}")
        torch.set_num_threads(threads)  # a run that goes on may have set its own
        try:
            train.train(spec, pack, folder(run, seed))
        except AlexnetError as error:
            raise type(error)(f"seed {seed}: {error}") from None


# --- several at once ------------------------------------------------------------------------------------------------


def _side_by_side(specs: dict[int, Spec], pack: Pack, run: Path, together: int) -> None:
    """Keeps `together` children running. The first that fails, or a signal, stops the others; they save."""
    waiting = deque(specs)
    slots: list[Child | None] = [None] * min(together, len(waiting))
    threads = max(1, torch.get_num_threads() // max(1, len(slots)))
    with train.stopping() as asked:
        try:
            while waiting or any(slots):
                for slot, child in enumerate(slots):
                    if child and child.process.poll() is not None:
                        _ended(child)
                        slots[slot] = child = None
                    if child is None and waiting:
                        seed = waiting.popleft()
                        say(f"seed {seed}: {folder(run, seed)}, {threads} threads")
                        slots[slot] = _start(seed, specs[seed], pack, run, slot, threads)
                if "code" in asked:
                    raise train.Stopped(asked["code"])
                time.sleep(0.05)
        finally:
            _stop([child for child in slots if child])


def _start(seed: int, spec: Spec, pack: Pack, run: Path, slot: int, threads: int) -> Child:
    job = {"spec": spec_module.to_dict(spec), "pack": str(pack.path), "uri": pack.uri, "argv": sys.argv[1:]}
    job["run"] = str(folder(run, seed))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if gpus := devices(spec.run.device):
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
    process = subprocess.Popen([sys.executable, "-c", CHILD], env=environment, start_new_session=True, **pipes)
    child = Child(seed, process)
    Thread(target=child.listen, daemon=True).start()
    try:
        with process.stdin as stdin:
            json.dump(job, stdin)
    except BrokenPipeError:
        pass  # it has ended, and its exit code is looked at next
    return child


def devices(asked: str) -> list[str]:
    """The GPUs that children take by turns, as CUDA_VISIBLE_DEVICES names them; none where there is nothing to
    choose.
    """
    count = torch.cuda.device_count()
    if asked not in ("auto", "cuda") or count < 2:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(i) for i in range(count)]


def _ended(child: Child) -> None:
    """Raises Failed, or Stopped where somebody else stopped it, unless the child is finished."""
    code = child.process.wait()
    if code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
        raise train.Stopped(code)
    if code < 0:
        raise Failed(f"seed {child.seed} was killed (signal {-code}); out of memory? try a smaller --together", 7)
    if code:
        time.sleep(0.1)  # for its last lines
        told = list(child.tail)
        first = next((i for i, line in enumerate(told) if line.startswith("error: ")), -1)
        raise Failed(f"seed {child.seed}: " + "\n".join(told[first:]).removeprefix("error: "), code)


def _stop(children: list[Child]) -> None:
    for child in children:
        if child.process.poll() is None:
            child.process.terminate()
    until = time.monotonic() + STOP_S
    for child in children:
        try:
            child.process.wait(max(0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()  # its checkpoints are whole
            child.process.wait()


def child() -> None:
    """One training of a job, as standard input tells it, in a process that stops and saves when its parent is gone."""
    machine.end_with_parent()
    job = json.load(sys.stdin)
    sys.argv[1:] = job["argv"]  # the command that run.json tells
    pack = replace(open_pack(job["pack"]), uri=job["uri"])
    try:
        train.train(spec_module.from_dict(job["spec"]), pack, Path(job["run"]))
    except train.Stopped as stopped:
        sys.exit(stopped.code)


# --- what they say together -----------------------------------------------------------------------------------------


def summary(spec: Spec, run: Path, seeds: Sequence[int], layer: str) -> dict:
    """{"run", "seeds": [{"seed", "run", "top1_error", ...}], "top1_error", "top5_error", "consistency"} of finished
    runs; see `estimate` and `consistency`.
    """
    rows = [{"seed": s, "run": str(folder(run, s)), **runs.last_record(folder(run, s))} for s in seeds]
    record = {"run": str(run), "seeds": rows}
    for key in ("top1_error", "top5_error"):
        record[key] = estimate([row[key] for row in rows if row[key] is not None])
    measured = record["top1_error"]["n"] > 0
    return record | {"consistency": consistency(spec, run, seeds, layer) if measured and len(rows) > 1 else None}


def estimate(values: Sequence[float]) -> dict:
    """{"n", "mean", "std", "low", "high"}: low to high is the 95 % interval of the mean by Student's t; None where
    there are too few values.
    """
    record = dict.fromkeys(("mean", "std", "low", "high"))
    if values:
        record["mean"], record["std"] = spread(values)
    if len(values) > 1:
        half = student_95(len(values) - 1) * record["std"] / math.sqrt(len(values))
        record |= {"low": record["mean"] - half, "high": record["mean"] + half}
    return {"n": len(values), **record}


def consistency(spec: Spec, run: Path, seeds: Sequence[int], layer: str) -> dict:
    """How alike the nets see the validation pictures (the first thousand): RSA and CKA of every pair, and their means.

    {"layer", "pictures", "distance", "mean_rsa", "mean_cka", "rsa": n x n, "cka": n x n}; where features cannot be
    compared, the means are None and "why" says so: the nets are trained all the same.
    """
    options = {"pictures": PICTURES, "device": spec.run.device, "precision": spec.run.precision}
    try:
        found = compare.compare([folder(run, seed) for seed in seeds], [layer], **options)
    except DataError as error:
        say(f"the nets cannot be compared: {error}")
        return {"layer": layer, "mean_rsa": None, "mean_cka": None, "why": str(error)}
    pairs = np.triu_indices(len(seeds), 1)
    means = {f"mean_{kind}": float(np.array(found[kind])[pairs].mean()) for kind in ("rsa", "cka")}
    return {"layer": layer, **{key: found[key] for key in ("pictures", "distance")}, **means} | {
        kind: found[kind] for kind in ("rsa", "cka")
    }
