"""The convolutions of a net, forward + backward, ours against PyTorch's, in turns in the same run; in bf16 where the
machine multiplies it, and in fp32.

Also in a row: how far each is from float64, in the outputs and in the kernels' gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet import machine
from alexnet import spec as spec_module
from alexnet.bench.turns import gemm, in_turns_s
from alexnet.kernels import conv
from alexnet.kernels import gemm as gemm_kernel
from alexnet.layers import Conv2d
from alexnet.net import AlexNet

ERROR_PICTURES = 16  # are enough to see how far numbers are off


def rows(toy: bool, data: str | None = None) -> list[dict]:
    """A row for the net of 2012, one for torchvision's, and one for the products of Winograd's algorithm; `toy`: few
    pictures. Freed memory is kept, for everybody.
    """
    machine.keep_freed_memory()
    batch, rounds = (4, 1) if toy else (128, 5)
    best, _ = machine.precision("auto", torch.device("cpu"))
    kinds = [(preset, precision) for precision in dict.fromkeys((best, "fp32")) for preset in ("as_run", "torchvision")]
    return [*(_row(preset, precision, batch, rounds) for preset, precision in kinds), _products(toy, rounds)]


def _row(preset: str, precision: str, batch: int, rounds: int) -> dict:
    spec, dtype = spec_module.preset(preset, classes=10), torch.bfloat16 if precision == "bf16" else torch.float32
    convolutions = _convolutions(AlexNet(spec.net), batch, dtype)
    layers = [_layer(name, layer, x, rounds) for name, layer, x in convolutions]
    ours, peer = (sum(layer[key] for layer in layers) for key in ("ms", "peer_ms"))
    size = 512 if batch < 128 else 2048
    limit_s = in_turns_s({"limit": gemm(size, dtype)}, rounds)["limit"]
    return {
        "name": f"conv_{preset}",
        "value": round(ours, 1),
        "unit": "ms",
        "peer": {"torch.nn.functional.conv2d": round(peer, 1)},
        "ratio": round(peer / ours, 2),
        "layers": layers,
        "gemm_tflops": round(2e-12 * size**3 / limit_s, 4),
        "precision": precision,
        "batch": batch,
    }


def _products(toy: bool, rounds: int) -> dict:
    """The three products of conv3 at its points, as for 56 pictures: the outputs, and both gradients."""
    points, tiles, channels, maps = (4, 20, 16, 24) if toy else (49, 504, 256, 384)
    x, w, g = (torch.randn(points, *sizes) for sizes in ((tiles, channels), (maps, channels), (tiles, maps)))
    y, dx, dw = torch.empty_like(g), torch.empty_like(x), torch.zeros_like(w)

    def each(backend: str | None) -> None:
        gemm_kernel.batched(x, w.transpose(1, 2), y, backend=backend)
        gemm_kernel.batched(g, w, dx, backend=backend)
        gemm_kernel.batched(g.transpose(1, 2), x, dw, add=True, backend=backend)

    times_s = in_turns_s({"ours": lambda: each(None), "peer": lambda: each("torch")}, rounds)
    rates = {name: float(f"{6e-9 * w.numel() * tiles / time_s:.3g}") for name, time_s in times_s.items()}
    row = {"name": "products_conv3", "value": rates["ours"], "unit": "GFLOP/s", "peer": {"torch.bmm": rates["peer"]}}
    ratio = round(times_s["peer"] / times_s["ours"], 2)
    return row | {"ratio": ratio, "backend": gemm_kernel.chosen(x, w.transpose(1, 2))}


def _convolutions(net: AlexNet, batch: int, dtype: torch.dtype) -> list[tuple[str, Conv2d, Tensor]]:
    """(name, layer, what goes into it: channels_last, wanting a gradient unless it is the picture)."""
    found, x = [], torch.zeros(0, 3, net.spec.crop_px, net.spec.crop_px)
    for name, layer in net.named_children():
        if isinstance(layer, Conv2d):
            maps = torch.randn(batch, *x.shape[1:]).to(dtype, memory_format=torch.channels_last)
            maps.requires_grad_(bool(found))
            found.append((name, copy.deepcopy(layer).to(dtype, memory_format=torch.channels_last), maps))
        x = layer(x)
    return found


def _layer(name: str, layer: Conv2d, x: Tensor, rounds: int) -> dict:
    way, reason = conv.chosen(x, layer.weight, layer.stride[0], layer.padding[0], layer.groups)
    calls = {"ours": _forward_backward(layer, layer, x), "peer": _forward_backward(_stock(layer), layer, x)}
    times_s = in_turns_s(calls, rounds)
    error, peer_error = _errors(layer, x.detach()[:ERROR_PICTURES])
    return {
        "layer": name,
        "way": way,
        "reason": reason,
        "ms": round(1e3 * times_s["ours"], 1),
        "peer_ms": round(1e3 * times_s["peer"], 1),
        "ratio": round(times_s["peer"] / times_s["ours"], 2),
        "error": error,
        "peer_error": peer_error,
    }


def _stock(layer: Conv2d) -> Callable[[Tensor], Tensor]:
    """The same layer by torch.nn.functional.conv2d alone."""
    before, after = layer.padding[0], layer.padding[0] + layer.overhang_px

    def forward(x: Tensor) -> Tensor:
        if after > before:
            return F.conv2d(
                F.pad(x, (before, after, before, after)), layer.weight, layer.bias, layer.stride, groups=layer.groups
            )
        return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, groups=layer.groups)

    return forward


def _forward_backward(forward: Callable[[Tensor], Tensor], layer: Conv2d, x: Tensor) -> Callable[[], object]:
    wanted = [t for t in (x, layer.weight, layer.bias) if t.requires_grad]
    g = torch.randn(forward(x).shape).to(x.dtype, memory_format=torch.channels_last)
    return lambda: torch.autograd.grad(forward(x), wanted, g)


def _errors(layer: Conv2d, x: Tensor) -> tuple[list[float], list[float]]:
    """Of ours and of PyTorch's: |error| / |value| of the output and of the kernels' gradient, against float64."""
    wide = copy.deepcopy(layer).double()
    reference = _stock(wide)(x.double())
    g = torch.randn(reference.shape, generator=torch.Generator().manual_seed(0)).to(x.dtype).double()
    (dw,) = torch.autograd.grad(reference, wide.weight, g)

    def error(forward: Callable[[Tensor], Tensor]) -> list[float]:
        y = forward(x)
        (got,) = torch.autograd.grad(y, layer.weight, g.to(y.dtype))
        pairs = ((y.detach(), reference.detach()), (got, dw))
        return [float(f"{float((a - b).norm() / b.norm()):.2g}") for a, b in pairs]

    return error(layer), error(_stock(layer))
