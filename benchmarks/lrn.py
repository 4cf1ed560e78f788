"""Response norms, forward + backward, ours against torch.nn.LocalResponseNorm on layer 1's map, in turns in one run.

    python benchmarks/lrn.py [--toy]        prints one JSON row; --toy: small shapes, seconds

Also in the row: the bandwidth of a plain copy in the same run, the share of it that ours reaches (5 passes:
x -> y, x and g -> dx), and the same-map norm on layer 2's map, for which PyTorch has no module. Times are medians.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import numba
import torch

from alexnet.kernels import lrn


def timed_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def in_turns_ms(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each call, the calls taking turns so that a slow moment of the machine hits all of them."""
    for call in calls.values():
        call()
    times = [{name: timed_ms(call) for name, call in calls.items()} for _ in range(rounds)]
    return {name: round(statistics.median(t[name] for t in times), 3) for name in calls}


def forward_backward(norm: Callable[[torch.Tensor], torch.Tensor], x_nchw: torch.Tensor) -> Callable[[], object]:
    x, g = x_nchw.requires_grad_(), torch.randn_like(x_nchw)
    return lambda: torch.autograd.grad(norm(x), x, g)


def row(toy: bool) -> dict:
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
    ms = in_turns_ms(norms, rounds=5)
    map_nbytes = x1.numel() * x1.element_size()
    return {
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
        "versions": {"torch": torch.__version__, "numba": numba.__version__, "python": platform.python_version()},
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="small shapes")
    print(json.dumps(row(parser.parse_args().toy)))
