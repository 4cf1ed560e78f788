"""One GPU against stock PyTorch and against what it could do: a training step in every way of running it, fed from
squares that are kept on the GPU, and each kernel alone.

All in one run, on random pictures. The floors are the rate of bf16 matrix products and that of a plain copy; every row
says what its operations and its bytes would take at these rates, and which share of its time the longer of the two is.
Without a GPU it runs at toy size on the CPU, to see that it runs.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet import machine
from alexnet import spec as spec_module
from alexnet.bench import gpu_steps, stock
from alexnet.bench.lrn import forward_backward
from alexnet.bench.train import table_flops
from alexnet.bench.turns import gemm, in_turns_s
from alexnet.data import augment
from alexnet.data.augment import Preprocessing
from alexnet.kernels import lrn, pool, update
from alexnet.kernels.crop import Cutter
from alexnet.net import layer_sizes
from alexnet.spec import Spec

SIZE_PX, CROP_PX, CLASSES = 256, 224, 1000
STEPS = (("as_run", 1024), ("as_run", 128), ("torchvision", 1024))
TOY_STEPS = (("as_run", 2), ("torchvision", 2))
FULL_S = 0.2  # of calls in a row, between two waits for the GPU


def rows(toy: bool, data: str | None = None) -> Iterator[dict]:
    """The floors, the fed step, steps and kernels, each as soon as it is measured. Nothing is read from `data`."""
    device, _ = machine.device("auto")
    toy = toy or device.type == "cpu"
    machine.arithmetic(device, "bf16", False)
    floors, here = _floors(device, toy), {"device": _where(device), "toy": toy}
    yield _floor_row(floors) | here
    yield _with_floors(_fed_row(device, 2 if toy else 1024, toy), floors) | here
    for preset, batch in TOY_STEPS if toy else STEPS:
        yield _with_floors(_step_row(preset, batch, device, toy), floors) | here
    for row in (_norm_row, _map_norm_row, _pool_row, _cut_row, _update_row):
        yield _with_floors(row(device, toy), floors) | here


def _where(device: torch.device) -> dict:
    """What a row depends on besides `turns.place`."""
    if device.type != "cuda":
        return {"name": "cpu"}
    triton = metadata.version("triton") if find_spec("triton") else None
    versions = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "triton": triton}
    return {"name": torch.cuda.get_device_name(device), **versions}


def measured_s(calls: dict[str, Callable[[], object]], device: torch.device, toy: bool) -> dict[str, float]:
    """Seconds of each call, in turns: as many in a row as fill FULL_S, and only then a wait for the GPU."""
    counts = {name: 1 if toy else _how_many(call, device) for name, call in calls.items()}

    def in_a_row(name: str) -> Callable[[], None]:
        def run() -> None:
            for _ in range(counts[name]):
                calls[name]()
            _wait(device)

        return run

    times_s = in_turns_s({name: in_a_row(name) for name in calls}, 1 if toy else 5)
    return {name: time_s / counts[name] for name, time_s in times_s.items()}


def _how_many(call: Callable[[], object], device: torch.device) -> int:
    for _ in range(3):  # the first ones compile
        call()
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return max(1, min(1000, int(FULL_S / (time.perf_counter() - start))))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _floors(device: torch.device, toy: bool) -> dict[str, float]:
    """{"flops_per_s": of bf16 matrix products, "bytes_per_s": of a copy, bytes read and bytes written both counted}."""
    size, numbers = (256, 1 << 16) if toy else (8192, 1 << 28)
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    calls = {"gemm": gemm(size, torch.bfloat16, device.type), "copy": lambda: target.copy_(source)}
    times_s = measured_s(calls, device, toy)
    return {"flops_per_s": 2 * size**3 / times_s["gemm"], "bytes_per_s": 8 * numbers / times_s["copy"]}


def _floor_row(floors: dict[str, float]) -> dict:
    row = {"name": "gpu_floors", "value": float(f"{floors['flops_per_s'] / 1e12:.4g}"), "unit": "TFLOP/s", "peer": {}}
    return row | {"ratio": None, "copy_gb_per_s": round(floors["bytes_per_s"] / 1e9, 1)}


def _with_floors(row: dict, floors: dict[str, float]) -> dict:
    """The row, its "time_s", "flops" and "nbytes" turned into milliseconds and a share."""
    kept = {key: value for key, value in row.items() if key not in ("time_s", "flops", "nbytes")}
    flops_s, bytes_s = row["flops"] / floors["flops_per_s"], row["nbytes"] / floors["bytes_per_s"]
    kept |= {"ms": round(1e3 * row["time_s"], 4), "share_of_floor": round(max(flops_s, bytes_s) / row["time_s"], 3)}
    return kept | {"flop_floor_ms": round(1e3 * flops_s, 4), "byte_floor_ms": round(1e3 * bytes_s, 4)}


def _kernel_row(name: str, times_s: dict[str, float], nbytes: int) -> dict:
    """A kernel's row: "ours" in ms against the peers, whose names begin with "torch"; the other ways as they are."""
    ms = {way: round(1e3 * time_s, 4) for way, time_s in times_s.items()}
    peers = {way: value for way, value in ms.items() if way.startswith("torch")}
    more = {f"{way}_ms": value for way, value in ms.items() if way not in peers and way != "ours"}
    row = {"name": name, "value": ms["ours"], "unit": "ms", "peer": peers, **more}
    row |= {"ratio": round(min(peers.values()) / ms["ours"], 2) if peers else None}
    return row | {"time_s": times_s["ours"], "flops": 0, "nbytes": nbytes}


def _norm_row(device: torch.device, toy: bool) -> dict:
    """Layer 1's norm in bf16, forward and backward (5 passes over the map), against nn.LocalResponseNorm, which has
    bf16 on a GPU only.
    """
    numbers, shape = (5, 1e-4, 0.75, 2.0), (4, 96, 13, 13) if toy else (128, 96, 55, 55)
    x = torch.randn(shape, device=device).relu().contiguous(memory_format=torch.channels_last)
    narrow, peer = x if device.type == "cpu" else x.bfloat16(), torch.nn.LocalResponseNorm(*numbers)

    def our(x: Tensor) -> Tensor:
        return lrn.local_response_norm(x, *numbers, groups=2)

    calls = {"ours": forward_backward(our, narrow), "forward": lambda: our(narrow.detach())}
    calls |= {"fp32": forward_backward(our, x), "torch": forward_backward(peer, narrow.detach())}
    if device.type == "cuda":
        calls["torch compiled"] = forward_backward(torch.compile(peer, dynamic=False), narrow.detach())
    row = _kernel_row("gpu_lrn", measured_s(calls, device, toy), 5 * narrow.nbytes)
    return row | {"shape": shape, "backend": lrn.chosen(device, narrow.dtype)}


def _map_norm_row(device: torch.device, toy: bool) -> dict:
    """Layer 2's same-map norm in bf16, forward and backward, against plain operations."""
    shape = (4, 64, 7, 7) if toy else (128, 256, 27, 27)
    x = torch.randn(shape, device=device).relu().bfloat16().contiguous(memory_format=torch.channels_last)
    peer = stock.SameMapNorm()
    calls = {"ours": forward_backward(lambda x: lrn.spatial_response_norm(x, 5, 1e-3, 0.75, 1.0), x)}
    calls["torch"] = forward_backward(peer, x.detach())
    if device.type == "cuda":
        calls["torch compiled"] = forward_backward(torch.compile(peer, dynamic=False), x.detach())
    return _kernel_row("gpu_spatial_norm", measured_s(calls, device, toy), 5 * x.nbytes) | {"shape": shape}


def _pool_row(device: torch.device, toy: bool) -> dict:
    """Layer 1's max pooling in bf16, forward and backward, against PyTorch's."""
    shape = (4, 96, 13, 13) if toy else (128, 96, 55, 55)
    x = torch.randn(shape, device=device).bfloat16().contiguous(memory_format=torch.channels_last)
    calls = {
        "ours": _through(lambda x: pool.max_pool(x, 3, 2), x),
        "torch": _through(lambda x: F.max_pool2d(x, 3, 2), x),
    }
    times_s = measured_s(calls, device, toy)
    outputs = x.numel() // 4  # x, y and a byte for the place; then the gradient, that byte, and the gradient at x
    return _kernel_row("gpu_max_pool", times_s, 2 * x.nbytes + outputs * (2 * 2 + 2 * 1)) | {"shape": shape}


def _through(layer: Callable[[Tensor], Tensor], x_nchw: Tensor) -> Callable[[], object]:
    """Forward and backward of a layer that makes maps smaller."""
    x = x_nchw.detach().requires_grad_()
    g = torch.randn_like(layer(x))
    return lambda: torch.autograd.grad(layer(x), x, g)


def _cut_row(device: torch.device, toy: bool) -> dict:
    """A batch cut from squares on the device into bf16, against the same in plain operations."""
    batch = 4 if toy else 1024
    cut = _cuts(device, batch, torch.bfloat16)
    plain = _cuts(device, batch, torch.bfloat16, "reference")
    times_s = measured_s({"ours": cut, "torch": plain}, device, toy)
    row = _kernel_row("gpu_cut", times_s, batch * CROP_PX**2 * 3 * (1 + 2))
    return row | {"batch": batch, "images_per_s": round(batch / times_s["ours"])}


def _cuts(device: torch.device, batch: int, dtype: torch.dtype, backend: str | None = None) -> Callable[[], Tensor]:
    """Batch after batch as training draws them, from random squares."""
    count = 2 * batch
    squares = torch.randint(256, (count, SIZE_PX, SIZE_PX, 3), dtype=torch.uint8, device=device)
    mean = np.full((SIZE_PX, SIZE_PX, 3), 120, np.float32)
    prep = Preprocessing(SIZE_PX, CROP_PX, mean, np.ones(3), np.array([121.8, 37.1, 19.7]), np.eye(3))
    cutter, data, numbers = Cutter.of(squares, prep, backend), spec_module.preset("as_run").data, itertools.count()

    def cut() -> Tensor:
        number = next(numbers)
        pictures = np.arange(batch) + batch * (number % 2)
        return cutter.cut(pictures, augment.training_draws(data, prep, 0, number, pictures, True), dtype)

    return cut


def _update_row(device: torch.device, toy: bool) -> dict:
    """The update of fc6, 37.7 M weights, with its bf16 copy: 20 bytes a weight; against torch.optim.SGD without one."""
    w, v, g = (torch.randn((64, 96) if toy else (4096, 9216), device=device) for _ in range(3))
    copy, narrow, parameter = w.bfloat16(), g.bfloat16(), torch.nn.Parameter(w.clone())
    parameter.grad = g
    fused = True if device.type == "cuda" else None
    sgd = torch.optim.SGD([parameter], lr=1e-9, momentum=0.9, weight_decay=5e-4, fused=fused)
    numbers = 0.9, 1e-9, 5e-4
    sent = update.on_device([(0.9, 1e-9, 1e-9 * 5e-4)], device)[0] if device.type == "cuda" else None
    calls = {"ours": lambda: update.update(w, v, narrow, *numbers, copy, numbers=sent), "torch.optim.SGD": sgd.step}
    row = _kernel_row("gpu_update", measured_s(calls, device, toy), 20 * w.numel())
    return row | {"weights": w.numel(), "backend": update.chosen(w, v, narrow, copy)}


def _step_row(preset: str, batch: int, device: torch.device, toy: bool) -> dict:
    """A training step on a batch that is there, in every way; the best of ours against the best of the peers."""
    spec, precision, images, labels = _case(preset, batch, device, toy)
    steps, failed = {}, {}
    for name, make in gpu_steps.ways(preset, spec, images, labels).items():
        try:
            steps[name] = make()
            steps[name]()
        except Exception as error:  # that a way does not work here is a result too, and the others are still wanted
            steps.pop(name, None)
            failed[name] = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    times_s = measured_s(steps, device, toy)
    rates = {name: round(batch / time_s, 1) for name, time_s in times_s.items()}
    peers = {name: rate for name, rate in rates.items() if name.startswith("stock")}
    mine = {name: rate for name, rate in rates.items() if name not in peers}
    best = max(mine, key=mine.get)
    row = {"name": f"gpu_step_{preset}_{batch}", "value": mine[best], "unit": "images/s", "peer": peers, "ways": mine}
    row |= {"best": best, "ratio": round(mine[best] / max(peers.values()), 2), "failed": failed, "precision": precision}
    flops, nbytes = _operations_and_bytes(spec, batch, images.element_size())
    return row | {"time_s": times_s[best], "flops": flops, "nbytes": nbytes}


def _case(preset: str, batch: int, device: torch.device, toy: bool) -> tuple[Spec, str, Tensor, Tensor]:
    """(spec, precision, a batch of random pictures as the net takes them, their labels); toy: small dense layers."""
    precision, _ = machine.precision("auto", device)
    small = ["net.fc6.outputs=64", "net.fc7.outputs=64"] if toy else []
    spec = spec_module.change(spec_module.preset(preset, classes=CLASSES), [f"run.batch={batch}", *small])
    images = torch.randn(batch, 3, CROP_PX, CROP_PX, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=device)
    return spec, precision, images.to(torch.bfloat16 if precision == "bf16" else torch.float32), labels


def _operations_and_bytes(spec: Spec, batch: int, itemsize: int) -> tuple[float, float]:
    """Of a step. Bytes as if every layer were a pass of its own: its output written and read, read again for the
    gradient, which is written and read; weights read twice, their gradients written, and 20 bytes for the update.
    """
    table = layer_sizes(spec.net)
    outputs = sum(int(np.prod(row.shape)) for row in table)
    weights = sum(row.parameters for row in table)
    return table_flops(table) * batch, 5 * outputs * batch * itemsize + weights * (3 * itemsize + 20)


def _fed_row(device: torch.device, batch: int, toy: bool) -> dict:
    """as_run end to end: draws, cut and step, against the step alone; on a GPU the step is a graph."""
    spec, precision, images, labels = _case("as_run", batch, device, toy)
    step, cut = gpu_steps.ours(spec, images, labels), _cuts(device, batch, images.dtype)
    step = gpu_steps.graphed(step) if device.type == "cuda" else step

    def fed() -> None:
        images.copy_(cut())
        step()

    times_s = measured_s({"fed": fed, "alone": step}, device, toy)
    row = {"name": f"gpu_fed_as_run_{batch}", "value": round(batch / times_s["fed"], 1), "unit": "images/s", "peer": {}}
    row |= {"ratio": None, "share_of_step_alone": round(times_s["alone"] / times_s["fed"], 3), "precision": precision}
    flops, nbytes = _operations_and_bytes(spec, batch, images.element_size())
    return row | {"time_s": times_s["fed"], "flops": flops, "nbytes": nbytes}
