"""Pictures to the rows of a pack: read, decoded, cut square, encoded, summed up; in threads, results in order.

The codecs and the compiled loops let go of Python's lock, so threads use all cores. One picture that cannot be used is
refused with its reason and the rest goes on.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from alexnet.data import image
from alexnet.data.items import Item
from alexnet.data.statistics import ColourSums
from alexnet.errors import DataError

CHUNK_ITEMS = 32  # pictures per task: enough to hide the cost of handing tasks out


@dataclass(frozen=True)
class Recipe:
    """How one picture is stored."""

    size_px: int
    encoding: str  # "jpeg" or "raw"


@dataclass(frozen=True)
class Chunk:
    """What a thread hands back for a few pictures: rows (bytes, label, key), refusals (key, reason), colour sums."""

    rows: list[tuple[bytes, int, str]]
    rejected: list[tuple[str, str]]
    sums: ColourSums | None


def chunks(items: list[Item], order: np.ndarray, recipe: Recipe, with_sums: bool, workers: int) -> Iterator[Chunk]:
    """The pictures in `order`, `CHUNK_ITEMS` at a time, prepared by `workers` threads, results in order."""
    tasks = ([items[i] for i in order[start : start + CHUNK_ITEMS]] for start in range(0, len(order), CHUNK_ITEMS))
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(_prepare, task, recipe, with_sums))
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
