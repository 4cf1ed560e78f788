"""Tensors from process to process: parts laid side by side, sums of parts, and their gradients.

A tensor is spread over the processes along one dimension, `sizes[rank]` of it on each; sizes may differ by one, and
what is sent is then padded to the largest. Rows of channels_last activations travel as they lie in memory. Parts are
added up in the order of the ranks, so that answers do not change from run to run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

Count = Callable[[int], None]  # told how many bytes this process sends


def shares(count: int, world: int) -> list[int]:
    """How many of `count` each process has: the first ones one more where it does not divide."""
    return [count // world + (rank < count % world) for rank in range(world)]


def own(x: Tensor, dim: int, sizes: list[int]) -> Tensor:
    """This process's part of a whole tensor, as a view."""
    rank = dist.get_rank()
    return x.narrow(dim, sum(sizes[:rank]), sizes[rank])


def gather(x: Tensor, dim: int, sizes: list[int], count: Count = lambda nbytes: None) -> Tensor:
    """The whole tensor of which every process has its part."""
    part = _padded(_turned(x, dim), dim, max(sizes))
    whole = [torch.empty_like(part) for _ in sizes]
    dist.all_gather(whole, part)
    count(part.nbytes * (len(sizes) - 1))
    parts = [p.narrow(0 if dim == 0 else -1, 0, size) for p, size in zip(whole, sizes, strict=True)]
    return torch.cat(parts) if dim == 0 else torch.cat(parts, -1).movedim(-1, dim)


def scatter_sum(g: Tensor, dim: int, sizes: list[int], count: Count = lambda nbytes: None) -> Tensor:
    """This process's part of the sum of all processes' whole tensors."""
    pieces = torch.stack([_padded(_turned(p, dim), dim, max(sizes)) for p in g.split(sizes, dim)])
    received = torch.empty_like(pieces)
    dist.all_to_all_single(received, pieces)
    count(pieces.nbytes // len(sizes) * (len(sizes) - 1))
    axis, mine = (0 if dim == 0 else -1), sizes[dist.get_rank()]
    total = received.sum(0).narrow(axis, 0, mine)
    return total if dim == 0 else total.movedim(-1, dim)


def _turned(x: Tensor, dim: int) -> Tensor:
    """The spread dimension first or, which costs nothing in channels_last, last."""
    return x.contiguous() if dim == 0 else x.movedim(dim, -1).contiguous()


def _padded(x: Tensor, dim: int, size: int) -> Tensor:
    """Zeros behind the spread dimension, which `_turned` has put first or last, up to `size`."""
    if dim == 0:
        return x if len(x) == size else torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])
    return x if x.shape[-1] == size else F.pad(x, (0, size - x.shape[-1]))


class Gather(torch.autograd.Function):
    """`gather` of activations. Where all processes compute the same from the whole (`same`: the loss), the gradient
    of a part is its part of the gradient; where each computes its own, it is the sum over all.
    """

    @staticmethod
    def forward(ctx, x: Tensor, dim: int, sizes: list[int], same: bool, count: Count) -> Tensor:
        ctx.rest = dim, sizes, same, count
        return gather(x, dim, sizes, count)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple:
        dim, sizes, same, count = ctx.rest
        return own(g, dim, sizes) if same else scatter_sum(g, dim, sizes, count), None, None, None, None


class Total(torch.autograd.Function):
    """The sum over all processes of numbers that all then go on with: the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor, count: Count) -> Tensor:
        ctx.count, total = count, x.clone()
        return _all_reduced(total, count)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        return _all_reduced(g.clone(), ctx.count), None


def _all_reduced(x: Tensor, count: Count) -> Tensor:
    dist.all_reduce(x)
    count(ring_nbytes(x, dist.get_world_size()))
    return x


def in_memory_order(grad: Tensor) -> Tensor:
    """A dense gradient as a flat view: it lies as its parameter does, the same on every process."""
    return grad.as_strided((grad.numel(),), (1,))


def ring_nbytes(x: Tensor, world: int) -> int:
    """What each process sends to add up a tensor in a ring."""
    return 2 * x.nbytes * (world - 1) // world
