"""Runs claims' arms x seeds and turns them into rows: what is missing is trained, what is there is kept.

studies/<claim>/<scale>/<arm>-seed<k>/   one run folder for each arm and seed; a killed one goes on where it stopped
studies/<claim>/rows.jsonl               one object a line: the measured values of an arm and a seed

Equal runs are made once: as_run of one claim serves every other that needs it at the same scale, data and seed. A row
is written as soon as its runs are finished, seed after seed, so that pairs are complete early.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from alexnet import __version__
from alexnet.log import duration, read_metrics, say
from alexnet.spec import RunSpec
from alexnet.study import measure as study_measure
from alexnet.study.jobs import STARTED_FROM, Job, Study, digest_of, execute, jobs_of, run_all
from alexnet.study.words import Arm, Claim, Scale

PROBE_SEED = 1000  # of the runs that choose from a grid: none of those that are compared


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


@dataclass
class Missing:
    """A row that is not there yet, and the trainings it is measured on."""

    it: Study
    out: Path
    rows: dict[tuple[str, int], dict]  # those of its claim, which it will be one of
    arm: Arm
    seed: int
    jobs: list[Job]
    chosen: tuple[str, ...]

    @property
    def written(self) -> bool:
        return (self.arm.name, self.seed) in self.rows


def study(
    it: Study,
    seeds: int,
    out: Path,
    *,
    side_by_side: int = 1,
    run: Callable[[Job], None] = execute,
    measure: Callable = study_measure.measure,
) -> dict[tuple[str, int], dict]:
    """`study_all` of a single claim."""
    return study_all([it], [seeds], [out], side_by_side=side_by_side, run=run, measure=measure)[0]


def study_all(
    studies: list[Study],
    seeds: list[int],
    outs: list[Path],
    *,
    side_by_side: int = 1,
    run: Callable[[Job], None] = execute,
    measure: Callable = study_measure.measure,
) -> list[dict[tuple[str, int], dict]]:
    """Trains and measures what several claims at one scale miss of so many seeds each, equal runs once, and appends
    rows to `outs` as they are complete. Returns all {(arm, seed): row} of each.
    """
    missing, all_rows = [], []
    for it, count, out in zip(studies, seeds, outs, strict=True):
        all_rows.append(rows_of(it, read_rows(out)))
        missing += _missing(it, count, out, all_rows[-1], side_by_side, run, measure)
    jobs = _equal_ones_once(missing)
    start, done = time.monotonic(), set()
    for job in run_all(jobs, side_by_side, run):
        done.add(job.run)
        _progress(studies[0], job, len(done), len(jobs), time.monotonic() - start)
        for one in missing:
            if not one.written and all(j.run in done for j in one.jobs):
                one.rows[one.arm.name, one.seed] = row = _row(one, measure)
                append_row(one.out, row)
    return [{key: row for key, row in rows.items() if key[1] < n} for rows, n in zip(all_rows, seeds, strict=True)]


def _missing(
    it: Study, seeds: int, out: Path, rows: dict, side_by_side: int, run: Callable, measure: Callable
) -> list[Missing]:
    arms = it.claim.arms_at(it.scale)
    wanted = [(arm, seed) for seed in range(seeds) for arm in arms if (arm.name, seed) not in rows]
    grids = {arm.name: arm for arm, _ in wanted if arm.grid}
    chosen = {name: _choose(it, arm, rows, side_by_side, run, measure) for name, arm in grids.items()}
    known, found = finished_runs(it.folder.parent.parent, it.scale.name), []
    for arm, seed in wanted:
        jobs = jobs_of(it, arm, seed, chosen.get(arm.runs_of or arm.name, ()))
        jobs = [_known(job, it, known) for job in jobs]
        found.append(Missing(it, out, rows, arm, seed, jobs, chosen.get(arm.name, ())))
    return found


def _equal_ones_once(missing: list[Missing]) -> list[Job]:
    """The trainings that are left to do, equal ones in the folder of the first, which their rows are told; each asked
    for all that any row wants to know.
    """
    first: dict[str, Path] = {}
    jobs: dict[Path, Job] = {}
    for one in missing:
        for i, job in enumerate(one.jobs):
            if not (job.start or job.finished):
                key = digest_of(job.spec, str(job.pack), str(job.classes))
                job = one.jobs[i] = replace(job, run=first.setdefault(key, job.run))
            before = jobs.get(job.run, job)
            jobs[job.run] = replace(before, asked=before.asked | job.asked)
    return list(jobs.values())


def _choose(it: Study, arm: Arm, rows: dict, side_by_side: int, run: Callable, measure: Callable) -> tuple[str, ...]:
    """The settings of the arm's grid with the lowest top-1 error, or first metric where that is not asked for: those of
    its earlier rows, or found by probes.
    """
    for (name, _), row in rows.items():
        if name == arm.name:
            return tuple(row["chosen"])
    length, probes = (f"run.length={it.scale.probe or it.scale.length}",), {}
    for settings in arm.grid:
        folder = it.folder / f"{arm.name}-{settings[0]}-probe"
        spec = it.spec(arm, PROBE_SEED, (*length, *settings))
        probes[folder] = Job(spec, it.pack.path, it.scale.classes, folder), settings
    scores = []
    for job in run_all([job for job, _ in probes.values()], side_by_side, run):
        seen = measure(it.claim, arm, it.scale, [job.run], it.task)
        metric = "top1_error" if "top1_error" in seen["values"] else next(iter(seen["values"]))
        value, more = seen["values"][metric], " or more" if metric in seen["censored"] else ""
        say(f"{it.claim.name}: {arm.name} with {probes[job.run][1][0]}: {value:.4g}{more}")
        scores.append((value, study_measure.last_loss(job.run), probes[job.run][1]))
    return min(scores)[2]  # of equals, such as those that never arrived, the one with the lowest loss


def finished_runs(folder: Path, scale: str) -> dict[str, Path]:
    """{digest of spec and data: run folder} of everything finished at this scale, whichever claim made it."""
    found = {}
    for model in sorted(folder.glob(f"*/{scale}/*/model.safetensors")):
        record = json.loads((model.parent / "run.json").read_text())
        if not (model.parent / STARTED_FROM).exists():
            found[digest_of(record["spec"], record["data"]["fingerprint"])] = model.parent
    return found


def _known(job: Job, it: Study, known: dict[str, Path]) -> Job:
    """The job with the folder of an equal run that is finished already, if there is one."""
    if job.start or job.finished:
        return job
    pack = it.pack if job.classes is None else it.task
    return replace(job, run=known.get(digest_of(job.spec, pack.fingerprint), job.run))


def _row(one: Missing, measure: Callable) -> dict:
    it, arm = one.it, one.arm
    trained = [job for job in one.jobs if job.classes == it.scale.classes]
    seen = measure(it.claim, arm, it.scale, [job.run for job in trained], it.task)
    row = {"claim": it.claim.name, "scale": it.scale.name, "arm": arm.name, "seed": one.seed, **seen}
    row |= {"views": arm.views or it.claim.views, "chosen": list(one.chosen), "settings": list(it.settings)}
    row |= {"data": it.pack.meta["name"], "pictures": len(it.task.splits["train"])}
    how = one.jobs[-1].spec.run
    row |= {"length": str(how.length), "precision": _precision(how), "runs": [str(job.run) for job in trained]}
    row |= {"digest": it.digest(arm, one.seed), "command": shlex.join(["alexnet", *sys.argv[1:]])}
    return row | {"commit": _commit(), "date": date.today().isoformat(), "versions": _versions()}


def _precision(how: RunSpec) -> str:
    from alexnet import machine

    return machine.precision(how.precision, machine.device(how.device)[0])[0]


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
