"""Activations of one layer for every picture of a pack or a list of files, streamed to one file.

    write("runs/as_run", "photos.pack", "fc7", "fc7.npy")                     (n, 4096) float32, beside fc7.npy.keys.csv
    write("runs/as_run", "photos.pack", "conv5", "conv5.parquet", tower="a")  the first tower's 128 maps

Layers have the net's names: "conv1" is the convolution's own output, "relu1" what its ReLU makes of it. Rows are in
packed order, features of a convolution (channels, height, width). One batch is held at a time, however many pictures
there are, and the file gets its name when it is whole.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from alexnet import checkpoint
from alexnet.data import augment, loader
from alexnet.data.pack import ensure_pack
from alexnet.data.packfile import Pack
from alexnet.errors import DataError, MachineError, UsageError
from alexnet.log import say
from alexnet.net import AlexNet
from alexnet.predict import Predictor, load

ROW_GROUP_NBYTES = 32 << 20
DTYPES = ("float32", "float16")
KEYS = ".keys.csv"
NO_LABEL = -1  # of pictures that come from no pack


@dataclass(frozen=True)
class Pictures:
    """What to look at: labels int32 (n,) and, by index, keys; `views` yields (N, 3, crop, crop) of every view of a
    batch of pictures, then of the next batch.
    """

    labels: np.ndarray
    classes: list[str]
    key: Callable[[int], str]
    views: Iterator[Tensor]


@dataclass(frozen=True)
class Table:
    """What a file is to hold: one row per picture, features of `shape` in batches (N, *shape) of `dtype`."""

    pictures: Pictures
    layer: str
    shape: tuple[int, ...]
    dtype: str
    batches: Iterator[np.ndarray]


def silent(word: str) -> Callable[[int, int], None]:
    return lambda done, total: None


def write(
    run: str | Path | Predictor,
    data: str | Path | Pack | Sequence[str | Path],
    layer: str | None,
    out: str | Path,
    *,
    split: str = "val",
    dtype: str = "float32",
    tower: str | None = None,
    before: str | None = None,
    views: int = 1,
    batch: int = 128,
    progress: Callable[[str], Callable[[int, int], None]] = silent,
) -> dict:
    """Writes the outputs of `layer`, or what goes into the layer `before`, to OUT: .npy (keys and labels beside it, in
    OUT.keys.csv) or .parquet (columns key, label, class, features). With 10 views, their mean.

    `data` is a pack, anything `alexnet pack` takes, or a list of picture files; `tower` "a" or "b" keeps the first or
    second half of the maps or units of a two-tower net. Returns {"path", "layer", "pictures", "shape", ...}.
    Raises UsageError for an unknown layer, suffix or tower, DataError for pictures that do not fit the net or
    features that are not finite, MachineError where OUT cannot be written.
    """
    out = Path(out)
    _check_options(out, dtype, tower, views, batch)
    predictor = run if isinstance(run, Predictor) else load(run)
    name = layer_named(predictor.net, layer, before)
    whole = _shape(predictor, name)
    half = _half(predictor.net, name, whole, tower)
    pictures = _pictures(predictor, data, split, views, batch, progress)
    shape = (len(range(*half.indices(whole[0]))), *whole[1:])
    features = _features(predictor, pictures, name, half, views, dtype, progress("features"))
    _write_whole(out, Table(pictures, name, shape, dtype, features))
    record = {"path": str(out), "layer": name, "pictures": len(pictures.labels), "shape": list(shape)}
    return {**record, "dtype": dtype, "tower": tower, "views": views, "nbytes": out.stat().st_size}


def _check_options(out: Path, dtype: str, tower: str | None, views: int, batch: int) -> None:
    """What can be refused before anything is loaded."""
    if out.suffix not in WRITERS:
        raise UsageError(f"{out}: features are written to {' or '.join(WRITERS)} files; name one of these")
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"{out} cannot be written: {'it is a folder' if out.is_dir() else f'no folder {out.parent}'}")
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: {' or '.join(DTYPES)}")
    if tower not in (None, "a", "b"):
        raise UsageError(f"tower {tower!r}: a or b")
    if views not in (1, 10):
        raise UsageError(f"{views} views: 1 (centre) or 10 (corners, centre and their mirror images; their mean)")
    if batch < 1:
        raise UsageError(f"a batch of {batch} pictures: 1 or more")


def layer_named(net: AlexNet, layer: str | None, before: str | None = None) -> str:
    """The layer whose output is meant: `layer` itself, or the one in front of `before`. Raises UsageError."""
    names = [name for name, _ in net.named_children()]
    if (layer is None) == (before is None):
        raise UsageError("name a layer to take the output of, or one to take the input of: layer=fc7 or before=fc8")
    asked = layer if before is None else before
    if asked not in names:
        raise UsageError(f"this net has no layer {asked!r}; its layers: {', '.join(names)}")
    if before == names[0]:
        raise UsageError(f"before {before} there are only the pictures; name a later layer: {', '.join(names[1:])}")
    return asked if before is None else names[names.index(before) - 1]


@torch.inference_mode()
def _shape(predictor: Predictor, layer: str) -> tuple[int, ...]:
    crop, place = predictor.prep.crop_px, predictor.place
    return tuple(predictor.net(torch.zeros(1, 3, crop, crop, device=place.device, dtype=place.dtype), layer).shape[1:])


def _half(net: AlexNet, layer: str, shape: tuple[int, ...], tower: str | None) -> slice:
    """Which maps or units to keep: tower a's come first, in convolutions, in `flat` and in fc6 and fc7 alike."""
    if tower is None:
        return slice(None)
    if net.spec.towers != 2:
        raise UsageError(f"tower {tower}: this net is not split into two towers; leave it out")
    shared = layer == "fc8" or "conv6" in layer or (layer == "flat" and net.spec.sixth_conv)
    if shared or shape[0] % 2:
        raise UsageError(f"tower {tower}: {layer} belongs to both towers; leave it out or name another layer")
    return slice(0, shape[0] // 2) if tower == "a" else slice(shape[0] // 2, None)


def _pictures(predictor: Predictor, data, split: str, views: int, batch: int, progress) -> Pictures:
    if not isinstance(data, str | Path | Pack):
        return _of_files(predictor, list(data), views, batch)
    return _of_pack(predictor, _opened(data, progress), split, views, batch)


def _opened(data: str | Path | Pack, progress) -> Pack:
    return data if isinstance(data, Pack) else ensure_pack(data, progress=progress("packing"), say=say)


def _of_pack(predictor: Predictor, pack: Pack, split: str, views: int, batch: int) -> Pictures:
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
    jobs = loader.view_jobs(prep, len(part), batch, augment.views(views))
    batches = loader.batches(part, prep, jobs, batch, predictor.place.workers)
    return Pictures(part.labels, pack.classes, part.key, (one.images_nchw for one in batches))


def _of_files(predictor: Predictor, files: list[str | Path], views: int, batch: int) -> Pictures:
    if not files:
        raise UsageError("no pictures were named")
    batch = max(1, batch // views)  # all views of a picture are cut at once

    def images() -> Iterator[Tensor]:
        for first in range(0, len(files), batch):
            cut_nvchw = torch.stack([predictor.views(file, views) for file in files[first : first + batch]])
            yield from cut_nvchw.unbind(1)

    return Pictures(np.full(len(files), NO_LABEL, np.int32), [], lambda i: str(files[i]), images())


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


def _write_whole(out: Path, table: Table) -> None:
    """Everything under temporary names, flushed, then renamed; OUT itself last, so that if it is there it is whole."""
    endings = [KEYS, ""] if out.suffix == ".npy" else [""]
    temporary = out.with_name(f".tmp-{out.name}")
    try:
        WRITERS[out.suffix](temporary, table)
        out.unlink(missing_ok=True)  # an older one must not stand beside the new keys
        for ending in endings:
            with open(f"{temporary}{ending}", "rb") as file:
                os.fsync(file.fileno())
            os.rename(f"{temporary}{ending}", f"{out}{ending}")
        checkpoint.sync_folder(out.parent)
    except OSError as error:
        raise MachineError(f"cannot write {out}: {error.strerror or error}; nothing was left there") from None
    finally:
        for ending in endings:
            Path(f"{temporary}{ending}").unlink(missing_ok=True)


def _write_npy(path: Path, table: Table) -> None:
    """The header first, for the number of pictures is known; then batch after batch as it is in memory."""
    count, done = len(table.pictures.labels), 0
    descr = np.lib.format.dtype_to_descr(np.dtype(table.dtype))
    header = {"descr": descr, "fortran_order": False, "shape": (count, *table.shape)}
    with open(path, "wb") as file, open(f"{path}{KEYS}", "w", newline="", encoding="utf-8") as keys_file:
        np.lib.format.write_array_header_1_0(file, header)
        keys = csv.writer(keys_file, lineterminator="\n")
        keys.writerow(("key", "label"))
        for features in table.batches:
            file.write(features.data)
            keys.writerows((table.pictures.key(i), table.pictures.labels[i]) for i in range(done, done + len(features)))
            done += len(features)
    assert done == count, f"{done} of {count} pictures were written"


def _write_parquet(path: Path, table: Table) -> None:
    """Row groups of about ROW_GROUP_NBYTES; features flattened, their shape as JSON in the schema's metadata."""
    width = int(np.prod(table.shape))
    numbers = pa.float16() if table.dtype == "float16" else pa.float32()
    columns = [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("class", pa.string()),
        ("features", pa.list_(numbers, width)),
    ]
    schema = pa.schema(columns, {"shape": json.dumps(table.shape), "layer": table.layer})
    waiting, nbytes, done = [], 0, 0
    with pq.ParquetWriter(path, schema, use_dictionary=["class"]) as writer:
        for features in table.batches:
            waiting.append(_record_batch(table.pictures, features, done, schema))
            done, nbytes = done + len(features), nbytes + features.nbytes
            if nbytes >= ROW_GROUP_NBYTES:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting, nbytes = [], 0
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    assert done == len(table.pictures.labels), f"{done} of {len(table.pictures.labels)} pictures were written"


def _record_batch(pictures: Pictures, features: np.ndarray, first: int, schema: pa.Schema) -> pa.RecordBatch:
    rows = range(first, first + len(features))
    labels = pictures.labels[first : first + len(features)]
    classes = [pictures.classes[label] if label != NO_LABEL else None for label in labels]
    kind = schema.field("features").type
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1), kind.value_type), kind.list_size)
    return pa.record_batch(
        [pa.array([pictures.key(i) for i in rows]), pa.array(labels), pa.array(classes, pa.string()), lists],
        schema=schema,
    )


WRITERS = {".npy": _write_npy, ".parquet": _write_parquet}
