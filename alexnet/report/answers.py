"""What a net answers for pictures of a pack, and what follows from it: confusions, errors by class, worst mistakes.

    seen = look(net, prep, place, pack.splits["val"], pack.classes, limit=1000)
    seen.probabilities        (n, classes) float32, one view
    seen.hidden               (n, units) float32: what goes into fc8 (the paper's last hidden layer), if asked for

Reports and figures show the same answers. Of many pictures an even selection is looked at, the same every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.data import augment, loader
from alexnet.data.augment import Preprocessing
from alexnet.data.packfile import Split
from alexnet.errors import DataError
from alexnet.evaluate import Machine, errors
from alexnet.layerfile import LayerNet

PICTURES = 1000  # looked at unless told otherwise, or
PER_CLASS = 10  # ... so many a class where that is more


@dataclass(frozen=True)
class Answers:
    """`pictures`: places in `split`, (n,); labels (n,) int64; probabilities (n, classes); hidden (n, units) or None."""

    split: Split
    classes: list[str]
    pictures: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    hidden: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def said(self) -> np.ndarray:
        """(n,) the most probable class."""
        return self.probabilities.argmax(1)

    def pixels(self, row: int) -> np.ndarray:
        """uint8 (S, S, 3), the square as packed."""
        return self.split.pixels(int(self.pictures[row]))

    def key(self, row: int) -> str:
        return self.split.key(int(self.pictures[row]))

    def top(self, row: int, count: int = 5) -> list[tuple[int, float]]:
        """(class, probability), most probable first."""
        order = np.argsort(-self.probabilities[row], kind="stable")[:count]
        return [(int(i), float(self.probabilities[row, i])) for i in order]


@dataclass(frozen=True)
class Confusion:
    """`count` of the `images` pictures of class `label` were taken for class `said`."""

    label: int
    said: int
    count: int
    images: int


def usual_limit(classes: int) -> int:
    return max(PICTURES, PER_CLASS * classes)


def look(
    net: nn.Module,
    prep: Preprocessing,
    place: Machine,
    split: Split,
    classes: list[str],
    *,
    limit: int | None = None,
    hidden: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:
    """The net's answers, one view, for `limit` pictures evenly chosen (None: all). The net is left in eval mode.

    Raises DataError for a split without pictures, a damaged picture, or outputs that are not finite.
    """
    if len(split) == 0:
        raise DataError("there are no pictures to look at: the pack has none in this split")
    count = min(len(split), limit or len(split))
    pictures = np.linspace(0, len(split), count, endpoint=False).astype(np.int64)
    probabilities, inputs = [], []
    for images_nchw in _batches(prep, place, split, pictures):
        before, after = hidden_and_softmax(net, images_nchw.to(place.device, place.dtype))
        probabilities.append(after)
        if hidden:
            inputs.append(before)
        progress(sum(map(len, probabilities)), count)
    answers = torch.cat(probabilities).numpy()
    if not np.isfinite(answers).all():
        raise DataError("the net's outputs are not finite: its weights are damaged or it diverged")
    features = torch.cat(inputs).numpy() if hidden else None
    return Answers(split, classes, pictures, split.labels[pictures].astype(np.int64), answers, features)


def _batches(prep: Preprocessing, place: Machine, split: Split, pictures: np.ndarray) -> Iterator[Tensor]:
    centre = augment.views(1)[0]
    parts = [pictures[first : first + place.batch] for first in range(0, len(pictures), place.batch)]
    jobs = [loader.Job(part, augment.view_draws(prep, part.size, centre)) for part in parts]
    for batch in loader.batches(split, prep, jobs, place.batch, place.workers):
        yield batch.images_nchw


@torch.inference_mode()
def hidden_and_softmax(net: nn.Module, images_nchw: Tensor) -> tuple[Tensor, Tensor]:
    """What goes into the last dense layer, flat, and the softmax of what comes out; both float32 on the CPU."""
    net.eval()
    if isinstance(net, LayerNet):
        seen = net.outputs([*net.last_hidden, net.tops[0]], images_nchw)
        hidden, after = [seen[name].flatten(1) for name in net.last_hidden], seen[net.tops[0]]
        before = torch.cat(hidden, 1) if hidden else after.new_zeros(len(after), 0)
    else:
        names = [name for name, _ in net.named_children()]
        before = net(images_nchw, until=names[names.index("fc8") - 1]).flatten(1)
        after = net.fc8(before)
    return before.float().cpu(), torch.softmax(after.flatten(1).float(), dim=1).cpu()


def last_hidden(net: nn.Module) -> str:
    """The name of the layer whose activations go into the last dense one (but for dropout's factor): relu7, or pool3
    where there is no other dense layer; "hs2a and hs2b" of a net of layer files.
    """
    if isinstance(net, LayerNet):
        return " and ".join(net.last_hidden)
    names = [name for name, _ in net.named_children()]
    return next(name for name in reversed(names[: names.index("fc8")]) if not name.startswith(("drop", "flat")))


def one_of_each(seen: Answers, count: int, only_errors: bool = False) -> list[int]:
    """`count` rows, the first picture of classes evenly spread; of few classes, their second pictures too.
    `only_errors`: of those that were answered wrongly, of which there may be fewer or none.
    """
    among = np.flatnonzero((seen.said != seen.labels) | (not only_errors))
    present = np.unique(seen.labels[among])
    turns = [among[seen.labels[among] == label] for label in present]
    chosen = np.linspace(0, len(present), min(count, len(present)), endpoint=False).astype(int)
    rows = [int(turns[i][0]) for i in chosen]
    most = max(map(len, turns), default=0)
    later = [int(row) for turn in range(1, most) for rows_ in turns for row in rows_[turn : turn + 1]]
    return [*rows, *later][: min(count, len(among))]


def worst(seen: Answers, count: int) -> list[int]:
    """Rows of wrong answers, the most certain first."""
    wrong = np.flatnonzero(seen.said != seen.labels)
    certainty = seen.probabilities[wrong].max(1)
    return [int(row) for row in wrong[np.argsort(-certainty, kind="stable")][:count]]


def confusion(seen: Answers) -> np.ndarray:
    """(classes, classes) int64: how many pictures of the row's class were taken for the column's."""
    table = np.zeros((len(seen.classes), len(seen.classes)), np.int64)
    np.add.at(table, (seen.labels, seen.said), 1)
    return table


def most_confused(seen: Answers, count: int) -> list[Confusion]:
    """The commonest confusions, at least two pictures each; the larger share first where counts are equal."""
    table = confusion(seen)
    images = table.sum(1)
    np.fill_diagonal(table, 0)
    pairs = [
        Confusion(int(a), int(b), int(table[a, b]), int(images[a])) for a, b in zip(*np.nonzero(table > 1), strict=True)
    ]
    return sorted(pairs, key=lambda p: (-p.count, p.images, p.label, p.said))[:count]


def class_errors(seen: Answers) -> list[dict]:
    """{"class", "images", "top1_error", "top5_error"} of every class that has pictures, the worst first."""
    labels, probabilities = torch.from_numpy(seen.labels), torch.from_numpy(seen.probabilities)
    wrong = {f"top{k}_error": errors(probabilities, labels, k).numpy() for k in (1, 5)}
    rows = []
    for label in np.unique(seen.labels):
        mine = seen.labels == label
        rates = {name: float(values[mine].mean()) for name, values in wrong.items()}
        rows.append({"class": seen.classes[label], "images": int(mine.sum()), **rates})
    return sorted(rows, key=lambda row: (-row["top1_error"], row["class"]))


def nearest(query_nd: np.ndarray, candidates_md: np.ndarray, count: int) -> np.ndarray:
    """(n, count) places of the nearest candidates by Euclidean distance (paper, section 6.1), nearest first."""
    distances = torch.cdist(torch.from_numpy(query_nd), torch.from_numpy(candidates_md))
    return distances.argsort(dim=1, stable=True)[:, :count].numpy()


def kernels(weights: Tensor) -> np.ndarray | None:
    """conv1's kernels as uint8 pictures (n, K, K, 3), zero at mid-grey, one scale for all as the 2012 tool showed them:
    what is faint is weak. None where there is nothing to see.
    """
    if weights.ndim != 4 or weights.shape[1] != 3:
        return None
    tiles = weights.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    largest = np.quantile(np.abs(tiles), 0.999) or 1.0
    return np.uint8(np.clip(127.5 + 127.5 * tiles / largest, 0, 255).round())


def kernels_by_tower(net: nn.Module) -> list[tuple[str, np.ndarray]]:
    """(name of the tower, its kernels as `kernels` gives them); none for a net whose first layer has none to show."""
    if isinstance(net, LayerNet):
        found = [(name, kernels(weight)) for name, weight in net.colour_kernels().items()]
        return [(name, part) for name, part in found if part is not None]
    layer = getattr(net, "conv1", None)
    tiles = None if layer is None else kernels(layer.weight)
    if tiles is None:
        return []
    towers = net.spec.towers
    return [
        (f"tower {'abcdefgh'[i % 8]}" if towers > 1 else "", part) for i, part in enumerate(np.split(tiles, towers))
    ]


def in_rows(tiles_nhwc: np.ndarray, columns: int = 16, gap_px: int = 1, ground: int = 255) -> np.ndarray:
    """One picture of all tiles, row after row, as figure 3 has them."""
    count, height, width, _ = tiles_nhwc.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3)
    sheet = np.full(shape, ground, np.uint8)
    for i, tile in enumerate(tiles_nhwc):
        top, left = i // columns * (height + gap_px), i % columns * (width + gap_px)
        sheet[top : top + height, left : left + width] = tile
    return sheet
