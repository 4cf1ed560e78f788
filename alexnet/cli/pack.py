"""`alexnet pack`: pictures to a pack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from alexnet.cli.app import VERBS, Json, emit, progress
from alexnet.errors import UsageError
from alexnet.log import say


@VERBS.command
def pack(
    src: Positional[Annotated[str, arg(metavar="SRC")]],
    out: Positional[Annotated[str, arg(metavar="OUT")]],
    /,
    size: int | None = None,
    val_fraction: float | None = None,
    encoding: Literal["jpeg", "raw"] | None = None,
    class_order: Literal["wnid", "devkit"] = "wnid",
    seed: int = 0,
    allow_rejects: float = 0.01,
    json: Json = False,
) -> None:
    """Pictures to a pack: decoded, cut to squares, stored with their statistics. A packing that was killed goes on
    with its finished shards when the same command is given again.

    Args:
        src: a folder (train/<class>/, val/<class>/, or <class>/), a CIFAR archive, a tar of either, a folder with the
            ILSVRC archives as downloaded, Parquet files with picture bytes, WebDataset tars, or `shapes`.
        out: the folder to make.
        size: side of the stored squares in pixels; 256, or the pictures' own size where all are small squares.
        val_fraction: share of the pictures kept for validation where SRC has no val folder.
        encoding: jpeg (quality 95), or raw bytes; small pictures are raw.
        class_order: of ILSVRC's classes: sorted WordNet ids, as most weights have it, or the devkit's ids.
        seed: of the order in which pictures are stored, and of the validation split.
        allow_rejects: share of the pictures that may be refused; with more the pack is not finished. One always may,
            unless this is 0.
    """
    from alexnet.data import pack as packs
    from alexnet.data.remote import is_uri
    from alexnet.data.sources import open_source

    if is_uri(out):
        raise UsageError(f"{out}: packs are made on a disk; give a folder, then copy it there (aws s3 cp --recursive)")
    listing = packs.listing_of(src) if src == "shapes" or Path(src).exists() else None
    source = open_source(src, val_fraction, seed, class_order)
    wanted = {"size_px": size, "encoding": encoding, "seed": seed, "allow_rejects": allow_rejects}
    asked = {"size_px": size, "encoding": encoding, "val_fraction": val_fraction}
    extra = {"source_listing_sha256": listing, "wanted": asked} if listing else None
    meta = packs.pack(source, out, **wanted, listing=listing, progress=progress("packing"), say=say, extra=extra)
    counts = {split: sum(s["rows"] for s in meta["shards"] if s["split"] == split) for split in ("train", "val")}
    text = (
        f"{out}: {counts['train']:,} training and {counts['val']:,} validation pictures, {len(meta['classes'])} classes"
    )
    emit({"path": str(out), **meta}, json, f"{text}, {meta['size_px']} px, {meta['encoding']}")
