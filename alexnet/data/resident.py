"""Packs whose decoded squares fit into the GPU's memory are kept there as uint8: decoded once, then cut for each batch
by one kernel, with no Python for each picture. Others, and runs on the CPU, go through loader.py; the batches of both
are the same bits.

Imagenette at 256 pixels is 1.9 GB, 300,000 pictures 59 GB, ImageNet (1.28 million) 252 GB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from alexnet.data import augment, loader
from alexnet.data.augment import Preprocessing
from alexnet.data.loader import Batch, Job
from alexnet.data.packfile import Split
from alexnet.data.reader import Reader
from alexnet.kernels.crop import Cutter
from alexnet.kernels.gpu import on
from alexnet.log import say

SHARE = 0.6  # of the memory that is free: the rest is for the net, at the largest batches
CHUNK = 512  # pictures decoded before they are sent
_kept: WeakKeyDictionary[Split, Tensor] = WeakKeyDictionary()  # what is on a GPU already, as long as its pack is open


def squares_nbytes(split: Split) -> int:
    return len(split) * split.size_px**2 * 3


def fits(split: Split, device: torch.device, free_nbytes: int | None = None) -> tuple[bool, str]:
    """(whether to keep a split on the device, why); `free_nbytes` None: what is free there now."""
    if device.type != "cuda":
        return False, f"the net runs on the {device.type}: pictures are decoded for each batch"
    free = torch.cuda.mem_get_info(device)[0] if free_nbytes is None else free_nbytes
    nbytes, allowed = squares_nbytes(split), int(SHARE * free)
    size = f"{nbytes / 1e9:.1f} GB of squares"
    if nbytes > allowed:
        return False, f"{size} are more than the {allowed / 1e9:.1f} GB for them: pictures are decoded for each batch"
    return True, f"{size} are kept on the GPU, decoded once"


def keep(split: Split, device: torch.device, workers: int) -> Tensor | None:
    """The squares of a split on the device, sent there once, or None where they do not fit. On a GPU, says which and
    why. Raises DataError for a picture that cannot be read, naming it.
    """
    if device.type != "cuda":
        return None
    device = torch.empty(0, device=device).device  # with its number
    if split not in _kept or _kept[split].device != device:
        fitting, reason = fits(split, device)
        say(reason)
        if not fitting:
            return None
        _kept[split] = upload(split, device, workers)
    return _kept[split]


def upload(split: Split, device: torch.device, workers: int) -> Tensor:
    """uint8 (M, S, S, 3) on the device. Raises DataError for a picture that cannot be read, naming it."""
    size = split.size_px
    squares = torch.empty((len(split), size, size, 3), dtype=torch.uint8, device=device)
    pinned = torch.empty((min(CHUNK, len(split)), size, size, 3), dtype=torch.uint8, pin_memory=device.type == "cuda")
    readers = [Reader(split) for _ in range(max(1, workers))]
    with ThreadPoolExecutor(len(readers), thread_name_prefix="decode") as threads, on(device):
        for first in range(0, len(split), CHUNK):
            chunk = pinned[: len(split) - first]
            fill = partial(_fill, readers, first, chunk.numpy())
            for _ in threads.map(fill, range(len(readers))):
                pass
            squares[first : first + len(chunk)].copy_(chunk)
    return squares


def _fill(readers: list[Reader], first: int, squares_mhwc: np.ndarray, number: int) -> None:
    """What one of the readers reads of the pictures from `first` on."""
    for i in range(number, len(squares_mhwc), len(readers)):
        readers[number].read(first + i, squares_mhwc[i])


def cut_batches(cutter: Cutter, labels: np.ndarray, jobs: Iterable[Job], dtype: torch.dtype) -> Iterator[Batch]:
    """The batches of `jobs`, pictures and labels already on the device of the squares."""
    device = cutter.squares_mhwc.device
    on_device = torch.from_numpy(labels.astype(np.int64)).to(device)
    for job in jobs:
        images = cutter.cut(job.pictures, job.draws, dtype)
        if job.fade is not None and len(job.fade.rows):
            _fade(cutter, job, images)
        yield Batch(images, on_device[cutter.to_device(job.pictures)], job.epoch)


def _fade(cutter: Cutter, job: Job, images_nchw: Tensor) -> None:
    """Mixes other pictures into some rows of a batch, in place; both are cut again in float32 and so rounded once."""
    own = cutter.cut(job.pictures[job.fade.rows], job.draws.part(job.fade.rows))
    other = cutter.cut(job.fade.pictures, job.fade.draws)
    images_nchw[cutter.to_device(job.fade.rows)] = augment.fade(own, other).to(images_nchw.dtype)


def batches(
    split: Split,
    prep: Preprocessing,
    jobs: Iterable[Job],
    batch: int,
    workers: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Batch]:
    """The batches of `jobs` as the net takes them, on `device` in `dtype`: cut there where the split fits, from the
    loader elsewhere, valid until the next one is asked for. Raises DataError and MachineError as `loader.batches`.
    """
    squares = keep(split, device, workers)
    if squares is not None:
        yield from cut_batches(Cutter.of(squares, prep), split.labels, jobs, dtype)
        return
    narrow = dtype if dtype == torch.bfloat16 else torch.float32
    made = loader.batches(split, prep, jobs, batch, workers, narrow)
    if device.type == "cuda":
        side = torch.cuda.Stream(device)
        yield from (_sent(each, device, dtype, side) for each in made)
    else:
        yield from (replace(each, images_nchw=each.images_nchw.to(device, dtype)) for each in made)


def _sent(made: Batch, device: torch.device, dtype: torch.dtype, side: torch.cuda.Stream) -> Batch:
    """Copied on a stream of its own: the host waits for this copy, and not for what the net still has to do."""
    net = torch.cuda.current_stream(device)
    with torch.cuda.stream(side):
        images, labels = made.images_nchw.to(device).to(dtype), made.labels.to(device)
    net.wait_stream(side)
    for sent in (images, labels):
        sent.record_stream(net)  # its memory is free again when the net is through with it
    return Batch(images, labels, made.epoch)
