"""The pictures whose features lie nearest, by exact search: a file of features is the index, nothing more is built.

    search("fc7.h5", ["cat/7.jpg"])                      a picture that is in the file, by its key
    search("fc7.h5", ["mine.jpg"], run="runs/as_run")    any other, through the net the features are from

Rows are read block by block and only the nearest kept: memory is bounded, the time that of reading the file once.
Euclidean distance of the last hidden layer is the paper's (section 6.1, figure 4).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet import featurefiles, features
from alexnet.errors import DataError, UsageError
from alexnet.featurefiles import NO_LABEL, Saved
from alexnet.predict import Predictor

BLOCK_NBYTES = 64 << 20
DISTANCES = ("euclidean", "cosine")


def search(
    index: str | Path,
    queries: Sequence[str],
    *,
    run: str | Path | Predictor | None = None,
    layer: str | None = None,
    count: int = 6,
    distance: str = "euclidean",
) -> list[dict]:
    """[{"query", "neighbours": [{"key", "label", "distance"}]}], nearest first, a query that is in the file left out.

    A query is a key of the file, or a picture file with the `run` the features are from; `layer` only for an .npy,
    which does not say it. `distance` is euclidean (paper, section 6.1) or cosine, which is 1 - cosine; labels are null
    where there are none. Raises UsageError for what cannot be asked, DataError for files that do not fit.
    """
    if distance not in DISTANCES or count < 1:
        raise UsageError(f"{count} neighbours by {distance!r}: 1 or more, by {' or '.join(DISTANCES)}")
    if not queries:
        raise UsageError("name a picture: --query KEY or FILE")
    saved = featurefiles.read(Path(index))
    if layer and saved.facts.get("layer", layer) != layer:
        raise UsageError(f"{index} holds {saved.facts['layer']}, not {layer}")
    places = {key: i for i, key in enumerate(saved.keys)}
    others = [query for query in queries if query not in places]
    rows = dict(zip(others, _through_the_net(saved, others, run, layer), strict=True)) if others else {}
    rows |= {key: saved.rows(places[key], places[key] + 1)[0] for key in queries if key in places}
    wanted = np.stack([rows[query] for query in queries]).astype(np.float64)
    nearest = _nearest(saved, wanted, min(count + 1, len(saved)), distance)
    return [
        {"query": query, "neighbours": [_told(saved, *one) for one in found if one[1] != places.get(query)][:count]}
        for query, found in zip(queries, nearest, strict=True)
    ]


def _through_the_net(saved: Saved, files: list[str], run, layer: str | None) -> np.ndarray:
    """(n, width): the same layer, tower and views of picture files."""
    layer = saved.facts.get("layer", layer)
    if run is None or layer is None:
        what = (
            "a run to see it through, with --run" if run is None else "its layer, with --layer: an .npy does not say it"
        )
        raise UsageError(f"{files[0]} is no key of {saved.path}; a picture file needs {what}")
    options = {"tower": saved.facts.get("tower") or None, "views": int(saved.facts.get("views", 1))}
    with tempfile.TemporaryDirectory(prefix="alexnet-neighbours-") as folder:
        features.write(run, files, layer, Path(folder) / "queries.npy", **options)
        seen = featurefiles.read(Path(folder) / "queries.npy")
        if seen.shape != saved.shape:
            raise DataError(f"{layer} of this net is {seen.shape}, and {saved.path} holds {saved.shape}: another net's")
        return seen.rows(0, len(seen))


def _nearest(saved: Saved, wanted: np.ndarray, count: int, distance: str) -> list[list[tuple[float, int]]]:
    """For each query the `count` nearest (distance, row), nearest first; earlier rows first where equal."""
    best: list[list[tuple[float, int]]] = [[] for _ in wanted]
    step = max(1, BLOCK_NBYTES // (8 * saved.width))
    for first in range(0, len(saved), step):
        rows = saved.rows(first, min(first + step, len(saved))).astype(np.float64)
        for i, query in enumerate(wanted):
            apart = _apart(rows, query, distance)
            near = np.argsort(apart, kind="stable")[:count]
            best[i] = sorted([*best[i], *((float(apart[j]), first + int(j)) for j in near)])[:count]
    return best


def _apart(rows: np.ndarray, query: np.ndarray, distance: str) -> np.ndarray:
    if distance == "euclidean":
        return np.linalg.norm(rows - query, axis=1)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    return 1 - (rows @ query) / np.where(lengths == 0, 1, lengths)


def _told(saved: Saved, distance: float, row: int) -> dict:
    label = int(saved.labels[row])
    return {"key": saved.keys[row], "label": None if label == NO_LABEL else label, "distance": distance}
