"""Fade (run 170-fade): which groups are mixed with which, what is left of them, and that every path makes the same."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from alexnet import runs, spec
from alexnet.data import augment, loader, resident
from alexnet.errors import UsageError
from alexnet.kernels.crop import Cutter
from alexnet.parallel import Team
from alexnet.schedule import Clock
from alexnet.spec import DataSpec

FADED = ("data.fade=0.4", "data.draw_group=4")


def jobs_of(settings: tuple[str, ...], pack, batch: int = 20) -> list[loader.Job]:
    run = tiny.spec(*settings, f"run.batch={batch}")
    return list(loader.training_jobs(run, runs.preprocessing(run, pack), 66, Clock(0, 4, 8)))


def test_groups_are_mixed_with_groups_at_the_rate_asked_for():
    data, places = DataSpec(draw_group=32, fade=0.05), np.arange(320_000)
    rows, others = augment.faded(data, 1, 2, places, 320_000)
    assert len(rows) / 320_000 == pytest.approx(0.05, abs=0.008)
    assert (rows.reshape(-1, 32)[:, 0] % 32 == 0).all()
    assert (others % 32 == rows % 32).all()
    assert (others.reshape(-1, 32) // 32 == others.reshape(-1, 32)[:, :1] // 32).all()
    assert len(set(others[::32] // 32)) > 400
    assert not len(augment.faded(replace(data, fade=0.0), 1, 2, places, 320_000)[0])


def test_places_alone_count(tiny_pack):
    whole = augment.faded(DataSpec(draw_group=4, fade=0.4), 3, 1, np.arange(66), 66)
    rows, others = augment.faded(DataSpec(draw_group=4, fade=0.4), 3, 1, np.arange(20, 40), 66)
    inside = (whole[0] >= 20) & (whole[0] < 40)
    np.testing.assert_array_equal(rows + 20, whole[0][inside])
    np.testing.assert_array_equal(others, whole[1][inside])
    assert others.max() < 66


def test_a_faded_picture_is_three_quarters_itself_and_one_quarter_the_other(tiny_pack):
    split, mixed = tiny_pack.splits["train"], 0
    prep = runs.preprocessing(tiny.spec(*FADED), tiny_pack)
    jobs, plain = jobs_of(FADED, tiny_pack), jobs_of(("data.draw_group=4",), tiny_pack)
    made = [b.images_nchw.clone() for b in loader.batches(split, prep, jobs, 20, 1)]
    alone = [b.images_nchw.clone() for b in loader.batches(split, prep, plain, 20, 1)]
    for got, own, job in zip(made, alone, jobs, strict=True):
        rest = np.setdiff1d(np.arange(len(own)), job.fade.rows)
        assert torch.equal(got[rest], own[rest])
        squares = np.stack([split.pixels(int(p)) for p in job.fade.pictures]) if len(job.fade.rows) else None
        if squares is not None:
            other = augment.cut(squares, job.fade.draws, prep, np.empty((len(squares), 12, 12, 3), np.float32))
            wanted = 0.75 * own[job.fade.rows] + 0.25 * torch.from_numpy(other).permute(0, 3, 1, 2)
            torch.testing.assert_close(got[job.fade.rows], wanted)
        mixed += len(job.fade.rows)
    assert 0.2 < mixed / (2 * 66) < 0.6


@pytest.mark.parametrize("settings", [(), ("data.resized_crop=0.3",)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_squares_on_the_device_give_the_same_bits(settings, dtype, backend, tiny_pack):
    split, run = tiny_pack.splits["train"], tiny.spec(*FADED, *settings)
    prep, jobs = runs.preprocessing(run, tiny_pack), jobs_of((*FADED, *settings), tiny_pack)
    cutter = Cutter.of(resident.upload(split, torch.device("cpu"), 1), prep, backend)
    got = resident.cut_batches(cutter, split.labels, jobs, dtype)
    for mine, theirs in zip(got, loader.batches(split, prep, jobs, 20, 0, dtype), strict=True):
        assert torch.equal(mine.images_nchw, theirs.images_nchw)


def test_a_team_cuts_what_one_process_would(tiny_pack):
    """Whatever is drawn goes along when a batch is shared out: sizes of crops, and what is mixed in."""
    settings = (*FADED, "data.resized_crop=0.3")
    split, prep = tiny_pack.splits["train"], runs.preprocessing(tiny.spec(*settings), tiny_pack)
    jobs = jobs_of(settings, tiny_pack)
    whole = [b.images_nchw.clone() for b in loader.batches(split, prep, jobs, 20, 0)]
    parts = []
    for rank in range(3):
        team = Team(mode="data", rank=rank, world=3)
        mine = [team.own_job(job) for job in jobs]
        parts.append([b.images_nchw.clone() for b in loader.batches(split, prep, mine, 20, 0)])
    for together, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(shares), together)


def test_a_share_is_from_0_to_1():
    with pytest.raises(UsageError, match="fade"):
        spec.change(spec.preset("as_run"), ["data.fade=1.5"])
