"""The door to dense layers where nothing is learnt: x W^T + b by oneDNN, which is quicker for few rows.

PyTorch gives float32 products on a CPU to MKL, which on an AMD processor reads the weights of fc6 far slower than
memory could give them, for the ten rows of one picture's views (paper, section 6). oneDNN, which computes the
convolutions, is in the same PyTorch. It has no gradient there; training stays with PyTorch's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def chosen(x: Tensor, weight: Tensor) -> tuple[str, str]:
    """(backend, reason) for these tensors."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return "torch", "a gradient may be wanted"
    if x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return "torch", f"oneDNN serves float32 on the CPU here, not {x.dtype} on {x.device.type}"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "torch", "a graph is being made, which others will read"
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return "torch", "this PyTorch has no oneDNN"
    return "onednn", "few rows are read at the speed of memory"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As torch.nn.functional.linear: x (..., inputs), weight (outputs, inputs), bias (outputs,) or None."""
    if not x.numel() or chosen(x, weight)[0] == "torch":
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
