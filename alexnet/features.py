"""Activations of one layer for every picture of a pack or a list of files, streamed to one file.

    write("runs/as_run", "photos.pack", "fc7", "fc7.npy")                     (n, 4096) float32, beside fc7.npy.keys.csv
    write("runs/as_run", "photos.pack", "conv5", "conv5.parquet", tower="a")  the first tower's 128 maps
    write("runs/as_run", "photos.pack", "relu7", "fc7.h5", dtype="float16")   half the size, for MATLAB, R, Julia

Layers have the net's names: "conv1" is the convolution's own output, "relu1" what its ReLU makes of it. Rows are in
packed order, features of a convolution (channels, height, width). One batch is held at a time, however many pictures
there are, and the file gets its name when it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet import featurefiles
from alexnet.data import augment, loader
from alexnet.data.pack import ensure_pack
from alexnet.data.packfile import Pack
from alexnet.data.tree import as_text
from alexnet.errors import DataError, UsageError
from alexnet.extract import layer_named, tower_half
from alexnet.featurefiles import NO_LABEL, Table
from alexnet.log import say
from alexnet.predict import Predictor, load

DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Pictures:
    """What to look at: labels int32 (n,) and, by index, keys; `views` yields (N, 3, crop, crop) of every view of a
    batch of pictures, then of the next batch.
    """

    labels: np.ndarray
    classes: list[str]
    key: Callable[[int], str]
    views: Iterator[Tensor]


def silent(word: str) -> Callable[[int, int], None]:
    return lambda done, total: None


def write(
    run: str | Path | Predictor,
    data: str | Path | Pack | Sequence[str | Path],
    layer: str | None,
    out: str | Path,
    *,
    split: str = "val",
    pictures: int | None = None,
    dtype: str = "float32",
    tower: str | None = None,
    before: str | None = None,
    views: int = 1,
    batch: int = 128,
    progress: Callable[[str], Callable[[int, int], None]] = silent,
) -> dict:
    """Writes the outputs of `layer`, or what goes into the layer `before`, or both (`extract.layer_named`), to OUT:
    .npy (keys and labels beside it, in OUT.keys.csv), .parquet (columns key, label, class, features) or .h5. With 10
    views, their mean.

    `data` is a pack, anything `alexnet pack` takes, or a list of picture files; `pictures` takes only so many, the
    first; `tower` "a" or "b" keeps the first or second half of the maps or units of a two-tower net. Returns {"path",
    "layer", "pictures", "shape", ...}.
    Raises UsageError for an unknown layer, suffix or tower, DataError for pictures that do not fit the net or
    features that are not finite, MachineError where OUT cannot be written.
    """
    out = Path(out)
    featurefiles.check(out)
    _check_options(dtype, tower, views, batch, pictures)
    predictor = run if isinstance(run, Predictor) else load(run)
    name = layer_named(predictor.net, layer, before)
    whole = _shape(predictor, name)
    half = tower_half(predictor.net, name, whole, tower)
    seen = _pictures(predictor, data, split, views, batch, pictures, progress)
    shape = (len(range(*half.indices(whole[0]))), *whole[1:])
    features = _features(predictor, seen, name, half, views, dtype, progress("features"))
    facts = {"layer": name, "tower": tower or "", "views": views}
    featurefiles.write(out, Table(seen.labels, seen.classes, seen.key, shape, dtype, features, facts))
    record = {"path": str(out), "layer": name, "pictures": len(seen.labels), "shape": list(shape)}
    return {**record, "dtype": dtype, "tower": tower, "views": views, "nbytes": out.stat().st_size}


def _check_options(dtype: str, tower: str | None, views: int, batch: int, pictures: int | None) -> None:
    """What can be refused before anything is loaded."""
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: {' or '.join(DTYPES)}")
    if tower not in (None, "a", "b"):
        raise UsageError(f"tower {tower!r}: a or b")
    if views not in (1, 10):
        raise UsageError(f"{views} views: 1 (centre) or 10 (corners, centre and their mirror images; their mean)")
    if batch < 1:
        raise UsageError(f"a batch of {batch} pictures: 1 or more")
    if pictures is not None and pictures < 1:
        raise UsageError(f"{pictures} pictures: 1 or more")


@torch.inference_mode()
def _shape(predictor: Predictor, layer: str) -> tuple[int, ...]:
    crop, place = predictor.prep.crop_px, predictor.place
    return tuple(predictor.net(torch.zeros(1, 3, crop, crop, device=place.device, dtype=place.dtype), layer).shape[1:])


def _pictures(predictor: Predictor, data, split: str, views: int, batch: int, most: int | None, progress) -> Pictures:
    if not isinstance(data, str | Path | Pack):
        return _of_files(predictor, list(data)[:most], views, batch)
    return _of_pack(predictor, _opened(data, progress), split, views, batch, most)


def _opened(data: str | Path | Pack, progress) -> Pack:
    return data if isinstance(data, Pack) else ensure_pack(data, progress=progress("packing"), say=say)


def _of_pack(predictor: Predictor, pack: Pack, split: str, views: int, batch: int, most: int | None) -> Pictures:
    """The split's pictures; its classes need not be the net's, only its squares."""
    if split not in pack.splits:
        raise UsageError(f"{pack.path} has no split {split!r}: {' or '.join(pack.splits)}")
    part, prep = pack.splits[split], predictor.prep
    if len(part) == 0:
        raise DataError(f"{pack.path} has no {split} pictures; take another split")
    if pack.size_px != prep.size_px:
        raise DataError(
            f"{predictor.path} sees {prep.size_px}-pixel squares and {pack.path} holds {pack.size_px}; "
            f"pack with --size {prep.size_px}"
        )
    count = min(len(part), most or len(part))
    jobs = loader.view_jobs(prep, count, batch, augment.views(views))
    batches = loader.batches(part, prep, jobs, batch, predictor.place.workers)
    return Pictures(part.labels[:count], pack.classes, part.key, (one.images_nchw for one in batches))


def _of_files(predictor: Predictor, files: list[str | Path], views: int, batch: int) -> Pictures:
    if not files:
        raise UsageError("no pictures were named")
    batch = max(1, batch // views)  # all views of a picture are cut at once

    def images() -> Iterator[Tensor]:
        for first in range(0, len(files), batch):
            cut_nvchw = torch.stack([predictor.views(file, views) for file in files[first : first + batch]])
            yield from cut_nvchw.unbind(1)

    return Pictures(np.full(len(files), NO_LABEL, np.int32), [], lambda i: as_text(str(files[i])), images())


def _features(
    predictor: Predictor, pictures: Pictures, layer: str, half: slice, views: int, dtype: str, progress
) -> Iterator[np.ndarray]:
    """Batches of (N, *shape), each a copy of its own; the mean over the views."""
    predictor.net.eval()
    total, done = None, 0
    for i, images_nchw in enumerate(pictures.views):
        part = _forward(predictor, images_nchw, layer, half)
        total = part if i % views == 0 else total + part
        if i % views == views - 1:
            yield _cast((total / views).numpy(), layer, dtype)
            done += len(total)
            progress(done, len(pictures.labels))


@torch.inference_mode()  # here and not around a `yield`: the mode would leak into whoever asks for the next batch
def _forward(predictor: Predictor, images_nchw: Tensor, layer: str, half: slice) -> Tensor:
    place = predictor.place
    out = predictor.net(images_nchw.to(place.device, place.dtype), until=layer)
    return out[:, half].float().cpu().contiguous()


def _cast(features: np.ndarray, layer: str, dtype: str) -> np.ndarray:
    if not np.isfinite(features).all():
        raise DataError(f"the outputs of {layer} are not finite: the net's weights are damaged or it diverged")
    if (largest := np.abs(features).max()) > np.finfo(dtype).max:
        raise DataError(f"{layer} reaches {largest:,.0f}, more than {dtype} holds; write float32")
    return np.ascontiguousarray(features, dtype)
