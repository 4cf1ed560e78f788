"""Pictures of a pack to pixels, whatever kind of JPEG they are."""

import io

import numpy as np
import pytest
from PIL import Image

from alexnet.data import augment, image
from alexnet.data.augment import Draws, Preprocessing
from alexnet.data.reader import Reader
from alexnet.errors import DataError
from alexnet.kernels import compile_ahead

SIZE, CROP = 48, 40


class Stored:
    """A split that holds these JPEGs; `decoded` are those that libjpeg-turbo had to decode."""

    def __init__(self, jpegs: list[bytes]) -> None:
        self.jpegs, self.size_px, self.encoding, self.decoded = jpegs, SIZE, "jpeg", []

    def checked_bytes(self, index: int) -> bytes:
        return self.jpegs[index]

    def pixels(self, index: int, out_hwc: np.ndarray | None = None) -> np.ndarray:
        self.decoded.append(index)
        return image.decode_jpeg(self.jpegs[index], out_hwc)


def jpegs(count: int, others: dict[int, dict]) -> list[bytes]:
    """As packs store them, but for some that Pillow writes with these options."""
    made = []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", **others.get(i, {}))
        made.append(file.getvalue() if i in others else image.encode_jpeg(pixels))
    return made


def cut_all(split: Stored) -> tuple[np.ndarray, np.ndarray]:
    """What the reader makes of the pictures in reverse, and what libjpeg-turbo's pixels give."""
    count, rng = len(split.jpegs), np.random.default_rng(0)
    prep = Preprocessing(SIZE, CROP, np.full((SIZE, SIZE, 3), 9, np.float32), np.ones(3), np.ones(3), np.eye(3))
    places = rng.integers(0, SIZE - CROP + 1, (2, count))
    draws = Draws(*places, rng.uniform(size=count) < 0.5, rng.normal(0, 9, (count, 3)).astype(np.float32))
    found, wanted = (np.zeros((count, CROP, CROP, 3), np.float32) for _ in range(2))
    order = np.arange(count)[::-1]
    Reader(split).cut(order, draws, augment.mean_and_scales(draws, prep), found, 0)
    return found, augment.cut(np.stack([image.decode_jpeg(split.jpegs[i]) for i in order]), draws, prep, wanted)


@pytest.mark.parametrize("at", [[], [0], [6], [2, 3], list(range(7))])
def test_other_jpegs_among_those_of_packs(at):
    split = Stored(jpegs(7, {i: {"progressive": True} for i in at}))
    found, wanted = cut_all(split)
    np.testing.assert_array_equal(found, wanted)
    assert split.decoded == at[::-1]


def test_jpegs_of_two_qualities_by_turns_are_all_decoded():
    split = Stored(jpegs(6, {i: {"quality": 40, "subsampling": "4:2:0"} for i in (1, 3, 5)}))
    found, wanted = cut_all(split)
    np.testing.assert_array_equal(found, wanted)


def test_while_a_helper_compiles_libjpeg_decodes(monkeypatch):
    monkeypatch.setattr(compile_ahead, "ready", lambda name: False)
    split = Stored(jpegs(3, {}))
    found, wanted = cut_all(split)
    np.testing.assert_array_equal(found, wanted)
    assert split.decoded == [2, 1, 0]


def test_whole_squares():
    split = Stored(jpegs(3, {1: {"subsampling": "4:4:4"}}))
    reader, out = Reader(split), np.empty((SIZE, SIZE, 3), np.uint8)
    for i, jpeg in enumerate(split.jpegs):
        reader.read(i, out)
        np.testing.assert_array_equal(out, image.decode_jpeg(jpeg))
    assert split.decoded == [1]


def test_squares_of_a_size_that_is_left_to_libjpeg():
    split = Stored([image.encode_jpeg(np.full((33, 33, 3), 200, np.uint8))] * 2)
    split.size_px = 33
    out = np.empty((33, 33, 3), np.uint8)
    Reader(split).read(1, out)
    np.testing.assert_array_equal(out, image.decode_jpeg(split.jpegs[1]))
    assert split.decoded == [1]


def test_a_damaged_picture_raises_what_libjpeg_says():
    split = Stored(jpegs(3, {}))
    split.jpegs[1] = split.jpegs[1][:-200] + b"\xff\xd9"
    with pytest.raises(DataError, match="damaged JPEG"):
        cut_all(split)
