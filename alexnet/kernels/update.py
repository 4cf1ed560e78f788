"""The door to the 2012 update (paper, section 5) of one tensor, in one pass over memory:

    v <- momentum * v - rate * gradient - rate * decay * w        w <- w + v        copy <- w, rounded

w and v are float32; the gradient float32 or bfloat16; `copy` is the bfloat16 tensor that the net computes with, where
it computes in bfloat16. 20 bytes a weight are moved, a third of what one pass for each operation moves. `go`, a bool on
the device, leaves everything as it is where it is False: a step can be called off that the host knows nothing of yet.
`numbers`, float32 on the device, hold momentum, rate and rate * decay of a step that is replayed with others each time.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from alexnet.kernels import gpu
from alexnet.kernels.threads import over_rows

NUMBERS_PER_PIECE = 1 << 16


def chosen(w: Tensor, v: Tensor, gradient: Tensor, copy: Tensor | None = None) -> tuple[str, str]:
    """(backend, reason) for these tensors."""
    tensors = [t for t in (w, v, gradient, copy) if t is not None]
    if any(t.device != w.device for t in tensors):
        return "reference", "the tensors are on several devices"
    if w.dtype != torch.float32 or v.dtype != torch.float32 or gradient.dtype not in (torch.float32, torch.bfloat16):
        return "reference", f"the compiled loop takes float32 weights, not {w.dtype}"
    if any(t.stride() != w.stride() for t in tensors) or not _is_dense(w):
        return "reference", "the tensors lie differently in memory"
    if w.device.type == "cpu":
        return ("numba", "one compiled pass") if find_spec("numba") else ("reference", "numba is not installed")
    obstacle = gpu.obstacle(w.device)
    return ("reference", obstacle) if obstacle else ("triton", "one kernel")


def on_device(rows: list[tuple[float, float, float]], device: torch.device) -> Tensor:
    """float32 (rows, 3) there, sent without a wait."""
    host = torch.tensor(rows, dtype=torch.float32, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


def _is_dense(t: Tensor) -> bool:
    return t.is_contiguous() or (t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last))


@torch.no_grad()
def update(
    w: Tensor,
    v: Tensor,
    gradient: Tensor,
    momentum: float,
    rate: float,
    decay: float,
    copy: Tensor | None = None,
    go: Tensor | None = None,
    numbers: Tensor | None = None,
) -> None:
    """v <- momentum * v - rate * gradient - rate * decay * w; w <- w + v; copy <- w, all of one shape and in place
    (paper, section 5). w and v float32, the gradient float32 or bfloat16, `copy` bfloat16, `go` () bool or None,
    `numbers` (3,) float32 in place of the three numbers, or None.
    """
    backend, _ = chosen(w, v, gradient, copy)
    if backend == "reference" or (backend == "numba" and numbers is not None):
        reference(w, v, gradient, momentum, rate, decay, copy, go, numbers)
        return
    if backend == "triton":
        from alexnet.kernels import update_triton

        given = on_device([(momentum, rate, rate * decay)], w.device)[0] if numbers is None else numbers
        update_triton.update(w, v, gradient, copy, given, go)
        return
    if go is not None and not go:  # on the CPU there is nothing to wait for
        return
    from alexnet.kernels import update_numba
    from alexnet.kernels.compiled import flat

    arrays = [flat(t) for t in (w, v, gradient)]
    out = flat(copy) if copy is not None else update_numba.NOTHING
    numbers = update_numba.numbers(momentum, rate, decay)
    over_rows(lambda a, b: update_numba.update(*arrays, out, a, b, *numbers), w.numel(), NUMBERS_PER_PIECE)


@torch.no_grad()
def reference(
    w: Tensor,
    v: Tensor,
    gradient: Tensor,
    momentum: float,
    rate: float,
    decay: float,
    copy: Tensor | None = None,
    go: Tensor | None = None,
    numbers: Tensor | None = None,
) -> None:
    """The rule in plain PyTorch, any device and type."""
    if go is not None:
        new = [t.clone() for t in (w, v, copy) if t is not None]
        reference(*new[:2], gradient, momentum, rate, decay, *new[2:], numbers=numbers)
        for t, changed in zip((w, v, copy), new, strict=False):
            t.copy_(torch.where(go, changed, t))
        return
    if numbers is not None:
        v.mul_(numbers[0]).sub_(gradient * numbers[1]).sub_(w * numbers[2])
    else:
        v.mul_(momentum).sub_(gradient.to(v.dtype), alpha=rate).sub_(w, alpha=rate * decay)
    w.add_(v)
    if copy is not None:
        copy.copy_(w)
