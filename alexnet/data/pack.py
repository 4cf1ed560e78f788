"""The pack: a set of pictures as training reads it, in a few large memory-mapped files. docs/format.md describes it
for strangers.

    pack(open_source("photos"), Path("photos.pack"))       decode, cut square, store, count, average; once
    p = open_pack("photos.pack")                           p.splits["train"].pixels(0) -> uint8 (S, S, 3)

A pack is a folder of Arrow files and `pack.json`, which is written last: a folder without it is not a pack. The order
of pictures is shuffled once, here (as in 2012). The bytes depend on the pictures, the seed and the library versions,
not on the number of workers.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet.data import image
from alexnet.data.packfile import FORMAT_VERSION, Pack, Split, checksum, fingerprint, is_pack, open_pack, verify_pack
from alexnet.data.shardwriter import LOCK, ShardWriter, only_writer, put_file
from alexnet.data.sources import SMALL_PX, Item, Source, open_source
from alexnet.data.statistics import ColourSums, colour_statistics
from alexnet.data.tree import listing_sha256
from alexnet.errors import DataError, MachineError, UsageError

__all__ = ["Pack", "Split", "ensure_pack", "is_pack", "open_pack", "pack", "verify_pack"]

DEFAULT_SIZE_PX = 256
CHUNK_ITEMS = 32  # pictures per task: enough to hide the cost of handing tasks out
MANY_REJECTED = 0.1
LEFTOVER = re.compile(r"((train|val)-\d{5}\.arrow|mean\.npy|rejected\.csv|pack\.json)(\.part)?")

Progress = Callable[[int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """How one picture is stored."""

    size_px: int
    encoding: str  # "jpeg" or "raw"


@dataclass(frozen=True)
class Chunk:
    """What a worker hands back for a few pictures: rows (bytes, label, key), refusals (key, reason), colour sums."""

    rows: list[tuple[bytes, int, str]]
    rejected: list[tuple[str, str]]
    sums: ColourSums | None


def pack(
    source: Source,
    out: str | Path,
    *,
    size_px: int | None = None,
    encoding: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    shard_rows: int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    extra: dict | None = None,
) -> dict:
    """Write `source` as a pack into the folder `out` and return the content of its pack.json.

    `size_px` defaults to 256, or to the pictures' own size where they are small squares; `encoding` to raw up to 64
    px and JPEG above. A shard ends after `shard_rows` rows or 256 MB. `progress(done, total)` is called now and then,
    `say(line)` with what the user should know; `extra` is added to pack.json. Raises DataError when `out` holds
    something else or a class ends up without training pictures, MachineError when the disk is full.
    """
    say = say or (lambda line: None)
    recipe = _recipe(source, size_px, encoding)
    out = Path(out)
    try:
        if out.exists() and not out.is_dir():
            raise DataError(f"{out} is a file; give a folder")
        with only_writer(out):
            _make_room(out)
            meta = _write(source, out, recipe, seed, workers or _cpus(), shard_rows, progress or _no_progress)
            meta |= ({"readable": source.class_names} if source.class_names else {}) | (extra or {})
            meta["checksum"] = checksum(meta)
            _report(meta, source, say)
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

    The cache lies beside the source as `<source>.pack`, or in the user's cache folder if that place cannot be written
    or the source is the built-in set (`data` None or "shapes"). Raises DataError if the source has changed since it
    was packed.
    """
    say = say or (lambda line: None)
    data = "shapes" if data is None else data
    if str(data) != "shapes" and (is_pack(data) or _is_unfinished(data) or not Path(data).exists()):
        return open_pack(data)  # which says what is wrong with it, if anything
    wanted = {"size_px": size_px, "encoding": encoding, "val_fraction": val_fraction}
    listing = _listing(data)
    caches = _cache_folders(data, size_px)
    for cache in caches:
        if is_pack(cache):
            return _reopen(cache, data, listing, wanted, say)
    cache = next(folder for folder in caches if _is_writable(folder))
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
        progress=progress,
        say=say,
        extra=extra,
    )
    return open_pack(cache)


def _reopen(cache: Path, data: str | Path, listing: str, wanted: dict, say: Say) -> Pack:
    opened = open_pack(cache)
    again = f"delete {cache} to pack again, or pack to a folder of your own with `alexnet pack {data} OUT`"
    if opened.meta.get("source_listing_sha256") != listing:
        raise DataError(f"{data} has changed since it was packed into {cache};\n{again}")
    was = opened.meta.get("wanted") or {}
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


def _listing(data: str | Path) -> str:
    if str(data) == "shapes":
        return "built-in"
    try:
        return listing_sha256(Path(data))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or data}: {error.strerror}") from error


def _cache_folders(data: str | Path, size_px: int | None) -> list[Path]:
    """Where the pack of `data` may lie, best first."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"
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


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _no_progress(done: int, total: int) -> None: ...


def _recipe(source: Source, size_px: int | None, encoding: str | None) -> Recipe:
    size = size_px or source.size_px or DEFAULT_SIZE_PX
    if not 1 <= size <= 4096:
        raise UsageError(f"the square size is {size} pixels; it must lie between 1 and 4096 (256 is usual)")
    if encoding not in (None, "jpeg", "raw"):
        raise UsageError(f"encoding {encoding!r} is unknown; use jpeg or raw")
    return Recipe(size, encoding or ("raw" if size <= SMALL_PX else "jpeg"))


def _make_room(out: Path) -> None:
    """An empty folder to write to. What an unfinished pack left is removed; anything else is not ours to touch."""
    if is_pack(out):
        raise DataError(f"{out} holds a pack already; give another folder, or delete it first")
    present = sorted(path for path in out.iterdir() if path.name != LOCK)
    foreign = [path.name for path in present if not LEFTOVER.fullmatch(path.name)]
    if foreign:
        raise DataError(
            f"{out} is not empty (it holds {', '.join(foreign[:3])}); give another folder, or delete it first"
        )
    for path in present:
        path.unlink()


def _write(
    source: Source, out: Path, recipe: Recipe, seed: int, workers: int, shard_rows: int | None, progress: Progress
) -> dict:
    total = sum(len(items) for items in source.splits.values())
    done = 0
    sums = ColourSums.none(recipe.size_px)
    shards, counts, class_counts, rejected = [], {}, {}, []
    for number, (split, items) in enumerate(source.splits.items()):
        order = np.random.default_rng([seed, number]).permutation(len(items))
        writer = ShardWriter(out, split, shard_rows)
        n_of_class = np.zeros(len(source.classes), np.int64)
        for chunk in _chunks(items, order, recipe, split == "train", workers):
            for row in chunk.rows:
                writer.add(row)
                n_of_class[row[1]] += 1
            rejected += [(split, key, reason) for key, reason in chunk.rejected]
            sums = sums if chunk.sums is None else sums + chunk.sums
            done += len(chunk.rows) + len(chunk.rejected)
            progress(done, total)
        shards += writer.close()
        counts[split], class_counts[split] = int(n_of_class.sum()), n_of_class.tolist()
        _check_classes(split, n_of_class, source.classes, rejected)
    put_file(out / "rejected.csv", lambda file: file.write(_csv([("split", "key", "reason"), *rejected])))
    return _meta(source, out, recipe, seed, shards, counts, class_counts, rejected, sums)


def _check_classes(
    split: str, n_of_class: np.ndarray, classes: list[str], rejected: list[tuple[str, str, str]]
) -> None:
    if split == "train" and (n_of_class == 0).any():
        empty = [classes[label] for label in np.flatnonzero(n_of_class == 0)[:10]]
        example = f" (the first refused: {rejected[0][1]}: {rejected[0][2]})" if rejected else ""
        raise DataError(f"no picture that can be used is left to train class {', '.join(map(repr, empty))}{example}")


def _chunks(items: list[Item], order: np.ndarray, recipe: Recipe, is_train: bool, workers: int) -> Iterator[Chunk]:
    """The pictures in `order`, prepared by `workers` threads (the codecs let each other run), results in order."""
    tasks = ([items[i] for i in order[start : start + CHUNK_ITEMS]] for start in range(0, len(order), CHUNK_ITEMS))
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(_prepare, task, recipe, is_train))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _prepare(items: list[Item], recipe: Recipe, with_sums: bool) -> Chunk:
    rows, rejected, images_nhwc = [], [], []
    for item in items:
        try:
            given = item.read()
            pixels = given if isinstance(given, np.ndarray) else image.decode(given)
        except DataError as error:
            rejected.append((item.key, str(error)))
            continue
        except OSError as error:
            rejected.append((item.key, f"cannot be read: {error.strerror or error}"))
            continue
        square = image.square(pixels, recipe.size_px)
        stored = square.tobytes() if recipe.encoding == "raw" else image.encode_jpeg(square)
        rows.append((stored, item.label, item.key))
        images_nhwc.append(square)
    return Chunk(rows, rejected, ColourSums.of(images_nhwc) if with_sums and images_nhwc else None)


def _meta(
    source: Source,
    out: Path,
    recipe: Recipe,
    seed: int,
    shards: list[dict],
    counts: dict[str, int],
    class_counts: dict[str, list[int]],
    rejected: list[tuple[str, str, str]],
    sums: ColourSums,
) -> dict:
    colours = colour_statistics(sums)
    put_file(out / "mean.npy", lambda file: np.save(file, colours.mean_hwc))
    return {
        "format_version": FORMAT_VERSION,
        "name": source.name,
        "size_px": recipe.size_px,
        "encoding": recipe.encoding,
        "classes": source.classes,
        "counts": counts,
        "class_counts": class_counts,
        "rejected": {split: sum(row[0] == split for row in rejected) for split in source.splits},
        "mean_image": "mean.npy",
        "mean_sha256": hashlib.sha256((out / "mean.npy").read_bytes()).hexdigest(),
        "channel_means": colours.channel_means.tolist(),
        "colour_stds": colours.colour_stds.tolist(),
        "colour_axes": colours.colour_axes.tolist(),
        "seed": seed,
        "shards": shards,
        "fingerprint": fingerprint(shards, source.classes),
    }


def _report(meta: dict, source: Source, say: Say) -> None:
    for note in source.notes:
        say(note)
    for split, n_rejected in meta["rejected"].items():
        if n_rejected:
            n_given = n_rejected + meta["counts"][split]
            many = ", which is many" if n_rejected > MANY_REJECTED * n_given else ""
            say(f"{n_rejected:,} of {n_given:,} {split} pictures were refused{many}; rejected.csv has the reasons")


def _csv(rows: list[tuple[str, str, str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
