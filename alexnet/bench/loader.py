"""The loader alone: pack to float batches, against the same pictures through PIL and torch's DataLoader with two
workers.

The peer is torchvision's pipeline re-stated: PIL decodes, crops and mirrors; an array becomes a float tensor, scaled
and normalised picture by picture; the DataLoader stacks them. Where FFCV is installed, it is a second one.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from alexnet import machine, runs
from alexnet import spec as spec_module
from alexnet.bench.turns import in_turns_s
from alexnet.data import loader
from alexnet.data.pack import Pack, ensure_pack
from alexnet.data.packfile import Split
from alexnet.schedule import Clock

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def rows(toy: bool, data: str | None = None) -> list[dict]:
    """One row: images/s of both, over the same number of pictures of the training split. Freed memory is kept, for
    everybody, as in training.
    """
    machine.keep_freed_memory()
    pack = ensure_pack(data)
    crop_px = min(224, pack.size_px - pack.size_px // 8)
    batch, batches = (8, 2) if toy else (128, 16)
    split = pack.splits["train"]
    count = min(batch * batches, len(split))
    calls = {"ours": ours(pack, crop_px, batch, count)}
    if pack.encoding == "jpeg":
        calls["PIL + DataLoader"] = peer(split, crop_px, batch, count)
        if find_spec("ffcv"):
            from alexnet.bench import loader_ffcv

            calls[f"FFCV {version('ffcv')}"] = loader_ffcv.peer(
                split, crop_px, batch, count, (MEAN.numpy(), STD.numpy())
            )
    times_s = in_turns_s(calls, 1 if toy else 5)
    rates = {name: count / time_s for name, time_s in times_s.items()}
    value = rates.pop("ours")
    row = {"name": f"loader_{pack.encoding}_{pack.size_px}px", "value": round(value), "unit": "images/s"}
    row |= {"peer": {name: round(rate) for name, rate in rates.items()}, "crop_px": crop_px, "workers": 2}
    nbytes = sum(len(split.image_bytes(i)) for i in range(count))
    row |= {"data": f"{count:,} pictures of {nbytes / count / 1000:.1f} kB"}
    return [row | {"ratio": round(value / max(rates.values()), 2) if rates else None}]


def ours(pack: Pack, crop_px: int, batch: int, count: int) -> Callable[[], None]:
    """Batches as training gets them, crops, mirrors and light included."""
    settings = [f"net.crop_px={crop_px}", f"run.batch={batch}", "data.draw_group=1"]
    spec = spec_module.change(spec_module.preset("as_run", classes=len(pack.classes)), settings)
    prep, split = runs.preprocessing(spec, pack), pack.splits["train"]
    steps = count // batch

    def run() -> None:
        jobs = loader.training_jobs(spec, prep, count, Clock(0, steps, steps))
        for batch_ in loader.batches(split, prep, jobs, batch, 2):
            assert batch_.images_nchw.dtype == torch.float32

    return run


class Pictures(Dataset):
    """Random crop, mirror, to tensor, normalise: one picture at a time, as torchvision's transforms do."""

    def __init__(self, split: Split, crop_px: int, count: int) -> None:
        self.files = [bytes(split.image_bytes(i)) for i in range(count)]
        self.labels, self.crop_px = split.labels[:count].tolist(), crop_px

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        picture = Image.open(io.BytesIO(self.files[i])).convert("RGB")
        left, top = (int(torch.randint(picture.width - self.crop_px + 1, ())) for _ in range(2))
        picture = picture.crop((left, top, left + self.crop_px, top + self.crop_px))
        if torch.rand(()) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
        return image.sub_(MEAN[:, None, None]).div_(STD[:, None, None]), self.labels[i]


def peer(split: Split, crop_px: int, batch: int, count: int) -> Callable[[], None]:
    """Two worker processes that live from round to round, so that their start is not counted."""
    pictures = DataLoader(
        Pictures(split, crop_px, count), batch, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True
    )

    def run() -> None:
        for images, _ in pictures:
            assert images.dtype == torch.float32

    return run
