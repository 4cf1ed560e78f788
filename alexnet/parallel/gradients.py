"""Gradients added up over the processes while the backward pass goes on.

On one machine they go through memory that the processes share (onemachine.py). Elsewhere parameters are put into
buckets from the last layer to the first, the order in which their gradients come, and a bucket is sent when its last
gradient is there. Both in the type the net computes in. `wait` is called before the update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet.parallel.exchange import in_memory_order, ring_nbytes
from alexnet.parallel.onemachine import Rows, open_rows

BUCKET_NBYTES = 16 << 20


@dataclass
class Bucket:
    """Some parameters, how many of their gradients have come, and what is on its way."""

    parameters: list[nn.Parameter] = field(default_factory=list)
    arrived: int = 0
    flat: Tensor | None = None
    work: dist.Work | None = None

    @property
    def nbytes(self) -> int:
        return sum(p.nbytes for p in self.parameters)

    def take(self, parameter: nn.Parameter) -> None:
        """Its gradient has come."""
        self.arrived += 1
        if self.arrived == len(self.parameters):
            self.send()

    def send(self) -> None:
        """A single gradient is summed where it lies, several as one."""
        grads = [p.grad for p in self.parameters]
        self.flat = grads[0] if len(grads) == 1 else torch.cat([in_memory_order(g) for g in grads])
        self.work = dist.all_reduce(self.flat, async_op=True)

    def receive(self) -> None:
        self.work.wait()
        if len(self.parameters) > 1:
            grads = [in_memory_order(p.grad) for p in self.parameters]
            for grad, part in zip(grads, self.flat.split([g.numel() for g in grads]), strict=True):
                grad.copy_(part)
        self.arrived, self.flat, self.work = 0, None, None


class Sums:
    """The sums of gradients of `parameters`, {name: parameter}; `count(layer, nbytes)` is told what is sent."""

    def __init__(self, parameters: dict[str, nn.Parameter], count: Callable[[str, int], None]):
        self.buckets: list[Bucket] = []
        self.rows: Rows | None = open_rows(list(parameters.values()))
        for name, parameter in reversed(parameters.items()):
            layer = name.rsplit(".", 1)[0]
            if self.rows:
                self._listen(self.rows.put, parameter, layer, count)
                continue
            last = self.buckets[-1] if self.buckets else None
            alike = last and last.parameters[0].dtype == parameter.dtype
            if not alike or last.nbytes + parameter.nbytes > BUCKET_NBYTES:
                self.buckets.append(Bucket())
            self.buckets[-1].parameters.append(parameter)
            self._listen(self.buckets[-1].take, parameter, layer, count)

    def _listen(self, take: Callable, parameter: nn.Parameter, layer: str, count: Callable[[str, int], None]) -> None:
        def came(parameter: nn.Parameter) -> None:
            count(layer, ring_nbytes(parameter.grad, dist.get_world_size()))
            take(parameter)

        parameter.register_post_accumulate_grad_hook(came)

    @torch.no_grad()
    def wait(self) -> None:
        """After the backward pass: every `.grad` is the sum."""
        if self.rows:
            self.rows.add_up()
        for bucket in self.buckets:
            bucket.receive()
