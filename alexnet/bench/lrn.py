"""Response norms, forward + backward, ours against torch.nn.LocalResponseNorm on layer 1's map, in turns in one run.

Also in the row: the bandwidth of a plain copy in the same run, the share of it that ours reaches (5 passes:
x -> y, x and g -> dx), and the same-map norm on layer 2's map, for which PyTorch has no module. Times are medians.
"""

from collections.abc import Callable

import torch

from alexnet import machine
from alexnet.bench.turns import in_turns_s
from alexnet.kernels import lrn


def forward_backward(norm: Callable[[torch.Tensor], torch.Tensor], x_nchw: torch.Tensor) -> Callable[[], object]:
    x, g = x_nchw.requires_grad_(), torch.randn_like(x_nchw)
    return lambda: torch.autograd.grad(norm(x), x, g)


def rows(toy: bool, data: str | None = None) -> list[dict]:
    """One row; `toy`: small shapes. Freed memory is kept, for everybody, as in training."""
    machine.keep_freed_memory()

    def picture(*shape: int) -> torch.Tensor:
        return torch.randn(shape).relu().contiguous(memory_format=torch.channels_last)

    shape1, shape2 = ((8, 96, 13, 13), (8, 256, 7, 7)) if toy else ((128, 96, 55, 55), (128, 256, 27, 27))
    x1, x2 = picture(*shape1), picture(*shape2)
    source, target = x1.detach().clone(), torch.empty_like(x1)
    norms = {
        "ours": forward_backward(lambda x: lrn.local_response_norm(x, 5, 1e-4, 0.75, 1.0), x1),
        "ours_bf16": forward_backward(lambda x: lrn.local_response_norm(x, 5, 1e-4, 0.75, 1.0), x1.detach().bfloat16()),
        "peer": forward_backward(torch.nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0), x1.detach().contiguous()),
        "spatial": forward_backward(lambda x: lrn.spatial_response_norm(x, 5, 1e-3, 0.75, 1.0), x2),
        "forward": lambda: lrn.local_response_norm(x1.detach(), 5, 1e-4, 0.75, 1.0),
        "copy": lambda: target.copy_(source),
    }
    ms = {name: round(1e3 * time_s, 3) for name, time_s in in_turns_s(norms, 2 if toy else 5).items()}
    map_nbytes = x1.numel() * x1.element_size()
    row = {
        "name": "lrn_forward_backward",
        "shape": shape1,
        "value": ms["ours"],
        "unit": "ms",
        "peer": {"torch.nn.LocalResponseNorm": ms["peer"]},
        "ratio": round(ms["peer"] / ms["ours"], 2),
        "forward_ms": ms["forward"],
        "bfloat16_ms": ms["ours_bf16"],
        "spatial_ms": {"shape": shape2, "value": ms["spatial"]},
        "copy_gb_per_s": round(2 * map_nbytes / ms["copy"] / 1e6, 2),
        "share_of_copy_bandwidth": round(5 / 2 * ms["copy"] / ms["ours"], 3),
        "backend": lrn.chosen("cpu", torch.float32),
    }
    return [row]
