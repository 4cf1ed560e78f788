"""The door to batches of matrix products in float32 on a CPU: PyTorch's, or compiled loops where those are slow."""

from __future__ import annotations

import torch
from torch import Tensor

from alexnet.kernels.threads import over_rows

FEW_ROWS = 14  # of a: fewer do not fill a block of the loops


def chosen(a: Tensor, b: Tensor) -> tuple[str, str]:
    """(backend, reason) for a (..., rows, depth) and b (..., depth, columns)."""
    if a.device.type != "cpu" or a.dtype != torch.float32 or b.dtype != torch.float32:
        return "torch", f"the loops take float32 on the CPU, not {a.dtype} on {a.device.type}"
    from alexnet.kernels import gemm_numba

    if not gemm_numba.pay():
        return "torch", "its library knows this processor"
    if a.shape[-2] < FEW_ROWS or not a.shape[-1] or not b.shape[-1]:
        return "torch", f"fewer rows than {FEW_ROWS}, or nothing at all"
    return "numba", "compiled loops: MKL is slow on processors of AMD"


def batched(a: Tensor, b: Tensor, out: Tensor, add: bool = False, backend: str | None = None) -> Tensor:
    """out (P, rows, columns) = a (P, rows, depth) @ b (P, depth, columns), or that more with `add`; out's rows are
    dense. `backend`: None for the chosen one; "torch" or "numba" to force it.
    """
    if (backend or chosen(a, b)[0]) == "torch":
        return out.baddbmm_(a, b) if add else torch.bmm(a, b, out=out)
    from alexnet.kernels import gemm_numba

    sizes = gemm_numba.Sizes(*a.shape[1:], b.shape[2], *a.stride(), *b.stride(), *out.stride()[:2])
    arrays = _memory(a), _memory(b), _memory(out)
    over_rows(lambda first, last: gemm_numba.products(*arrays, sizes, first, last, add), len(a))
    return out


def _memory(t: Tensor):
    """From the first number of a view on, as a flat array."""
    reach = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.detach().as_strided((reach,), (1,)).numpy()
