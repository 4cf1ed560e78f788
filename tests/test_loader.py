"""The same batches whatever the threads, every picture once an epoch, and damage told by name."""

import os
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from alexnet import runs, spec
from alexnet.data import augment, image, loader
from alexnet.data.augment import Preprocessing
from alexnet.data.pack import Pack, Split, open_pack, pack
from alexnet.data.sources import open_source
from alexnet.errors import DataError, MachineError
from alexnet.schedule import Clock
from alexnet.spec import Spec, change

BATCH, COUNT, EPOCHS = 8, 21, 3
PER_EPOCH = 3


@pytest.fixture(scope="module", params=["jpeg", "raw"])
def packed(request, tmp_path_factory) -> Pack:
    folder = tmp_path_factory.mktemp("loader")
    for i in range(COUNT + 9):
        split = "train" if i < COUNT else "val"
        path = folder / "set" / split / f"class{i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(i).integers(0, 256, (5, 5, 3), np.uint8)
        Image.fromarray(coarse).resize((44, 40), Image.Resampling.BICUBIC).save(path)
    pack(open_source(folder / "set"), folder / "p", size_px=40, encoding=request.param, workers=1)
    return open_pack(folder / "p")


def prep_of(opened: Pack) -> Preprocessing:
    return Preprocessing(40, 32, opened.mean_image, np.ones(3), opened.colour_stds, opened.colour_axes)


def run_of(**data) -> Spec:
    settings = [f"data.{name}={value}" for name, value in data.items()]
    return change(spec.as_run(classes=3), [f"run.batch={BATCH}", "run.seed=4", "net.crop_px=32", *settings])


def jobs_of(opened: Pack, run: Spec, step: int = 0):
    clock = Clock(step, PER_EPOCH, EPOCHS * PER_EPOCH)
    return loader.training_jobs(run, prep_of(opened), len(opened.splits["train"]), clock)


def batches_of(opened: Pack, run: Spec, workers: int, step: int = 0) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    made = loader.batches(opened.splits["train"], prep_of(opened), jobs_of(opened, run, step), BATCH, workers)
    return [(batch.images_nchw.clone(), batch.labels, batch.epoch) for batch in made]


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) and x[2] == y[2] for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("reshuffle", [True, False])
def test_same_batches_for_any_number_of_workers(packed, reshuffle):
    run = run_of(reshuffle=reshuffle)
    alone = batches_of(packed, run, workers=0)
    assert len(alone) == EPOCHS * PER_EPOCH
    assert same(alone, batches_of(packed, run, workers=1))
    assert same(alone, batches_of(packed, run, workers=2))


def test_what_a_batch_holds(packed):
    run, split, prep = run_of(reshuffle=True), packed.splits["train"], prep_of(packed)
    jobs = list(jobs_of(packed, run))
    for batch, job in zip(batches_of(packed, run, workers=1), jobs, strict=True):
        squares = np.stack([split.pixels(int(i)) for i in job.pictures])
        wanted = augment.cut(squares, job.draws, prep, np.empty((len(squares), 32, 32, 3), np.float32))
        assert torch.equal(batch[0], torch.from_numpy(wanted).permute(0, 3, 1, 2))
        assert batch[0].is_contiguous(memory_format=torch.channels_last)
        assert batch[1].tolist() == [split.labels[i] for i in job.pictures]


@pytest.mark.parametrize("settings", [(), ("data.fade=0.4", "data.draw_group=4")])
def test_in_bfloat16_every_number_is_rounded_once(tiny_pack, settings):
    run, split = tiny.spec(*settings), tiny_pack.splits["train"]
    prep, clock = runs.preprocessing(run, tiny_pack), Clock(0, 4, 4)
    made = {
        dtype: [
            batch.images_nchw.clone()
            for batch in loader.batches(split, prep, loader.training_jobs(run, prep, 66, clock), 20, 1, dtype)
        ]
        for dtype in (torch.float32, torch.bfloat16)
    }
    for wide, narrow in zip(*made.values(), strict=True):
        assert narrow.dtype == torch.bfloat16
        assert narrow.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(narrow, wide.bfloat16())


@pytest.mark.parametrize("reshuffle", [True, False])
def test_every_picture_once_an_epoch(packed, reshuffle):
    jobs = list(jobs_of(packed, run_of(reshuffle=reshuffle)))
    assert [(job.epoch, job.pictures.size) for job in jobs] == [(e, n) for e in range(3) for n in (8, 8, 5)]
    orders = [np.concatenate([job.pictures for job in jobs if job.epoch == epoch]) for epoch in range(EPOCHS)]
    assert all(sorted(order) == list(range(COUNT)) for order in orders)
    assert all(np.array_equal(a, b) is not reshuffle for a, b in pairwise(orders))


def test_light_goes_off_at_its_time(packed):
    jobs = list(jobs_of(packed, run_of(relight_until="4st")))
    assert [job.draws.divisor for job in jobs] == pytest.approx([1.1] * 4 + [1] * 5)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_stays_until_the_next_is_asked_for(packed, workers):
    made = loader.batches(packed.splits["train"], prep_of(packed), jobs_of(packed, run_of()), BATCH, workers)
    wanted = batches_of(packed, run_of(), workers=0)
    for batch, (images, _, _) in zip(made, wanted, strict=True):
        time.sleep(0.005)  # the threads go on making later batches meanwhile
        assert torch.equal(batch.images_nchw, images)


@pytest.mark.parametrize("step", [1, 4, 8])
def test_starting_in_the_middle_gives_the_same_batches(packed, step):
    run = run_of(reshuffle=True)
    assert same(batches_of(packed, run, 1, step), batches_of(packed, run, 1)[step:])
    assert batches_of(packed, run, 1, EPOCHS * PER_EPOCH) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_early_leaves_no_threads_at_work(packed, workers):
    made = loader.batches(packed.splits["train"], prep_of(packed), jobs_of(packed, run_of()), BATCH, workers)
    next(made)
    made.close()
    with pytest.raises(StopIteration):
        next(made)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_named(packed, tmp_path, workers):
    for file in packed.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    split = packed.splits["train"]
    key, stored = split.key(10), bytes(split.image_bytes(10))
    shard: Path = tmp_path / "train-00000.arrow"
    shard.write_bytes(shard.read_bytes().replace(stored, bytes(40) + stored[40:]))
    damaged = open_pack(tmp_path)
    with pytest.raises(DataError, match=f"picture {key} is damaged in the pack"):
        batches_of(damaged, run_of(), workers)


@pytest.mark.parametrize("stored", [b"\xff\xd8\xff\xe0 no picture", image.encode_jpeg(np.zeros((24, 24, 3), np.uint8))])
def test_a_picture_that_was_packed_wrongly_is_named(packed, monkeypatch, stored):
    monkeypatch.setattr(Split, "checked_bytes", lambda split, index: stored)
    with pytest.raises(DataError, match=r"train/class\d/\d+\.png"):
        batches_of(packed, run_of(), 2)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["cut", "emptied", "rewritten"])
def test_a_shard_that_is_damaged_while_it_is_read_is_an_error_with_its_name(packed, tmp_path, workers, damage):
    for file in packed.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    opened = open_pack(tmp_path)
    made = loader.batches(opened.splits["train"], prep_of(opened), jobs_of(opened, run_of()), BATCH, workers)
    next(made)
    shard = tmp_path / "train-00000.arrow"
    nbytes = shard.stat().st_size
    if damage == "rewritten":
        with open(shard, "r+b") as file:
            file.write(bytes(nbytes))
    else:
        os.truncate(shard, nbytes // 2 if damage == "cut" else 0)
    with pytest.raises(DataError, match="damaged in the pack" if damage == "rewritten" else "become shorter") as caught:
        list(made)
    assert damage == "rewritten" or str(shard) in str(caught.value)
    assert opened.splits["train"].key(COUNT - 1).endswith(".png")  # what is no picture needs the file no more


def test_a_shard_that_is_replaced_changes_nothing(packed, tmp_path):
    for file in packed.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    opened = open_pack(tmp_path)
    (tmp_path / "new").write_bytes(b"another file")
    (tmp_path / "new").rename(tmp_path / "train-00000.arrow")
    assert same(batches_of(opened, run_of(), 2), batches_of(packed, run_of(), 0))


class Reading:
    """A split whose picture number `at` does something else."""

    def __init__(self, split, at: int, do) -> None:
        self.split, self.at, self.do = split, at, do
        self.size_px, self.encoding, self.labels = split.size_px, "raw", split.labels

    def pixels(self, index: int) -> np.ndarray:
        return self.do() if index == self.at else self.split.pixels(index)


def test_whatever_goes_wrong_in_a_thread_ends_the_run_at_the_next_step(packed):
    def fail():
        raise ZeroDivisionError("a bug")

    prep, jobs = prep_of(packed), list(jobs_of(packed, run_of()))
    split = Reading(packed.splits["train"], int(jobs[2].pictures[0]), fail)
    made = loader.batches(split, prep, iter(jobs), BATCH, 2)
    next(made)
    time.sleep(0.3)  # a slow step, while the third batch fails
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        next(made)
    assert time.monotonic() - start < 2


def test_a_slow_disk_is_not_a_stuck_one(packed, monkeypatch):
    """A batch takes longer than what counts as stuck, a picture does not."""
    monkeypatch.setattr(loader, "STALLED_S", 2)
    split, prep = packed.splits["train"], prep_of(packed)
    slow = type("Slow", (Reading,), {"pixels": lambda self, index: (time.sleep(0.6), split.pixels(index))[1]})
    job = next(iter(jobs_of(packed, run_of())))
    (made,) = loader.batches(slow(split, -1, None), prep, iter([job]), BATCH, 1)
    assert made.images_nchw.shape[0] == BATCH


def test_a_read_that_never_returns_ends_the_run(packed, monkeypatch):
    monkeypatch.setattr(loader, "STALLED_S", 1)
    monkeypatch.setattr(loader, "JOIN_S", 0.1)
    free = threading.Event()
    split = Reading(packed.splits["train"], int(next(iter(jobs_of(packed, run_of()))).pictures[3]), free.wait)
    start = time.monotonic()
    with pytest.raises(MachineError, match="no picture could be read for 1 s"):
        list(loader.batches(split, prep_of(packed), jobs_of(packed, run_of()), BATCH, 2))
    assert time.monotonic() - start < 8
    free.set()


@pytest.mark.parametrize(("count", "batch", "views"), [(9, 4, [2]), (9, 4, list(range(10))), (3, 8, [2]), (0, 4, [2])])
def test_views_cover_every_picture_once_each(packed, count, batch, views):
    jobs = list(loader.view_jobs(prep_of(packed), count, batch, views))
    seen = [
        (int(i), int(t), int(x), bool(m))
        for job in jobs
        for i, t, x, m in zip(job.pictures, job.draws.tops, job.draws.lefts, job.draws.mirrors, strict=True)
    ]
    assert len(seen) == len(set(seen)) == count * len(views)
    assert {i for i, *_ in seen} == set(range(count))
    assert max((job.pictures.size for job in jobs), default=0) <= batch
    for first in range(0, len(jobs), len(views)):  # all views of some pictures before the next pictures
        assert all(np.array_equal(job.pictures, jobs[first].pictures) for job in jobs[first : first + len(views)])
