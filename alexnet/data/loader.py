"""Pictures to batches, off the training thread: decode, crop, mirror, mean and relighting in threads that hold no GIL.

Each thread makes whole batches; they come out in order whatever the number of threads. Buffers are recycled, so
nothing large is allocated in the steady state: a batch is valid until the next one is asked for.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from threading import Thread

import numpy as np
import torch

from alexnet.data import augment
from alexnet.data.augment import Draws, Preprocessing
from alexnet.data.packfile import Split
from alexnet.data.reader import Reader
from alexnet.errors import MachineError
from alexnet.kernels.compiled import flat
from alexnet.schedule import Clock
from alexnet.spec import Spec

TOGETHER = 8  # pictures that are read at a time: enough that threads seldom wait for Python's lock
AHEAD = 1  # batches ready beyond those in the threads' hands
STALLED_S = 60  # without a single picture: a server that is gone, not a slow one
JOIN_S = 3  # that threads get to end in


@dataclass
class Batch:
    """images_nchw float32 or bfloat16, channels_last in memory; labels int64 (N,); `epoch` it belongs to (training
    only).
    """

    images_nchw: torch.Tensor
    labels: torch.Tensor
    epoch: int = 0


@dataclass(frozen=True)
class Fade:
    """Rows of a batch (K,), and the pictures that are mixed into them, cut as in their own places (augment.fade)."""

    rows: np.ndarray
    pictures: np.ndarray
    draws: Draws

    def part(self, first: int, last: int) -> Fade:
        """For rows first ... last - 1 alone, which are then counted from 0."""
        mine = np.flatnonzero((self.rows >= first) & (self.rows < last))
        return Fade(self.rows[mine] - first, self.pictures[mine], self.draws.part(mine))


@dataclass(frozen=True)
class Job:
    """Which pictures make a batch, and how each is cut."""

    pictures: np.ndarray
    draws: Draws
    epoch: int = 0
    fade: Fade | None = None

    def part(self, first: int, last: int) -> Job:
        rows = slice(first, last)
        fade = self.fade and self.fade.part(first, last)
        return Job(self.pictures[rows], self.draws.part(rows), self.epoch, fade)


@dataclass
class Slot:
    """What a thread reads with, and its batch."""

    reader: Reader
    crops_nhwc: torch.Tensor


def batches(
    split: Split,
    prep: Preprocessing,
    jobs: Iterable[Job],
    batch: int,
    workers: int,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Batch]:
    """The batches of `jobs` in order, float32 or bfloat16. Raises DataError for a picture that cannot be read, naming
    it, as soon as a thread meets it, and MachineError where nothing can be read any more.
    """
    crop = prep.crop_px
    slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    readers = [Reader(split) for _ in range(max(1, workers + AHEAD))]  # one of them of the batch that is in use
    for reader in readers:
        slots.put(Slot(reader, torch.empty((batch, crop, crop, 3), dtype=dtype)))

    def make(job: Job, slot: Slot) -> Batch:
        images, mean_scales = slot.crops_nhwc[: job.pictures.size], augment.mean_and_scales(job.draws, prep)
        crops = flat(images).reshape(images.shape)
        for first in range(0, job.pictures.size, TOGETHER):
            slot.reader.cut(job.pictures[first : first + TOGETHER], job.draws, mean_scales, crops, first)
        if job.fade is not None:
            _fade(prep, job, slot, images)
        labels = torch.from_numpy(split.labels[job.pictures].astype(np.int64))
        return Batch(images.permute(0, 3, 1, 2), labels, job.epoch)

    yield from _in_order(make, iter(jobs), slots, workers, lambda: sum(reader.count for reader in readers))


def _fade(prep: Preprocessing, job: Job, slot: Slot, images_nhwc: torch.Tensor) -> None:
    """Mixes other pictures into some rows of a batch, in place; both are cut in float32 and so rounded once."""

    def cut(picture: int, draws: Draws) -> np.ndarray:
        out = np.empty((1, *images_nhwc.shape[1:]), np.float32)
        slot.reader.cut(np.array([picture]), draws, augment.mean_and_scales(draws, prep), out, 0)
        return out[0]

    for i, row in enumerate(job.fade.rows):
        own = cut(job.pictures[row], job.draws.part(slice(row, row + 1)))
        other = cut(job.fade.pictures[i], job.fade.draws.part(slice(i, i + 1)))
        images_nhwc[row] = torch.from_numpy(augment.fade(own, other))


def _in_order(
    make: Callable, jobs: Iterator[Job], slots: queue.SimpleQueue, workers: int, pulse: Callable[[], int]
) -> Iterator[Batch]:
    """`make(job, slot)` for every job, up to `workers` at a time, results in order; a slot returns after its batch's
    use.
    """
    if workers == 0:
        slot = slots.get()
        yield from (make(job, slot) for job in jobs)
        return
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    # Daemons, so that one that is stuck in a read cannot keep the process from ending.
    threads = [Thread(target=_work, args=(make, tasks), name="loader", daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    waiting: deque[tuple[Future, Slot]] = deque()
    try:
        while True:
            while len(waiting) < workers + AHEAD and (job := next(jobs, None)) is not None:
                waiting.append((Future(), slots.get()))
                tasks.put((job, *waiting[-1]))
            if not waiting:
                return
            failed = next((future for future, _ in waiting if future.done() and future.exception()), None)
            future, slot = waiting.popleft()
            yield _result(failed or future, pulse)
            slots.put(slot)
    finally:
        for future, _ in waiting:
            future.cancel()
        for _ in threads:
            tasks.put(None)
        until = time.monotonic() + JOIN_S
        for thread in threads:
            thread.join(max(0, until - time.monotonic()))


def _work(make: Callable, tasks: queue.SimpleQueue) -> None:
    """What a thread does: tasks until there is a None; whatever goes wrong is handed to who waits for the result."""
    while (task := tasks.get()) is not None:
        job, future, slot = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(make(job, slot))
            except BaseException as error:
                future.set_exception(error)


def _result(future: Future, pulse: Callable[[], int]) -> Batch:
    """Waits as long as pictures are being read. Counts seconds awake, so that a laptop may sleep in between."""
    quiet_s, before = 0, pulse()
    while not wait([future], timeout=1).done:
        quiet_s, before = (quiet_s + 1, before) if (now := pulse()) == before else (0, now)
        if quiet_s >= STALLED_S:
            raise MachineError(f"no picture could be read for {STALLED_S} s: the disk or server of the pack is stuck")
    return future.result()


def training_jobs(spec: Spec, prep: Preprocessing, count: int, clock: Clock) -> Iterator[Job]:
    """The batches of a run from step `clock.step` to its end; the last batch of an epoch may be smaller, as in 2012."""
    size, seed = spec.run.batch, spec.run.seed
    order_of_epoch = (-1, None)
    for step in range(clock.step, clock.total_steps):
        epoch, first = step // clock.steps_per_epoch, step % clock.steps_per_epoch * size
        if order_of_epoch[0] != epoch:
            order_of_epoch = (epoch, augment.epoch_order(count, seed, epoch, spec.data.reshuffle))
        places = np.arange(first, min(first + size, count))
        now = Clock(step, clock.steps_per_epoch, clock.total_steps)
        relit = not now.reached(spec.data.relight_until)
        order, fade = order_of_epoch[1], None
        if spec.data.fade:
            rows, others = augment.faded(spec.data, seed, epoch, places, count)
            fade = Fade(rows, order[others], augment.training_draws(spec.data, prep, seed, epoch, others, relit))
        draws = augment.training_draws(spec.data, prep, seed, epoch, places, relit)
        yield Job(order[places], draws, epoch, fade)


def view_jobs(prep: Preprocessing, count: int, batch: int, views: list[int]) -> Iterator[Job]:
    """Every picture once for each view: all views of a batch of pictures, then the next batch of pictures."""
    for first in range(0, count, batch):
        pictures = np.arange(first, min(first + batch, count))
        yield from (Job(pictures, augment.view_draws(prep, pictures.size, view)) for view in views)
