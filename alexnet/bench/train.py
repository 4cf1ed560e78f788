"""A training step, end to end from a JPEG pack, against the same net in stock modules and the rate of matrix
products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from alexnet import machine, runs
from alexnet import spec as spec_module
from alexnet import train as training
from alexnet.bench import stock
from alexnet.bench.turns import gemm, in_turns_s
from alexnet.data import loader, resident
from alexnet.data.pack import Pack, ensure_pack
from alexnet.net import AlexNet, LayerRow, layer_table

PEERS = {"as_run": stock.as_run, "owt2014": stock.owt2014, "torchvision": stock.torchvision}


def rows(toy: bool, data: str | None = None) -> list[dict]:
    """One row for as_run, the net of 2014 and torchvision's in each precision that pays on this machine."""
    pack = ensure_pack(data)
    best, _ = machine.precision("auto", torch.device("cpu"))
    return [_row(preset, pack, precision, toy) for precision in dict.fromkeys((best, "fp32")) for preset in PEERS]


def _row(preset: str, pack: Pack, precision: str, toy: bool) -> dict:
    batch, classes = (4, len(pack.classes)) if toy else (128, len(pack.classes))
    settings = [f"run.batch={batch}", f"run.precision={precision}", "run.device=cpu", "run.length=1000ep"]
    spec = spec_module.change(spec_module.preset(preset, classes=classes), settings)
    dtype, size = (torch.bfloat16, 4096) if precision == "bf16" else (torch.float32, 2048)
    size = 256 if toy else size
    calls = {"ours": our_step(spec, pack), "limit": gemm(size, dtype)}
    calls["stock fp32"] = stock.training_step(PEERS[preset](classes), batch, classes, bf16=False)
    if precision == "bf16":  # elsewhere bf16 is emulated: one step of the peer would take minutes
        calls["stock bf16 channels_last"] = stock.training_step(PEERS[preset](classes), batch, classes, bf16=True)
    times_s = in_turns_s(calls, 1 if toy else 5)
    flops = training_flops(AlexNet(spec.net)) * batch
    limit_s = flops * times_s["limit"] / (2 * size**3)
    peers = {name: batch / time_s for name, time_s in times_s.items() if name.startswith("stock")}
    ours = batch / times_s["ours"]
    return {
        "name": f"train_{preset}",
        "value": round(ours, 2),
        "unit": "images/s",
        "peer": {name: round(rate, 2) for name, rate in peers.items()},
        "ratio": round(ours / max(peers.values()), 2),
        "ratios": {name: round(ours / rate, 2) for name, rate in peers.items()},
        "gemm_tflops": round(2e-12 * size**3 / times_s["limit"], 3),
        "share_of_gemm_limit": round(limit_s / times_s["ours"], 3),
        "precision": precision,
        "batch": batch,
        "data": f"{len(pack.splits['train']):,} pictures, {pack.size_px} px, {pack.encoding}",
    }


def our_step(spec: spec_module.Spec, pack: Pack) -> Callable[[], None]:
    """One step as `alexnet train` does it: the next batch from the pack, forward, backward, update."""
    state, place = training.prepare(spec, pack)
    prep, split = runs.preprocessing(spec, pack), pack.splits["train"]
    jobs = loader.training_jobs(spec, prep, len(split), state.clock)
    batches = resident.batches(split, prep, jobs, spec.run.batch, 2, place.device, place.dtype)

    def step() -> None:
        batch = next(batches)
        training.step(state, batch.images_nchw, batch.labels)
        state.clock = replace(state.clock, step=0)

    return step


def training_flops(net: AlexNet) -> int:
    """Operations of one picture's training step: 2 for a multiply-add, three passes, but conv1 needs no input
    gradient.
    """
    return table_flops(layer_table(net))


def table_flops(table: list[LayerRow]) -> int:
    """The same from a net's layer table."""
    return 2 * (3 * sum(row.macs for row in table) - table[0].macs)
