"""One training of a study: which spec on which pictures in which folder, and how several are run.

A loss that stops being finite is a result, noted in the run folder. Trainings side by side share the cores; one that is
killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from alexnet import cores, runs
from alexnet import spec as spec_module
from alexnet.data.pack import Pack, open_pack
from alexnet.errors import UsageError
from alexnet.spec import Spec
from alexnet.study import measure as study_measure
from alexnet.study.data import first_classes
from alexnet.study.measure import DIVERGED
from alexnet.study.words import Arm, Claim, Scale, spec_of

NEWER_THAN_ROWS = ("resized_crop", "fade")  # settings that are off in all rows from before there were any
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
        how |= {"probe": self.scale.probe} if self.scale.probe else {}
        return digest_of(self.spec(arm, seed * self.claim.members), self.task.fingerprint, json.dumps(how))


def digest_of(spec: Spec | dict, *more: str) -> str:
    record = spec if isinstance(spec, dict) else spec_module.to_dict(spec)
    free = (*runs.FREE_TO_CHANGE, "evaluate_every")
    record = {**record, "run": {k: v for k, v in record["run"].items() if k not in free}}
    record["data"] = {k: v for k, v in record["data"].items() if v or k not in NEWER_THAN_ROWS}
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
        threads = max(1, cores.usable() // side_by_side)
        with ProcessPoolExecutor(side_by_side, get_context("spawn"), _share_cores, (threads,)) as pool:
            waiting = {pool.submit(_unless_orphaned, run, job, os.getpid()): job for job in ready if not job.finished}
            yield from (job for job in ready if job not in waiting.values())
            try:
                for future in as_completed(waiting):
                    future.result()
                    yield waiting[future]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _unless_orphaned(run: Callable[[Job], None], job: Job, parent: int) -> None:
    """In a worker. One whose parent is gone has stopped and saved, and must not take what was handed to it ahead."""
    try:
        if os.getppid() == parent:
            run(job)
    finally:
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)


def _share_cores(threads: int) -> None:
    """A worker's part of the machine; it stops, and saves, when its parent is gone."""
    import torch

    from alexnet import machine

    torch.set_num_threads(threads)
    machine.end_with_parent()
