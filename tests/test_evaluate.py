"""Errors counted by hand: ties, batches that do not divide, views, ensembles, classes."""

import numpy as np
import pytest
import torch
from torch import nn

from alexnet.data.augment import Preprocessing
from alexnet.errors import DataError, UsageError
from alexnet.evaluate import Machine, Member, errors, evaluate, predictions

CLASSES, SIZE, CROP = 7, 6, 4
NAMES = [f"class{i}" for i in range(CLASSES)]
PREP = Preprocessing(SIZE, CROP, np.full((SIZE, SIZE, 3), 120, np.float32), np.ones(3), np.ones(3), np.eye(3))
HERE = Machine(torch.device("cpu"), batch=4, workers=1)


class Pictures:
    """What evaluation needs of a pack's split, in memory."""

    encoding, size_px = "raw", SIZE

    def __init__(self, count: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.squares = rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
        self.labels = rng.integers(0, CLASSES - 1, count).astype(np.int32)  # the last class has no pictures

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int) -> np.ndarray:
        return self.squares[index]


def net_of(seed: int) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * CROP * CROP, CLASSES))
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.01, generator=generator)
    return net


def softmax_by_hand(net: nn.Module, square: np.ndarray, views: int) -> np.ndarray:
    """(views, classes) float64."""
    weight, bias = net[1].weight.detach().double().numpy(), net[1].bias.detach().double().numpy()
    rows = []
    for mirror in (False, True):
        for top, left in ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2)):
            crop = square[top : top + CROP, left : left + CROP].astype(np.float64) - 120
            crop = crop[:, ::-1] if mirror else crop
            logits = weight @ crop.transpose(2, 0, 1).ravel() + bias
            rows.append(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())
    return np.stack(rows[2:3] if views == 1 else rows)


def mean_softmax(net: nn.Module, split: Pictures, views: int) -> np.ndarray:
    return np.stack([softmax_by_hand(net, square, views).mean(0) for square in split.squares])


def wrong(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    best = np.argsort(-probabilities, axis=1)[:, :k]
    return (best != labels[:, None]).all(1)


@pytest.mark.parametrize(
    ("row", "label", "k", "error"),
    [
        *(([0.5, 0.3, 0.2], 0, 1, 0), ([0.5, 0.3, 0.2], 1, 1, 1), ([0.5, 0.3, 0.2], 1, 2, 0)),
        *(([0.4, 0.4, 0.2], 0, 1, 1 / 2), ([0.4, 0.4, 0.2], 1, 1, 1 / 2), ([0.4, 0.4, 0.2], 2, 1, 1)),
        *(([0.4, 0.3, 0.3], 2, 1, 1), ([0.4, 0.3, 0.3], 2, 2, 1 / 2), ([0.4, 0.3, 0.3], 0, 2, 0)),
        *(([0.4, 0.2, 0.2, 0.2], 3, 3, 1 / 3), ([0.4, 0.2, 0.2, 0.2], 3, 2, 2 / 3), ([0.4, 0.2, 0.2, 0.2], 3, 5, 0)),
    ],
)
def test_ties_share_the_places_they_fill(row, label, k, error):
    """2012 source: credit = slots left / number of tied, slots = k - number more probable."""
    assert errors(torch.tensor([row]), torch.tensor([label]), k).item() == pytest.approx(error, abs=1e-15)


@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_the_same_answer_for_everything_scores_like_chance(classes):
    probabilities = torch.full((3, classes), 1 / classes)
    for k in (1, 5):
        found = errors(probabilities, torch.zeros(3, dtype=torch.int64), k)
        assert found.tolist() == pytest.approx([1 - min(k, classes) / classes] * 3, abs=1e-15)


@pytest.mark.parametrize("count", [1, 4, 10, 13])
@pytest.mark.parametrize("views", [1, 10])
def test_counts_are_exact(count, views):
    split, net, told = Pictures(count), net_of(0), []
    result = evaluate([Member(net, PREP)], split, views, HERE, NAMES, lambda done, total: told.append((done, total)))
    mean = mean_softmax(net, split, views)
    assert result["top1_error"] == pytest.approx(wrong(mean, split.labels, 1).mean(), abs=1e-15)
    assert result["top5_error"] == pytest.approx(wrong(mean, split.labels, 5).mean(), abs=1e-15)
    assert (result["images"], result["views"]) == (count, views)
    assert told == [(min(done, count), count) for done in range(4, count + 4, 4)]


@pytest.mark.parametrize("views", [1, 10])
def test_softmax_is_averaged_over_views(views):
    """Paper, section 4.1: the average of the softmax outputs, not of what goes into them."""
    split, net = Pictures(6), net_of(1)
    found = torch.cat(list(predictions(Member(net, PREP), split, views, HERE)))
    np.testing.assert_allclose(found.numpy(), mean_softmax(net, split, views), rtol=1e-5)


def test_ensembles_are_weighted_means():
    """Paper, section 6: several nets' predictions averaged."""
    split, nets, weights = Pictures(50), [net_of(seed) for seed in (0, 1, 2)], (3.0, 1.0, 0.5)
    members = [Member(net, PREP, weight) for net, weight in zip(nets, weights, strict=True)]
    mean = sum(w * mean_softmax(net, split, 1) for net, w in zip(nets, weights, strict=True)) / sum(weights)
    result = evaluate(members, split, 1, HERE, NAMES)
    assert result["top1_error"] == pytest.approx(wrong(mean, split.labels, 1).mean(), abs=1e-15)
    alone = [evaluate([member], split, 1, HERE, NAMES)["top1_error"] for member in members]
    equal = evaluate([Member(net, PREP) for net in nets], split, 1, HERE, NAMES)["top1_error"]
    assert len({*alone, equal, result["top1_error"]}) > 2
    twice = evaluate([members[0], Member(nets[0], PREP)], split, 1, HERE, NAMES)
    assert twice["top1_error"] == alone[0]


def test_classes_add_up_to_the_whole():
    split = Pictures(53)
    result = evaluate([Member(net_of(2), PREP)], split, 1, HERE, NAMES)
    rows = result["classes"]
    assert [row["class"] for row in rows] == NAMES
    assert [row["images"] for row in rows] == np.bincount(split.labels, minlength=CLASSES).tolist()
    for key in ("top1_error", "top5_error"):
        whole = sum(row["images"] * row[key] for row in rows if row["images"])
        assert whole / 53 == pytest.approx(result[key])
    assert rows[-1] == {"class": "class6", "images": 0, "top1_error": None, "top5_error": None}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused(value):
    net = net_of(0)
    net[1].bias.data[3] = value
    with pytest.raises(DataError, match="not finite"):
        evaluate([Member(net, PREP)], Pictures(3), 1, HERE, NAMES)


def test_training_goes_on_after_any_evaluation():
    """Inference mode must not leak: not between batches, not from several nets in turn, not after an error."""
    nets, modes = [net_of(0), net_of(1)], []
    members = [Member(net, PREP) for net in nets]
    evaluate(members, Pictures(9), 1, HERE, NAMES, lambda *_: modes.append(torch.is_inference_mode_enabled()))
    nets[1][1].bias.data[0] = float("nan")
    with pytest.raises(DataError):
        evaluate(members, Pictures(9), 1, HERE, NAMES)
    modes.append(torch.is_inference_mode_enabled())
    assert modes == [False] * 4
    nets[0](torch.zeros(1, 3, CROP, CROP)).sum().backward()


def test_nothing_to_evaluate():
    with pytest.raises(DataError, match=r"no pictures.*--val-fraction"):
        evaluate([Member(net_of(0), PREP)], Pictures(0), 1, HERE, NAMES)
    with pytest.raises(UsageError, match=r"--views 3: 1 .* or 10"):
        evaluate([Member(net_of(0), PREP)], Pictures(3), 3, HERE, NAMES)
