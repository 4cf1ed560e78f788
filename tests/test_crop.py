"""Batches cut where the squares lie: every backend gives the bits of the loader's cut; splits that are kept decoded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_augment import EACH, prep_of
from tiny import spec
from triton_kernels import DEVICE, needs_triton

from alexnet import runs
from alexnet.data import augment, loader, resident
from alexnet.errors import DataError
from alexnet.kernels import crop
from alexnet.kernels.crop import Cutter
from alexnet.schedule import Clock
from alexnet.spec import DataSpec

RESIZED = replace(EACH, resized_crop=0.1)
BACKENDS = ["numba", "reference", pytest.param("triton", marks=needs_triton)]


def case(size_px: int, crop_px: int, data: DataSpec = EACH, count: int = 5):
    """Squares (7, S, S, 3), which of them make the batch, how they are cut, and the loader's cut of them."""
    squares = np.random.default_rng(1).integers(0, 256, (7, size_px, size_px, 3), np.uint8)
    prep = prep_of(size_px, crop_px, stds=(50.0, 60.5, 71.25))
    pictures = np.array([6, 0, 3, 3, 5])[:count]
    draws = augment.training_draws(data, prep, 3, 4, np.arange(count), True)
    out = np.full((count, crop_px, crop_px, 3), np.nan, np.float32)
    return squares, pictures, draws, prep, torch.from_numpy(augment.cut(squares[pictures], draws, prep, out))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size_px", "crop_px"), [(25, 19), (13, 8), (7, 7), (20, 1)])
@pytest.mark.parametrize("data", [EACH, RESIZED], ids=["as they are", "resized"])
def test_it_is_the_cut_of_the_loader(data, size_px, crop_px, dtype, backend):
    squares, pictures, draws, prep, wanted_nhwc = case(size_px, crop_px, data)
    device = DEVICE if backend == "triton" else "cpu"
    got = Cutter.of(torch.from_numpy(squares).to(device), prep, backend).cut(pictures, draws, dtype)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got.permute(0, 2, 3, 1).cpu(), wanted_nhwc.to(dtype))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "data", [replace(EACH, relight="none"), DataSpec(draw_group=2), replace(EACH, mirror=False), RESIZED]
)
def test_it_takes_every_kind_of_draw(data, backend):
    squares, pictures, draws, prep, wanted_nhwc = case(11, 6, data)
    device = DEVICE if backend == "triton" else "cpu"
    cutter = Cutter.of(torch.from_numpy(squares).to(device), prep, backend)
    assert torch.equal(cutter.cut(pictures, draws).permute(0, 2, 3, 1).cpu(), wanted_nhwc)
    nothing = augment.training_draws(data, prep, 0, 0, np.arange(0), True)
    assert cutter.cut(np.arange(0), nothing).shape == (0, 3, 6, 6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_resident_split_gives_the_batches_of_the_loader(backend, tiny_pack):
    split, run = tiny_pack.splits["train"], spec("data.relight=as_run")
    prep, device = runs.preprocessing(run, tiny_pack), torch.device(DEVICE if backend == "triton" else "cpu")

    def jobs():
        return loader.training_jobs(run, prep, len(split), Clock(2, 4, 6))  # the epoch's short batch among them

    wanted = ((b.images_nchw.clone(), b.labels.clone(), b.epoch) for b in loader.batches(split, prep, jobs(), 20, 0))
    cutter = Cutter.of(resident.upload(split, device, 2), prep, backend)
    got = resident.cut_batches(cutter, split.labels, jobs(), torch.float32)
    count = 0
    for mine, (images, labels, epoch) in zip(got, wanted, strict=True):
        assert torch.equal(mine.images_nchw.cpu(), images)
        assert torch.equal(mine.labels.cpu(), labels)
        assert mine.epoch == epoch
        count += 1
    assert count == 4


def test_on_the_cpu_batches_come_from_the_loader_in_the_nets_type(tiny_pack, capsys):
    split, run = tiny_pack.splits["train"], spec()
    prep, cpu = runs.preprocessing(run, tiny_pack), torch.device("cpu")
    jobs = loader.training_jobs(run, prep, len(split), Clock(0, 4, 2))
    made = list(resident.batches(split, prep, jobs, 20, 1, cpu, torch.bfloat16))
    assert [batch.images_nchw.dtype for batch in made] == [torch.bfloat16] * 2
    assert made[0].images_nchw.shape == (20, 3, 12, 12)
    assert capsys.readouterr().err == ""  # there was nothing to choose


def test_what_fits_is_said(tiny_pack):
    split = tiny_pack.splits["train"]
    assert resident.squares_nbytes(split) == 66 * 16 * 16 * 3
    kept, reason = resident.fits(split, torch.device("cuda"), 10**6)
    assert kept
    assert "kept on the GPU" in reason
    for device, free in (("cuda", 70_000), ("cpu", 10**6)):
        kept, reason = resident.fits(split, torch.device(device), free)
        assert not kept
        assert "decoded for each batch" in reason


def test_upload_names_a_damaged_picture(tiny_pack, monkeypatch):
    split = tiny_pack.splits["val"]
    crcs = split.crc32.copy()
    crcs[7] ^= 1
    monkeypatch.setattr(split, "crc32", crcs)
    with pytest.raises(DataError, match="damaged"):
        resident.upload(split, torch.device("cpu"), 2)


def test_the_choice_has_a_reason():
    assert crop.chosen("cpu")[0] == "numba"
    assert crop.chosen("mps") == ("reference", "Triton's kernels run on CUDA devices, not on mps")
