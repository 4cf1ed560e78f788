"""Runs a claim's arms x seeds and turns them into rows: what is missing is trained, what is there is kept.

studies/<claim>/<scale>/<arm>-seed<k>/   one run folder for each arm and seed; a killed one goes on where it stopped
studies/<claim>/rows.jsonl               one object a line: the measured values of an arm and a seed

Equal runs are made once: as_run of one claim serves every other that needs it at the same scale, data and seed. A row
is written as soon as its runs are finished, seed after seed, so that pairs are complete early.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path

from alexnet import __version__, runs
from alexnet import spec as spec_module
from alexnet.data.pack import Pack, open_pack
from alexnet.errors import UsageError
from alexnet.log import duration, read_metrics, say
from alexnet.spec import Spec
from alexnet.study import measure as study_measure
from alexnet.study.data import first_classes
from alexnet.study.measure import DIVERGED
from alexnet.study.words import Arm, Claim, Scale, spec_of

PROBE_SEED = 1000  # of the runs that choose from a grid: none of those that are compared
STARTED_FROM = ".started-from"  # stands in a run folder that did not start from its seed alone


@dataclass(frozen=True)
class Job:
    """One training: `classes` of the pack's are its task, `start` is the run whose weights it begins with; `asked` are
    the errors (split, views) that will be wanted of it.
    """

    spec: Spec
    pack: Path
    classes: int | None
    run: Path
    start: Path | None = None
    asked: frozenset[tuple[str, int]] = frozenset()

    @property
    def finished(self) -> bool:
        return (self.run / "model.safetensors").exists() or (self.run / DIVERGED).exists()


@dataclass(frozen=True)
class Study:
    """A claim at a scale on a pack; `folder` is studies/<claim>/<scale>."""

    claim: Claim
    scale: Scale
    pack: Pack
    folder: Path
    settings: tuple[str, ...] = ()

    @property
    def task(self) -> Pack:
        """The pictures the arms are measured on."""
        return first_classes(self.pack, self.scale.classes)

    def spec(self, arm: Arm, seed: int, chosen: tuple[str, ...] = ()) -> Spec:
        trained = self.claim.arm(arm.runs_of) if arm.runs_of else arm
        settings = (*chosen, *self.settings)
        return spec_of(self.claim, trained, self.scale, len(self.task.classes), seed, settings)

    def digest(self, arm: Arm, seed: int) -> str:
        """Tells rows apart that were measured otherwise; a rate chosen from a grid does not count."""
        how = {"views": arm.views or self.claim.views, "members": self.claim.members, "ensemble": arm.ensemble}
        how |= {"grid": arm.grid, "pretrained": arm.pretrained, "target": self.scale.target}
        return _digest(self.spec(arm, seed * self.claim.members), self.task.fingerprint, json.dumps(how))


def _digest(spec: Spec | dict, *more: str) -> str:
    record = spec if isinstance(spec, dict) else spec_module.to_dict(spec)
    free = (*runs.FREE_TO_CHANGE, "evaluate_every")
    record = {**record, "run": {k: v for k, v in record["run"].items() if k not in free}}
    return hashlib.sha256(json.dumps([record, *more], sort_keys=True).encode()).hexdigest()[:16]


def jobs_of(study: Study, arm: Arm, seed: int, chosen: tuple[str, ...] = ()) -> list[Job]:
    """The trainings that a row of `arm` and `seed` is measured on, in the order in which they can be run."""
    found = []
    for number in range(seed * study.claim.members, (seed + 1) * study.claim.members):
        run = study.folder / f"{arm.runs_of or arm.name}-seed{number}"
        start = None
        if arm.pretrained:
            start = study.folder / f"{arm.name}-before-seed{number}"
            before = spec_module.change(study.spec(arm, number), [f"net.classes={len(study.pack.classes)}"])
            found.append(Job(before, study.pack.path, None, start))
        asked = study_measure.asked(study.claim, arm, study.scale)
        found.append(Job(study.spec(arm, number, chosen), study.pack.path, study.scale.classes, run, start, asked))
    return found


# --- one training ---------------------------------------------------------------------------------------------------


def execute(job: Job) -> None:
    """Trains one run, or goes on with it. Raises what `train.train` raises; a loss that is not finite is a result."""
    from alexnet import train

    pack = first_classes(open_pack(job.pack), job.classes)
    job.run.mkdir(parents=True, exist_ok=True)
    with open(job.run / ".log", "a") as file, redirect_stderr(file):
        if job.start:
            begin_with(job, pack)
        try:
            train.train(job.spec, pack, job.run)
            for split, views in sorted(job.asked):  # here, beside other trainings
                study_measure.errors([job.run], pack, split, views)
        except train.NonFinite as error:
            (job.run / DIVERGED).write_text(f"{error}\n")
        except UsageError as error:
            raise UsageError(str(error).replace("--run", "--folder")) from None


def begin_with(job: Job, pack: Pack) -> None:
    """A first checkpoint with the weights of another run; fc8, whose classes are others, starts from the seed."""
    from alexnet import checkpoint, train
    from alexnet.log import Metrics

    mark = job.run / STARTED_FROM
    if mark.exists():
        return
    runs.open_run(job.run, job.spec, pack)
    state, _ = train.prepare(job.spec, pack)
    tensors, _ = checkpoint.load_model(job.start / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if n.partition(".")[0] not in ("fc8", "preprocessing")}
    state.sgd.load(state.tensors() | kept, state.sgd.velocities)
    state.net.load_state_dict(state.net.state_dict() | kept)
    metrics = Metrics(job.run / "metrics.jsonl")
    train.save(state, job.run, metrics)
    metrics.close()
    mark.write_text(f"{job.start.name}\n")


def run_all(jobs: list[Job], side_by_side: int, run: Callable[[Job], None]) -> Iterator[Job]:
    """Runs what is not finished and yields each job as it ends; `side_by_side` processes share the cores."""
    if side_by_side == 1:
        for job in jobs:
            if not job.finished:
                run(job)
            yield job
        return
    for ready in ([j for j in jobs if not j.start], [j for j in jobs if j.start]):
        threads = max(1, len(os.sched_getaffinity(0)) // side_by_side)
        with ProcessPoolExecutor(side_by_side, get_context("spawn"), _share_cores, (threads,)) as pool:
            waiting = {pool.submit(run, job): job for job in ready if not job.finished}
            yield from (job for job in ready if job not in waiting.values())
            try:
                for future in as_completed(waiting):
                    future.result()
                    yield waiting[future]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _share_cores(threads: int) -> None:
    """A worker's part of the machine; it stops, and saves, when its parent is gone."""
    import ctypes
    import signal

    import torch

    torch.set_num_threads(threads)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


# --- rows -----------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict]:
    return read_metrics(path) if path.exists() else []


def append_row(path: Path, row: dict) -> None:
    """Adds a line; half a line, as a kill leaves it, goes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def rows_of(study: Study, rows: list[dict]) -> dict[tuple[str, int], dict]:
    """{(arm, seed): row} of those rows that belong to this claim, scale, data and spec; the newest counts."""
    arms = {arm.name: arm for arm in study.claim.arms_at(study.scale)}
    mine = [r for r in rows if (r["claim"], r["scale"]) == (study.claim.name, study.scale.name) and r["arm"] in arms]
    fitting = [r for r in mine if r["digest"] == study.digest(arms[r["arm"]], r["seed"])]
    return {(r["arm"], r["seed"]): r for r in fitting}


def seeds_done(claim: Claim, scale: Scale, rows: list[dict]) -> int:
    """Seeds that every arm has a row of."""
    of = {arm.name: set() for arm in claim.arms_at(scale)}
    for row in rows:
        if (row["claim"], row["scale"]) == (claim.name, scale.name) and row["arm"] in of:
            of[row["arm"]].add(row["seed"])
    return len(set.intersection(*of.values()))


def study(
    it: Study,
    seeds: int,
    out: Path,
    *,
    side_by_side: int = 1,
    run: Callable[[Job], None] = execute,
    measure: Callable = study_measure.measure,
) -> dict[tuple[str, int], dict]:
    """Trains and measures what is missing of `seeds` seeds, appends rows to `out`, returns all {(arm, seed): row}."""
    rows = rows_of(it, read_rows(out))
    arms = it.claim.arms_at(it.scale)
    missing = [(arm, seed) for seed in range(seeds) for arm in arms if (arm.name, seed) not in rows]
    grids = {arm.name: arm for arm, _ in missing if arm.grid}
    chosen = {name: _choose(it, arm, rows, side_by_side, run, measure) for name, arm in grids.items()}
    known = finished_runs(it.folder.parent.parent, it.scale.name)
    wanted = {}
    for arm, seed in missing:
        jobs = jobs_of(it, arm, seed, chosen.get(arm.runs_of or arm.name, ()))
        wanted[arm.name, seed] = [_known(job, it, known) for job in jobs]
    jobs = list({job.run: job for those in wanted.values() for job in those}.values())
    start, done = time.monotonic(), set()
    for job in run_all(jobs, side_by_side, run):
        done.add(job.run)
        _progress(it, job, len(done), len(jobs), time.monotonic() - start)
        for arm, seed in missing:
            if (arm.name, seed) not in rows and all(j.run in done for j in wanted[arm.name, seed]):
                row = _row(it, arm, seed, wanted[arm.name, seed], chosen.get(arm.name, ()), measure)
                append_row(out, row)
                rows[arm.name, seed] = row
    return {key: row for key, row in rows.items() if key[1] < seeds}


def ahead(studies: list[Study], seeds: dict[str, int], out: Callable[[Study], Path], side_by_side: int) -> None:
    """Trains side by side what several claims miss, equal runs once; `study` then finds them. `seeds` by claim. Arms
    that choose from a grid, or start from another run, are left to `study`.
    """
    jobs: dict[str, Job] = {}
    for it in studies:
        rows, known = rows_of(it, read_rows(out(it))), finished_runs(it.folder.parent.parent, it.scale.name)
        for seed in range(seeds[it.claim.name]):
            for arm in it.claim.arms_at(it.scale):
                if (arm.name, seed) in rows or arm.grid or (arm.runs_of and it.claim.arm(arm.runs_of).grid):
                    continue
                for job in jobs_of(it, arm, seed):
                    key = _digest(job.spec, str(job.classes))
                    if not job.start and not _known(job, it, known).finished:
                        jobs[key] = replace(jobs.get(key, job), asked=jobs.get(key, job).asked | job.asked)
    start = time.monotonic()
    for done, job in enumerate(run_all(list(jobs.values()), side_by_side, execute), 1):
        _progress(studies[0], job, done, len(jobs), time.monotonic() - start)


def _choose(it: Study, arm: Arm, rows: dict, side_by_side: int, run: Callable, measure: Callable) -> tuple[str, ...]:
    """The settings of the arm's grid with the best first metric: those of its earlier rows, or found by probes."""
    for (name, _), row in rows.items():
        if name == arm.name:
            return tuple(row["chosen"])
    probes = {}
    for settings in arm.grid:
        folder = it.folder / f"{arm.name}-{settings[0]}-probe"
        probes[folder] = Job(it.spec(arm, PROBE_SEED, settings), it.pack.path, it.scale.classes, folder), settings
    scores = []
    for job in run_all([job for job, _ in probes.values()], side_by_side, run):
        seen = measure(it.claim, arm, it.scale, [job.run], it.task)
        value = next(iter(seen["values"].values()))
        more = " or more" if seen["censored"] else ""
        say(f"{it.claim.name}: {arm.name} with {probes[job.run][1][0]}: {value:.4g}{more}")
        scores.append((value, study_measure.last_loss(job.run), probes[job.run][1]))
    return min(scores)[2]  # of equals, such as those that never arrived, the one with the lowest loss


def finished_runs(folder: Path, scale: str) -> dict[str, Path]:
    """{digest of spec and data: run folder} of everything finished at this scale, whichever claim made it."""
    found = {}
    for model in sorted(folder.glob(f"*/{scale}/*/model.safetensors")):
        record = json.loads((model.parent / "run.json").read_text())
        if not (model.parent / STARTED_FROM).exists():
            found[_digest(record["spec"], record["data"]["fingerprint"])] = model.parent
    return found


def _known(job: Job, it: Study, known: dict[str, Path]) -> Job:
    """The job with the folder of an equal run that is finished already, if there is one."""
    if job.start or job.finished:
        return job
    pack = it.pack if job.classes is None else it.task
    return replace(job, run=known.get(_digest(job.spec, pack.fingerprint), job.run))


def _row(it: Study, arm: Arm, seed: int, jobs: list[Job], chosen: tuple[str, ...], measure: Callable) -> dict:
    trained = [job for job in jobs if job.classes == it.scale.classes]
    seen = measure(it.claim, arm, it.scale, [job.run for job in trained], it.task)
    row = {"claim": it.claim.name, "scale": it.scale.name, "arm": arm.name, "seed": seed, **seen}
    row |= {"views": arm.views or it.claim.views, "chosen": list(chosen), "settings": list(it.settings)}
    row |= {
        "data": it.pack.meta["name"],
        "pictures": len(it.task.splits["train"]),
        "length": str(jobs[-1].spec.run.length),
    }
    row |= {"runs": [str(job.run) for job in trained], "digest": it.digest(arm, seed)}
    row |= {"command": shlex.join(["alexnet", *sys.argv[1:]]), "commit": _commit(), "date": date.today().isoformat()}
    return row | {"versions": _versions()}


def _versions() -> dict:
    from alexnet import machine

    return {"alexnet": __version__, **machine.versions()}


def _commit() -> str | None:
    """The commit this package stands at, where it is a checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None


def _progress(it: Study, job: Job, done: int, total: int, spent_s: float) -> None:
    left = duration(spent_s / done * (total - done))
    claim = job.run.parent.parent.name
    say(f"{claim}, {it.scale.name}: {job.run.name} is done; {done} of {total} runs, {left} left")
