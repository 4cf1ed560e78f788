"""What limits a run here: reading, decoding, cutting or computing, each measured alone in pictures per second."""

from __future__ import annotations

import numpy as np

from alexnet import machine, runs
from alexnet import spec as spec_module
from alexnet.bench.train import our_step
from alexnet.bench.turns import in_turns_s
from alexnet.data import augment
from alexnet.data.pack import ensure_pack
from alexnet.data.packfile import Split
from alexnet.data.reader import Reader


def rows(toy: bool, data: str | None = None) -> list[dict]:
    """One row: pictures/s of each stage on one thread (computing: all), and the name of the slowest."""
    machine.keep_freed_memory()
    pack = ensure_pack(data)
    batch = 4 if toy else 64
    settings = [f"run.batch={batch}", "run.length=1000ep"]
    spec = spec_module.change(spec_module.preset("as_run", classes=len(pack.classes)), settings)
    if pack.size_px < spec.net.crop_px:
        small = spec_module.preset("cifar_quick", classes=len(pack.classes))
        spec = spec_module.change(small, [*settings, f"net.crop_px={min(32, pack.size_px)}"])
    prep, split = runs.preprocessing(spec, pack), pack.splits["train"]
    pictures = np.arange(min(batch, len(split)))
    squares = np.empty((pictures.size, pack.size_px, pack.size_px, 3), np.uint8)
    crops = np.empty((pictures.size, spec.net.crop_px, spec.net.crop_px, 3), np.float32)
    draws = augment.training_draws(spec.data, prep, 0, 0, pictures, True)
    reader = Reader(split)
    calls = {
        "read": lambda: [_touch(split, int(i)) for i in pictures],
        "decode": lambda: [reader.read(int(i), squares[i]) for i in pictures],
        "cut": lambda: augment.cut(squares, draws, prep, crops),
        "compute": our_step(spec, pack),
    }
    times_s = in_turns_s(calls, 1 if toy else 5)
    rates = {name: pictures.size / time_s for name, time_s in times_s.items()}
    threads = max(1, spec.run.workers)
    feed = threads / (1 / rates["decode"] + 1 / rates["cut"])
    row = {
        "name": "doctor",
        "value": round(min(feed, rates["compute"]), 1),
        "unit": "images/s",
        "peer": {},
        "ratio": None,
    }
    row |= {f"{name}_images_per_s": round(rate, 1) for name, rate in rates.items()}
    return [row | {"loader_images_per_s": round(feed, 1), "advice": advice(feed, rates["compute"], threads)}]


def _touch(split: Split, picture: int) -> int:
    return int(np.frombuffer(split.image_bytes(picture), np.uint8).sum(dtype=np.int64))


def advice(feed: float, compute: float, threads: int) -> str:
    """What to change first."""
    if feed >= compute:
        return f"the net is the limit: the loader could feed {feed / compute:.1f} times as much"
    wanted = int(np.ceil(threads * compute / feed))
    return f"the loader is the limit: --set run.workers={wanted} if there are cores, or pack smaller squares"
