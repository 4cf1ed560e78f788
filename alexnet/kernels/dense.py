"""The door to dense layers: x W^T + b by oneDNN, where PyTorch's own way is slower.

PyTorch gives float32 products on a CPU to MKL, which on an AMD processor reads the weights of fc6 far slower than
memory could give them for the ten rows of one picture's views (paper, section 6), and is at two thirds of oneDNN's rate
for 128 rows. oneDNN, which computes the convolutions, is in the same PyTorch. On such a processor, where MKL is at half
of oneDNN's rate for them, the gradients are its products, too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet import cores
from alexnet.kernels import plain


def chosen(x: Tensor, weight: Tensor) -> tuple[str, str]:
    """(backend, reason) for these tensors."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return "torch", f"oneDNN serves float32 on the CPU here, not {x.dtype} on {x.device.type}"
    if why := plain.types("cpu"):
        return "torch", why
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return "torch", "this PyTorch has no oneDNN"
    return "onednn", "weights are read at the speed of memory"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As torch.nn.functional.linear: x (..., inputs), weight (outputs, inputs), bias (outputs,) or None."""
    if not x.numel() or chosen(x, weight)[0] == "torch":
        return F.linear(x, weight, bias)
    return _Dense.apply(x, weight, bias)


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (wants_x, wants_weight, wants_bias) = ctx.saved_tensors, ctx.needs_input_grad
        rows = g.flatten(0, -2)
        return (
            _product(g, weight) if wants_x else None,
            _product(rows.T, x.flatten(0, -2)) if wants_weight else None,
            rows.sum(0) if wants_bias else None,
        )


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b."""
    if not cores.slow_library():
        return a @ b
    return torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
