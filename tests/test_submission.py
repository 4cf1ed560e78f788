"""Five ids a line, in the order of the pictures' keys, the devkit's numbers where the pack knows them."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import TINY, alexnet

from alexnet import submission
from alexnet.data.items import Item, Source
from alexnet.data.pack import Pack, open_pack, pack
from alexnet.errors import DataError, UsageError

CLASSES = ["n01", "n02", "n03", "n04", "n05", "n06"]
DEVKIT_IDS = [44, 7, 1000, 3, 12, 9]


def picture(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def packed(folder, ids: list | None, classes: list[str] = CLASSES) -> Pack:
    spans = {"train": range(12), "val": range(100, 123)}
    splits = {s: [Item(f"{s}/{i:05}", i % len(classes), picture, i) for i in span] for s, span in spans.items()}
    pack(Source("six", classes, splits, size_px=16, class_order="wnid", class_ids=ids), folder)
    return open_pack(folder)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> Pack:
    return packed(tmp_path_factory.mktemp("submission") / "pack", DEVKIT_IDS)


def test_lines_stand_in_the_order_of_the_keys(numbered, tmp_path):
    split = numbered.splits["val"]
    assert numbered.meta["class_order"] == "wnid"
    order = [int(split.key(i).split("/")[1]) for i in range(len(split))]
    assert order != sorted(order)
    guesses = torch.tensor([[number % 6, 5, 4, 3, 2] for number in order])
    submission.write(tmp_path / "s.txt", numbered, "val", guesses)
    lines = (tmp_path / "s.txt").read_text().splitlines()
    assert lines == [f"{DEVKIT_IDS[number % 6]} 9 12 3 1000" for number in sorted(order)]
    assert [path.name for path in tmp_path.iterdir()] == ["s.txt"]


def test_without_devkit_ids_count_the_packs_classes(tmp_path):
    assert submission.ids_of(packed(tmp_path / "p", None)) == [1, 2, 3, 4, 5, 6]


def test_best_five_and_ties():
    mean = torch.tensor([[0.1, 0.3, 0.1, 0.1, 0.3, 0.1], [0, 0, 0, 0, 0, 1.0]])
    assert submission.best(mean).tolist() == [[1, 4, 0, 2, 3], [5, 0, 1, 2, 3]]


@pytest.mark.parametrize(
    "ids", [[1, 2, 3], [1, 1, 2, 3, 4, 5], ["1", 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5], "123456", [True] * 6]
)
def test_made_up_ids_are_refused(tmp_path, ids):
    opened = packed(tmp_path / "p", None)
    opened.meta["devkit_ids"] = ids
    with pytest.raises(DataError, match="devkit_ids"):
        submission.check(tmp_path / "s.txt", opened)


def test_too_few_classes_and_no_folder(numbered, tmp_path):
    few = packed(tmp_path / "p", None, CLASSES[:4])
    with pytest.raises(UsageError, match="only 4 classes"):
        submission.check(tmp_path / "s.txt", few)
    for path in (tmp_path, tmp_path / "nowhere/s.txt"):
        with pytest.raises(UsageError, match="folder that exists"):
            submission.check(path, numbered)


def test_the_command(numbered, tmp_path):
    alexnet("train", numbered.path, "--run", tmp_path / "run", "--steps", 2, *TINY)
    told = json.loads(
        alexnet("evaluate", tmp_path / "run", "--views", 10, "--submission", tmp_path / "s", "--json").stdout
    )
    rows = [
        [DEVKIT_IDS.index(int(word)) for word in line.split()] for line in (tmp_path / "s").read_text().splitlines()
    ]
    labels = [i % 6 for i in range(100, 123)]
    assert [len(set(row)) for row in rows] == [5] * len(labels)
    top1 = sum(row[0] != label for row, label in zip(rows, labels, strict=True)) / len(labels)
    assert told["top1_error"] == pytest.approx(top1)
