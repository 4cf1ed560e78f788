"""The built-in picture set: the same bytes everywhere, and classes that only their outlines tell apart."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from alexnet.data import shapes
from alexnet.errors import UsageError

N_TRAIN, N_VAL, SIZE_PX = 1000, 500, 32
LABELS_TRAIN, LABELS_VAL = np.arange(N_TRAIN) % 10, np.arange(N_VAL) % 10


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """(N_TRAIN, S, S, 3) of seed 0 and (N_VAL, S, S, 3) of seed 1, uint8."""
    sizes = {0: N_TRAIN, 1: N_VAL}
    return tuple(np.stack([shapes.render(i, seed, SIZE_PX) for i in range(n)]) for seed, n in sizes.items())


def digest(images) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(image).tobytes() for image in images)).hexdigest()


def test_bytes_are_pinned():
    """If pixels change on purpose, raise VERSION and pin the new digest."""
    assert shapes.VERSION == 1
    assert digest(shapes.render(i, 0, 64) for i in range(40))[:16] == "2a3fb71c298ce249"


def test_threads_render_the_same_bytes(pictures):
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda i: shapes.render(i, 0, SIZE_PX), reversed(range(200))))
    assert digest(images[::-1]) == digest(pictures[0][:200])


def test_another_process_renders_the_same_bytes(pictures):
    code = f"import sys; from alexnet.data import shapes; sys.stdout.buffer.write(shapes.render(7, 0, {SIZE_PX}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert run.stdout == pictures[0][7].tobytes()


@pytest.mark.parametrize("size_px", [1, 7, 33, 256])
def test_any_size(size_px):
    image = shapes.render(11, 3, size_px)
    assert image.shape == (size_px, size_px, 3)
    assert image.dtype == np.uint8


def test_sizes_show_the_same_scene():
    """A 256 px picture averaged down to 32 px is the 32 px picture, but for edges, fine texture and grain."""
    for index in range(10):
        small = shapes.render(index, 5, 32).astype(float)
        averaged = shapes.render(index, 5, 256).reshape(32, 8, 32, 8, 3).mean((1, 3))
        assert np.median(abs(small - averaged)) < 12


@pytest.mark.parametrize(("a", "b"), [((0, 0), (0, 1)), ((0, 0), (10, 0)), ((3, 4), (4, 3)), ((2**40, 0), (0, 0))])
def test_index_and_seed_both_matter(a, b):
    assert (shapes.render(*a, 32) != shapes.render(*b, 32)).mean() > 0.5


def test_only_the_outline_depends_on_the_class():
    """All other layers of a scene are drawn from the same numbers, whatever the class."""
    scenes = [shapes.scene(shapes._numbers(0, 99), name) for name in shapes.CLASSES]
    for layers, light in scenes:
        assert light == scenes[0][1]
        for field in ("centre", "inverse", "tilt", "texture", "colours", "opacity"):
            np.testing.assert_array_equal(layers[field], scenes[0][0][field])


def test_ten_classes():
    assert len(set(shapes.CLASSES)) == 10


@pytest.mark.parametrize(("index", "seed", "size_px"), [(-1, 0, 9), (0, -1, 9), (0, 0, 0), (0, 0, 5000), (2**63, 0, 9)])
def test_bad_arguments_are_named(index, seed, size_px):
    with pytest.raises(UsageError, match=rf"{index}.*{seed}.*{size_px}"):
        shapes.render(index, seed, size_px)


def test_pictures_are_neither_dark_nor_flat(pictures):
    images = pictures[1].astype(np.float32)
    assert 80 < images.mean() < 160
    assert np.mean(images.std((1, 2)).mean(1) > 8) > 0.98


def test_mean_colour_does_not_tell_the_class(pictures):
    train, val = (images.mean((1, 2)) for images in pictures)
    centroids = np.stack([train[label == LABELS_TRAIN].mean(0) for label in range(10)])
    guesses = ((val[:, None] - centroids) ** 2).sum(2).argmin(1)
    assert (guesses == LABELS_VAL).mean() < 0.2


def test_a_linear_classifier_fails(pictures):
    """Ridge regression on 16x16 pixels: vision is needed."""
    train, val = (
        images.reshape(len(images), 16, 2, 16, 2, 3).mean((2, 4)).reshape(len(images), -1) / 255 - 0.5
        for images in pictures
    )
    weights = np.linalg.solve(train.T @ train + 30 * np.eye(train.shape[1]), train.T @ np.eye(10)[LABELS_TRAIN])
    assert ((val @ weights).argmax(1) == LABELS_VAL).mean() < 0.35
