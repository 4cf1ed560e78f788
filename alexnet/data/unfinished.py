"""What packing leaves on its way, so that after a kill the same command goes on with its finished shards.

    unfinished.npz      written anew after every shard, gone when the pack is finished

A shard ends wherever enough bytes are there, in the middle of a chunk of pictures. So the mark tells the first chunk
that is not wholly in finished shards and how many of its rows are: that chunk is prepared again, those rows are passed
over, and all bytes come out as if nothing had happened. `job` is a hash of everything that decides them.
"""

import hashlib
import json
import zipfile
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

from alexnet.data.items import Source
from alexnet.data.packfile import FORMAT_VERSION
from alexnet.data.prepare import CHUNK_ITEMS, Recipe
from alexnet.data.shardwriter import put_file
from alexnet.data.statistics import ColourSums

NAME = "unfinished.npz"
CODECS = ("simplejpeg", "pillow", "numpy", "pyarrow")


@dataclass(frozen=True)
class Mark:
    """Where packing stands. `split` counts from 0; `rejected` and `sums` are those before `chunk` of that split."""

    sums: ColourSums
    split: int = 0
    chunk: int = 0
    skip: int = 0
    shards: list[dict] = field(default_factory=list)
    rejected: list[tuple[str, str, str]] = field(default_factory=list)


def job_sha256(source: Source, listing: str, recipe: Recipe, seed: int, shard_rows: int | None) -> str:
    """A hash of what decides a pack's bytes: the source's files and pictures, the settings, the libraries."""
    codecs = [version(name) for name in CODECS]
    given = [FORMAT_VERSION, CHUNK_ITEMS, listing, source.classes, asdict(recipe), seed, shard_rows, codecs]
    digest = hashlib.sha256(json.dumps(given).encode())
    for split, items in source.splits.items():
        digest.update(f"{split} {len(items)}\n".encode())
        for item in items:
            digest.update(f"{item.label} {item.key}\n".encode())
    return digest.hexdigest()


def save(out: Path, job: str, mark: Mark) -> None:
    """Leaves `mark` in the folder `out`, whole or not at all."""
    words = {"job": job, "split": mark.split, "chunk": mark.chunk, "skip": mark.skip}
    words |= {"shards": mark.shards, "rejected": mark.rejected, "images": mark.sums.n_images}
    arrays = {"pixels": mark.sums.pixels_hwc, "products": mark.sums.products}
    put_file(out / NAME, lambda file: np.savez(file, words=np.array(json.dumps(words)), **arrays))


def find(out: Path, job: str) -> Mark | None:
    """The mark of the same job in `out`, if there is one and each of its shards is what was written."""
    try:
        with np.load(out / NAME, allow_pickle=False) as saved:
            words = json.loads(str(saved["words"]))
            sums = ColourSums(words["images"], saved["pixels"], saved["products"])
        if words["job"] != job or not all(_is_whole(out, entry) for entry in words["shards"]):
            return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # there is none, or it cannot be used: packing begins anew
    rejected = [tuple(row) for row in words["rejected"]]
    return Mark(sums, words["split"], words["chunk"], words["skip"], words["shards"], rejected)


def _is_whole(out: Path, entry: dict) -> bool:
    with open(out / entry["file"], "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]
