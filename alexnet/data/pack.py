"""The pack: a set of pictures as training reads it, in a few large memory-mapped files. docs/format.md describes it
for strangers.

    pack(open_source("photos"), Path("photos.pack"))       decode, cut square, store, count, average; once
    p = open_pack("photos.pack")                           p.splits["train"].pixels(0) -> uint8 (S, S, 3)

A pack is a folder of Arrow files and `pack.json`, which is written last: a folder without it is not a pack. The order
of pictures is shuffled once, here (as in 2012). The bytes depend on the pictures, the seed and the library versions,
not on the number of workers.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alexnet import cores
from alexnet.data import prepare, unfinished
from alexnet.data.manifest import conclude
from alexnet.data.packfile import Pack, Split, checksum, is_pack, open_pack, verify_pack
from alexnet.data.prepare import CHUNK_ITEMS, Recipe
from alexnet.data.remote import is_uri, open_remote, user_cache
from alexnet.data.shardwriter import LOCK, ShardWriter, only_writer, put_file
from alexnet.data.sources import SMALL_PX, Source, open_source
from alexnet.data.statistics import ColourSums
from alexnet.data.tree import listing_sha256
from alexnet.data.unfinished import Mark
from alexnet.errors import DataError, MachineError, UsageError

__all__ = ["Pack", "Split", "ensure_pack", "is_pack", "listing_of", "open_pack", "pack", "verify_pack"]

DEFAULT_SIZE_PX = 256
ALLOWED_REJECTS = 0.01
LEFTOVER = re.compile(
    r"((train|val)-\d{5}\.arrow|mean\.npy|(rejected|duplicates)\.csv|unfinished\.npz|pack\.json)(\.part)?"
)

Progress = Callable[[int, int], None]
Say = Callable[[str], None]


def pack(
    source: Source,
    out: str | Path,
    *,
    size_px: int | None = None,
    encoding: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    shard_rows: int | None = None,
    allow_rejects: float = ALLOWED_REJECTS,
    listing: str | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    extra: dict | None = None,
) -> dict:
    """Write `source` as a pack into the folder `out` and return the content of its pack.json.

    `size_px` defaults to 256, or to the pictures' own size where they are small squares; `encoding` to raw up to 64
    px and JPEG above. A shard ends after `shard_rows` rows or 256 MB. `listing` (of `listing_of`) tells whether the
    source is still what a killed packing into `out` began with: then its finished shards are kept. `progress(done,
    total)` is called now and then, `say(line)` with what the user should know; `extra` is added to pack.json. Raises
    DataError when `out` holds something else, a class ends up without pictures, or a larger share than `allow_rejects`
    (and more than a single one) is refused; MachineError when the disk is full.
    """
    say = say or (lambda line: None)
    if not 0 <= allow_rejects <= 1:
        raise UsageError(f"the share of refused pictures is {allow_rejects}; it must lie between 0 and 1, such as 0.05")
    if seed < 0:
        raise UsageError(f"--seed {seed}: give 0 or more")
    recipe = _recipe(source, size_px, encoding)
    job = None if listing is None else unfinished.job_sha256(source, listing, recipe, seed, shard_rows)
    out = Path(out)
    try:
        if out.exists() and not out.is_dir():
            raise DataError(f"{out} is a file; give a folder")
        with only_writer(out):
            mark = _make_room(out, job) or Mark(ColourSums.none(recipe.size_px))
            if mark.shards:
                say(f"going on after {len(mark.shards):,} finished shards of an earlier start")
            workers = workers or cores.usable()
            mark = _write(source, out, recipe, seed, workers, shard_rows, job, mark, progress or _no_progress)
            meta = conclude(source, out, recipe, seed, mark, allow_rejects, say) | (extra or {})
            meta["checksum"] = checksum(meta)
            (out / unfinished.NAME).unlink(missing_ok=True)
            put_file(out / "pack.json", lambda file: file.write(json.dumps(meta, indent=1).encode()))
    except OSError as error:
        raise MachineError(
            f"cannot write the pack {out}: {error.strerror or error}; free space or choose another folder"
        ) from error
    return meta


def ensure_pack(
    data: str | Path | None,
    *,
    size_px: int | None = None,
    encoding: str | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Pack:
    """The pack for `data`: opened if it is one, else packed once into a cache and opened from there ever after.

    An address such as s3://bucket/photos.pack names a pack in a store (remote.py). The cache lies beside the source as
    `<source>.pack`, or in the user's cache folder if that place cannot be written or the source is the built-in set
    (`data` None or "shapes"). Raises DataError if the source has changed since it was packed.
    """
    say = say or (lambda line: None)
    data = "shapes" if data is None else data
    if is_uri(data):
        return open_remote(data, say)
    if str(data) != "shapes" and (is_pack(data) or _is_unfinished(data) or not Path(data).exists()):
        return open_pack(data)  # which says what is wrong with it, if anything
    wanted = {"size_px": size_px, "encoding": encoding, "val_fraction": val_fraction}
    listing = listing_of(data)
    caches = _cache_folders(data, size_px)
    for cache in caches:
        if is_pack(cache):
            return _reopen(cache, data, listing, wanted, say)
    cache = next((folder for folder in caches if _is_writable(folder)), None)
    if cache is None:
        raise MachineError(f"no place for the pack of {data} can be written: {', '.join(map(str, caches))}")
    say(f"packing {data} into {cache} (once; later runs use it)")
    source = open_source(data, val_fraction, seed)
    extra = {"source_listing_sha256": listing, "wanted": wanted}
    cache.parent.mkdir(parents=True, exist_ok=True)
    pack(
        source,
        cache,
        size_px=size_px,
        encoding=encoding,
        seed=seed,
        workers=workers,
        listing=listing,
        progress=progress,
        say=say,
        extra=extra,
    )
    return open_pack(cache)


def _reopen(cache: Path, data: str | Path, listing: str, wanted: dict, say: Say) -> Pack:
    opened = open_pack(cache)
    again = f"delete {cache} to pack again, or pack to a folder of your own with `alexnet pack {data} OUT`"
    if "source_listing_sha256" not in opened.meta:
        raise DataError(f"{cache} does not say what it was packed from; train with it by its own name, or\n{again}")
    if opened.meta["source_listing_sha256"] != listing:
        raise DataError(f"{data} has changed since it was packed into {cache};\n{again}")
    was = {**(opened.meta.get("wanted") or {}), "size_px": opened.size_px, "encoding": opened.encoding}
    differing = [
        f"{key} {value} (packed with {was.get(key)})"
        for key, value in wanted.items()
        if value not in (None, was.get(key))
    ]
    if differing:
        raise DataError(f"{cache} was packed with other settings: {', '.join(differing)};\n{again}")
    say(f"using {cache}, packed earlier from {data}")
    return opened


def _is_unfinished(data: str | Path) -> bool:
    return any(Path(data).glob("train-*.arrow*"))


def listing_of(data: str | Path) -> str:
    """A hash of the names, sizes and times of the files of a source. Raises DataError where they cannot be read."""
    if str(data) == "shapes":
        return "built-in"
    try:
        return listing_sha256(Path(data))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or data}: {error.strerror}") from error


def _cache_folders(data: str | Path, size_px: int | None) -> list[Path]:
    """Where the pack of `data` may lie, best first."""
    caches = user_cache()
    if str(data) == "shapes":
        return [caches / f"shapes-{_shapes_version()}-{size_px or DEFAULT_SIZE_PX}px.pack"]
    path = Path(data).resolve()
    mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return [path.with_name(path.name + ".pack"), caches / f"{path.name}-{mark}.pack"]


def _shapes_version() -> str:
    from alexnet.data import shapes

    return str(shapes.VERSION)


def _is_writable(folder: Path) -> bool:
    parent = folder.parent
    while not parent.exists():
        parent = parent.parent
    return os.access(parent, os.W_OK)


def _no_progress(done: int, total: int) -> None: ...


def _recipe(source: Source, size_px: int | None, encoding: str | None) -> Recipe:
    size = (source.size_px or DEFAULT_SIZE_PX) if size_px is None else size_px
    if not 1 <= size <= 4096:
        raise UsageError(f"the square size is {size} pixels; it must lie between 1 and 4096 (256 is usual)")
    if encoding not in (None, "jpeg", "raw"):
        raise UsageError(f"encoding {encoding!r} is unknown; use jpeg or raw")
    return Recipe(size, encoding or ("raw" if size <= SMALL_PX else "jpeg"))


def _make_room(out: Path, job: str | None) -> Mark | None:
    """What an unfinished packing of the same job left is kept, of any other removed; all else is not ours to touch."""
    if is_pack(out):
        raise DataError(f"{out} holds a pack already; give another folder, or delete it first")
    present = sorted(path for path in out.iterdir() if path.name != LOCK)
    foreign = [path.name for path in present if not LEFTOVER.fullmatch(path.name)]
    if foreign:
        raise DataError(
            f"{out} is not empty (it holds {', '.join(foreign[:3])}); give another folder, or delete it first"
        )
    mark = unfinished.find(out, job) if job else None
    kept = {unfinished.NAME, *(entry["file"] for entry in mark.shards)} if mark else set()
    for path in present:
        if path.name not in kept:
            path.unlink()
    return mark


def _write(
    source: Source,
    out: Path,
    recipe: Recipe,
    seed: int,
    workers: int,
    shard_rows: int | None,
    job: str | None,
    mark: Mark,
    progress: Progress,
) -> Mark:
    """All shards, from where `mark` stands; the mark at the end."""
    sizes = [len(items) for items in source.splits.values()]
    shards, rejected, sums = mark.shards, list(mark.rejected), mark.sums
    for number, (split, items) in list(enumerate(source.splits.items()))[mark.split :]:
        order = np.random.default_rng([seed, number]).permutation(len(items))
        first, skip = (mark.chunk, mark.skip) if number == mark.split else (0, 0)
        done = sum(sizes[:number]) + first * CHUNK_ITEMS
        writer = ShardWriter(out, split, shard_rows, [entry for entry in shards if entry["split"] == split])
        before = [entry for entry in shards if entry["split"] != split]
        chunks = prepare.chunks(items, order[first * CHUNK_ITEMS :], recipe, split == "train", workers)
        for at, chunk in enumerate(chunks, start=first):
            for place, row in enumerate(chunk.rows[skip:], start=skip + 1):
                if writer.add(row) and job:
                    unfinished.save(out, job, Mark(sums, number, at, place, before + writer.shards, rejected))
            skip = 0
            rejected += [(split, key, reason) for key, reason in chunk.rejected]
            sums = sums if chunk.sums is None else sums + chunk.sums
            done += len(chunk.rows) + len(chunk.rejected)
            progress(done, sum(sizes))
        shards = before + writer.close()
    return Mark(sums, len(sizes), 0, 0, shards, rejected)
