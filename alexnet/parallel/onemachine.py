"""Gradients of processes on one machine, added up in memory they share: sockets would copy each of them several times.

Every process writes its own row while its backward pass goes on, and in the end adds up all rows, in their order, in
float32: so all have the same bits.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet.parallel.exchange import in_memory_order

MEMORY = Path("/dev/shm")
ALIGNED_NBYTES = 64
CHUNK = 2**18  # numbers: what is added up stays in cache


class Rows:
    """A row of shared memory for each process, with a place for the gradient of each parameter."""

    def __init__(self, parameters: list[nn.Parameter], memory: mmap.mmap, row_nbytes: int):
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        places, at = torch.frombuffer(memory, dtype=torch.uint8), 0
        self.rows: dict[nn.Parameter, list[Tensor]] = {}
        for p in parameters:
            starts = [rank * row_nbytes + at for rank in range(self.world)]
            self.rows[p] = [places[start : start + p.nbytes].view(p.dtype) for start in starts]
            at += _aligned(p.nbytes)

    def put(self, parameter: nn.Parameter) -> None:
        self.rows[parameter][self.rank].copy_(in_memory_order(parameter.grad))

    @torch.no_grad()
    def add_up(self) -> None:
        """Every `.grad` becomes the sum. Returns when all processes have read what they need."""
        dist.barrier()
        for parameter, rows in self.rows.items():
            parts = zip(*(row.split(CHUNK) for row in (in_memory_order(parameter.grad), *rows)), strict=True)
            for total, first, *others in parts:
                wide = first.to(torch.promote_types(first.dtype, torch.float32), copy=True)
                for other in others:
                    wide.add_(other)
                total.copy_(wide)
        dist.barrier()


def open_rows(parameters: list[nn.Parameter]) -> Rows | None:
    """None where the processes have no memory to share: on several machines, on GPUs, or where there is too little."""
    if not parameters or any(p.device.type != "cpu" for p in parameters):
        return None
    row_nbytes = sum(_aligned(p.nbytes) for p in parameters)
    created = _create(dist.get_world_size() * row_nbytes) if dist.get_rank() == 0 else None
    told = [created]
    dist.broadcast_object_list(told)
    memory = _map(told[0])
    seen = torch.tensor([memory is not None], dtype=torch.int32)
    dist.all_reduce(seen, dist.ReduceOp.MIN)
    if created:
        os.unlink(created)  # from here on it goes with the last process
    return Rows(parameters, memory, row_nbytes) if seen.item() else None


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNED_NBYTES) * ALIGNED_NBYTES


def _create(nbytes: int) -> str | None:
    """A file in memory of so many bytes, which are really there."""
    try:
        file, name = tempfile.mkstemp(prefix="alexnet-gradients-", dir=MEMORY)
    except OSError:
        return None
    try:
        os.posix_fallocate(file, 0, nbytes)
    except OSError:
        os.unlink(name)
        return None
    finally:
        os.close(file)
    return name


def _map(name: str | None) -> mmap.mmap | None:
    try:
        with open(name or "", "r+b") as file:
            return mmap.mmap(file.fileno(), 0)
    except OSError:
        return None
