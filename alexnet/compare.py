"""How alike two representations of the same pictures are: between layers, towers and runs, every pair of them.

    compare(["runs/a", "runs/b"], ["conv5", "fc7"], data="photos.pack")    {"items", "pictures", "rsa", "cka"}

RSA: Spearman's correlation of the dissimilarities of all pairs of pictures (1 - Pearson's correlation of their
features, or Euclidean distance; Kriegeskorte et al. 2008). CKA: linear, with the unbiased estimate of HSIC (Kornblith
et al. 2019; Song et al. 2012, equation 5), which is 0 on average for unrelated features however few the pictures. Both
follow from the pictures' inner products, which are summed block by block of rows: memory is bounded whatever a layer's
size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet import featurefiles, features, verify
from alexnet.errors import DataError, UsageError
from alexnet.featurefiles import SUFFIXES, Saved
from alexnet.predict import load

BLOCK_NBYTES = 32 << 20
DISTANCES = ("correlation", "euclidean")
FEWEST = 4  # pictures: the unbiased estimate divides by n - 3


@dataclass(frozen=True)
class Item:
    """One representation: where it is from, which layer, which tower ("" for both), and the file of its features."""

    source: str
    layer: str
    tower: str
    saved: Saved


def compare(
    sources: Sequence[str | Path],
    layers: Sequence[str] = (),
    *,
    towers: Sequence[str] = (),
    data: str | None = None,
    split: str = "val",
    pictures: int = 1000,
    distance: str = "correlation",
    device: str = "auto",
    precision: str = "fp32",
    progress: Callable[[str], Callable[[int, int], None]] = features.silent,
) -> dict:
    """Every source with every other: run folders and model files at each of `layers` (and each of `towers`, if named),
    files of features as they are; over the first `pictures` of a split, the run's own data unless `data` is named.

    Returns {"items": [{"source", "layer", "tower", "shape"}], "pictures", "distance", "rsa": n x n, "cka": n x n}; RSA
    after Kriegeskorte et al. 2008, linear CKA after Kornblith et al. 2019 with Song et al.'s unbiased HSIC, both at
    most 1. Raises UsageError for what cannot be compared, DataError for features of other pictures or without variance.
    """
    if distance not in DISTANCES:
        raise UsageError(f"distance {distance!r}: {' or '.join(DISTANCES)}")
    options = {"split": split, "pictures": pictures}
    with tempfile.TemporaryDirectory(prefix="alexnet-compare-") as folder:
        items: list[Item] = []
        for source in map(Path, sources):
            if source.suffix in SUFFIXES and source.is_file():
                items.append(_of_file(source))
            else:
                predictor = load(source, device, precision)
                pack = verify.data_of(source, predictor, data, progress)
                items += _of_run(predictor, pack, str(source), layers, towers or (None,), Path(folder), options)
        count = _pictures_in_common(items, pictures)
        pairs = [_pairs(item, count, distance) for item in items]
        rsa, cka = (np.stack(vectors) for vectors in zip(*pairs, strict=True))
    rows = [{**{n: getattr(i, n) for n in ("source", "layer", "tower")}, "shape": list(i.saved.shape)} for i in items]
    record = {"items": rows, "pictures": count, "distance": distance}
    return {**record, "rsa": (rsa @ rsa.T).tolist(), "cka": (cka @ cka.T).tolist()}


def _of_file(path: Path) -> Item:
    saved = featurefiles.read(path)
    return Item(str(path), saved.facts.get("layer", path.stem), saved.facts.get("tower", ""), saved)


def _of_run(predictor, pack, source: str, layers, towers, folder: Path, options: dict) -> list[Item]:
    if not layers:
        raise UsageError(f"{source} is a net: name the layers to compare, as --layer conv5 fc7")
    items = []
    for layer in layers:
        for tower in towers:
            path = folder / f"{len(list(folder.iterdir()))}.npy"
            record = features.write(predictor, pack, layer, path, tower=tower, **options)
            items.append(Item(source, record["layer"], tower or "", featurefiles.read(path)))
    return items


def _pictures_in_common(items: list[Item], most: int) -> int:
    """How many rows to take; they must be the same pictures in the same order."""
    if len(items) < 2:
        raise UsageError("one representation alone has nothing to be compared with: name more runs, layers or files")
    count = min(most, *(len(item.saved) for item in items))
    first = items[0]
    for item in items[1:]:
        if item.saved.keys[:count] != first.saved.keys[:count]:
            raise DataError(f"{item.source} and {first.source} hold features of other pictures, or in another order")
    if count < FEWEST:
        raise DataError(
            f"{count} pictures are too few to compare; {FEWEST} at the least, a thousand for a steady answer"
        )
    return count


def _pairs(item: Item, count: int, distance: str) -> tuple[np.ndarray, np.ndarray]:
    """For all pairs of pictures: ranks of the dissimilarities, and similarities centred as HSIC wants them, both of
    length 1. The products of two such vectors are Spearman's correlation, and CKA.
    """
    by_picture, by_feature = inner_products(item.saved, count)
    upper = np.triu_indices(count, 1)
    if distance == "correlation":
        spread = np.sqrt(np.diag(by_picture))
        if (spread == 0).any():
            key = item.saved.keys[int(spread.argmin())]
            raise DataError(f"{item.layer} of {item.source} is the same number all over for {key}: no correlation")
        apart = 1 - (by_picture / spread[:, None] / spread)[upper]
    else:
        own = np.diag(by_feature)
        apart = (own[:, None] + own - 2 * by_feature)[upper]
    ranked = ranks(apart)
    ranked -= ranked.mean()
    similar = u_centred(by_feature)[upper]
    lengths = np.linalg.norm(ranked), np.linalg.norm(similar)
    if min(lengths) == 0:
        raise DataError(f"{item.layer} of {item.source} is the same for all {count} pictures")
    return ranked / lengths[0], similar / lengths[1]


def inner_products(saved: Saved, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (count, count) float64: of the rows less each row's mean, and of the rows less the mean row."""
    step = max(1, BLOCK_NBYTES // (4 * saved.width))
    blocks = [(first, min(first + step, count)) for first in range(0, count, step)]
    mean_row = sum(saved.rows(*block).sum(0, dtype=np.float64) for block in blocks) / count
    by_picture, by_feature = np.empty((count, count)), np.empty((count, count))
    for i, (a, b) in enumerate(blocks):
        ours = _centred(saved.rows(a, b), mean_row)
        for c, d in blocks[: i + 1]:
            theirs = ours if c == a else _centred(saved.rows(c, d), mean_row)
            for out, left, right in zip((by_picture, by_feature), ours, theirs, strict=True):
                out[a:b, c:d] = left @ right.T
                out[c:d, a:b] = out[a:b, c:d].T
    return by_picture, by_feature


def _centred(rows: np.ndarray, mean_row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean_of_row = rows.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
    return rows - mean_of_row, rows - mean_row.astype(np.float32)


def ranks(values: np.ndarray) -> np.ndarray:
    """1, 2, 3 ... by size; equal values share the mean of their places."""
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(times) - (times - 1) / 2)[place]


def u_centred(products: np.ndarray) -> np.ndarray:
    """Off the diagonal, less the means of row and column and plus that of all, with the divisors that make the sum of
    products of two such matrices n (n - 3) times the unbiased HSIC (Szekely and Rizzo 2014); the diagonal is 0.
    """
    n = len(products)
    off = products - np.diag(np.diag(products))
    sums = off.sum(0)
    off += sums.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums) / (n - 2)
    np.fill_diagonal(off, 0)
    return off
