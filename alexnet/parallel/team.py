"""The processes of a run: who this one is, what it does of a batch, and what they agree on.

Alone (world 1) every method answers at once and nothing is sent, so the training loop is the same for one and many.
Process 0 leads: it alone writes, and `log.say` is heard from it alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet import machine
from alexnet.data.loader import Job
from alexnet.errors import MachineError, UsageError
from alexnet.evaluate import logits as logits_of
from alexnet.log import say
from alexnet.parallel.exchange import gather, own, ring_nbytes, shares
from alexnet.parallel.gradients import Sums
from alexnet.spec import RunSpec

PATIENCE = timedelta(hours=1)  # with a process that is alive and silent: the leader may be packing or saving
T = TypeVar("T")


@dataclass
class Team:
    """What this process needs to know of the others.

    rows: pictures of each in the batch at hand. cuts, widths: {tensor: the dimension it is spread along, its whole
    length there}. summed: parameters whose gradients are added up. sent: bytes by layer that this process has sent for
    activations and gradients. weights: of the whole net.
    """

    mode: str = "none"
    rank: int = 0
    world: int = 1
    rows: list[int] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    summed: set[str] = field(default_factory=set)
    sent: Counter[str] = field(default_factory=Counter)
    weights: int = 0
    sums: Sums | None = None
    told: bool = False

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def spreads_rows(self) -> bool:
        """Does each process have its own pictures?"""
        return self.mode in ("data", "hybrid")

    @property
    def images(self) -> int:
        """Pictures in the batch at hand, on all processes."""
        return sum(self.rows) if self.spreads_rows else self.rows[0]

    @property
    def share(self) -> float:
        """What this process's mean loss counts in that of the batch."""
        return self.rows[self.rank] / self.images if self.mode == "data" else 1.0

    def own_job(self, job: Job) -> Job:
        """This process's part of a batch, cut as it would be in the whole one."""
        if not self.spreads_rows:
            return job
        sizes = shares(len(job.pictures), self.world)
        first = sum(sizes[: self.rank])
        return job.part(first, first + sizes[self.rank])

    def begin(self, labels: Tensor) -> Tensor:
        """Before a step: how many pictures each has. Returns the labels that the logits will be compared with."""
        self.rows = [len(labels)]
        if self.spreads_rows:
            self.rows = gather(torch.tensor([len(labels)]), 0, [1] * self.world).tolist()
        return gather(labels, 0, self.rows) if self.mode == "hybrid" else labels

    def looks(self, pictures: int) -> bool:
        """Before a look at the first `pictures` that each process has in hand: has each any?"""
        self.rows = [min(pictures, n) for n in self.rows]
        return min(self.rows) > 0

    def total(self, loss: Tensor, wrong: Tensor) -> tuple[float, int]:
        """(mean loss, wrong answers) of the whole batch, on every process."""
        if self.mode != "data":
            return loss.item(), int(wrong)
        count = self.rows[self.rank]
        sums = torch.tensor([loss.item() * count if count else 0.0, float(wrong)], dtype=torch.float64)
        dist.all_reduce(sums)
        return float(sums[0]) / self.images, int(sums[1])

    def watch(self, net: nn.Module) -> None:
        """Has the gradients of what every process holds added up."""
        if self.spreads_rows:
            summed = {n: p for n, p in net.named_parameters() if n in self.summed and p.requires_grad}
            self.sums = Sums(summed, self.count)

    def gradients(self) -> None:
        """After the backward pass: waits until every gradient is that of the whole batch."""
        if self.sums:
            self.sums.wait()

    def agree(self, *wishes: int | None) -> list[int]:
        """The largest of each process's wishes: whether to stop and whether to save must be the same for all."""
        found = torch.tensor([int(wish or 0) for wish in wishes])
        if self.world > 1:
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.tolist()

    def in_turn(self, do: Callable[[], T]) -> T:
        """What `do` returns, the leader first: it packs, the others find the pack. Raises what `do` raises."""
        with together(self):
            if self.leads:
                found = do()
            self.agree(0)
            return found if self.leads else do()

    def leave(self) -> None:
        """At the end: waits for the others, of whom the leader is still writing, and closes what connects them."""
        if self.world > 1 and dist.is_initialized():
            with together(self):
                dist.barrier()
            dist.destroy_process_group()

    def own(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of a whole net's tensors, what this process holds."""
        return {
            name: own(t, self.cuts[name], shares(self.widths[name], self.world)) if name in self.cuts else t
            for name, t in tensors.items()
        }

    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the whole net, as one process would have them; all processes must ask."""
        return {
            name: gather(t.detach(), self.cuts[name], shares(self.widths[name], self.world)) if name in self.cuts else t
            for name, t in tensors.items()
        }

    def on_whole_batches(self, net: nn.Module) -> nn.Module:
        """The net as a function of whole batches, whose pictures the processes share out among them."""
        return WholeBatch(net, self) if self.spreads_rows else net

    def count(self, layer: str, nbytes: int) -> None:
        self.sent[layer] += nbytes

    def tell(self, net: nn.Module) -> None:
        """Says after the first step what each process has sent, by layer, and what data parallel training would."""
        if self.world == 1 or self.told:
            return
        self.told = True
        mb, example = 2**20, next(net.parameters())
        layers = ", ".join(f"{layer} {nbytes / mb:,.1f}" for layer, nbytes in self.sent.items())
        plain = ring_nbytes(example.new_empty(self.weights, device="meta"), self.world)
        line = f"a step of {self.images} pictures sends from each of {self.world} processes, in MB: {layers}"
        line += f"; in all {sum(self.sent.values()) / mb:,.1f}"
        say(line if self.mode == "data" else f"{line} (with --parallel data {plain / mb:,.1f})")


class WholeBatch(nn.Module):
    """A net whose processes each take their share of a batch and all get the logits (N, classes) of the whole."""

    def __init__(self, net: nn.Module, team: Team):
        super().__init__()
        self.net, self.team = net, team

    def forward(self, images_nchw: Tensor) -> Tensor:
        self.team.rows = shares(len(images_nchw), self.team.world)
        logits = logits_of(self.net, own(images_nchw, 0, self.team.rows))
        return gather(logits, 0, self.team.rows) if self.team.mode == "data" else logits


class Unheard:
    """The metrics of a process that does not lead: nothing is written."""

    nbytes = 0

    def write(self, **record: object) -> None: ...

    def close(self) -> None: ...


def join(run: RunSpec) -> Team:
    """The team that torchrun has started, or one process alone. Raises UsageError for processes that were not told
    what to share, and MachineError where there are fewer GPUs than processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Team()
    if run.parallel == "none":
        raise UsageError(f"{world} processes were started for one run; give --parallel data, towers or hybrid")
    if not dist.is_initialized():
        machine.end_with_parent()  # torchrun's, which may be killed itself
        on_gpu = torch.cuda.is_available() and run.device != "cpu"
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if on_gpu and local >= torch.cuda.device_count():
            there = torch.cuda.device_count()
            raise MachineError(f"more processes than GPUs ({there}) here: --nproc-per-node {there}, or --device cpu")
        if on_gpu:
            torch.cuda.set_device(local)
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    return Team(run.parallel, dist.get_rank(), world)


@contextmanager
def together(team: Team) -> Iterator[None]:
    """Says in words when another process has ended. Raises MachineError then."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        lost = isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "connection", "nccl"))
        if team.world == 1 or not lost:
            raise
        raise MachineError(
            f"process {team.rank} of {team.world} stops: another one has ended, and said why.\n"
            "The same command goes on from the last checkpoint"
        ) from None
