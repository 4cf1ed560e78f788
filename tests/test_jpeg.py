"""The compiled decoder against libjpeg-turbo, pixel by pixel, and against everything that it has to leave alone."""

import io
import platform
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from alexnet.data import augment, image
from alexnet.data.augment import Draws, Preprocessing
from alexnet.data.cut_jpegs import cut_jpegs
from alexnet.kernels import jpeg, jpeg_numba
from alexnet.kernels.jpeg import Decoder

RNG = np.random.default_rng(0)


def grey_noise(size: int) -> np.ndarray:
    return np.broadcast_to(RNG.integers(0, 256, (size, size, 1)), (size, size, 3)).astype(np.uint8)


def colour_noise(size: int) -> np.ndarray:
    return RNG.integers(0, 256, (size, size, 3), dtype=np.uint8)


def smooth(size: int) -> np.ndarray:
    """Gradients, as skies have them: most coefficients are 0."""
    y, x = np.mgrid[0:size, 0:size] * 255 / (size - 1)
    return np.stack([x, y, 255 - (x + y) / 2], axis=-1).astype(np.uint8)


def edges(size: int) -> np.ndarray:
    """The strongest contrasts that there are, in all colours, in blocks of 5 px."""
    blocks = RNG.integers(0, 2, (-(-size // 5), -(-size // 5), 3)) * 255
    return blocks.repeat(5, 0).repeat(5, 1)[:size, :size].astype(np.uint8)


PICTURES = {"grey noise": grey_noise, "noise": colour_noise, "smooth": smooth, "edges": edges}


def decoded(stored: bytes, size: int) -> np.ndarray | None:
    out = np.full((size, size, 3), 77, np.uint8)
    return out if Decoder(size).decode(stored, out) else None


@pytest.mark.parametrize("size", [32, 34, 46, 48, 126, 128, 160, 224, 256, 258, 528])
@pytest.mark.parametrize("picture", PICTURES)
def test_pixels_are_those_of_libjpeg(picture, size):
    pixels = PICTURES[picture](size)
    for quality in (1, 30, 75, 95, 100):
        stored = image.encode_jpeg(pixels, quality)
        np.testing.assert_array_equal(decoded(stored, size), image.decode_jpeg(stored))


def test_one_decoder_for_many_pictures_of_several_headers():
    decoder, out = Decoder(64), np.empty((64, 64, 3), np.uint8)
    for i in range(40):
        stored = image.encode_jpeg(list(PICTURES.values())[i % 4](64), (95, 95, 50)[i % 3])
        assert decoder.decode(stored, out)
        np.testing.assert_array_equal(out, image.decode_jpeg(stored))


def by_pillow(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **{"quality": 90, "subsampling": "4:2:0"} | options)
    return file.getvalue()


def test_huffman_tables_made_for_the_picture():
    """Their codes have other lengths, and codes of 16 bits are common where there are many symbols."""
    for make in PICTURES.values():
        stored = by_pillow(make(96), optimize=True)
        np.testing.assert_array_equal(decoded(stored, 96), image.decode_jpeg(stored))


def blocks_full_to_the_last_coefficient() -> np.ndarray:
    """The highest frequency of each block, so that it ends without a code for its end."""
    wave = np.cos(np.pi * (2 * np.arange(8) + 1) * 7 / 16)
    return np.clip(128 + 120 * np.tile(np.outer(wave, wave), (8, 8))[..., None] * [1, 1, 1], 0, 255).astype(np.uint8)


def test_blocks_without_an_end_of_block():
    pixels = np.clip(blocks_full_to_the_last_coefficient() + RNG.integers(-9, 9, (64, 64, 3)), 0, 255).astype(np.uint8)
    for quality in (60, 90, 100):
        stored = image.encode_jpeg(pixels, quality)
        np.testing.assert_array_equal(decoded(stored, 64), image.decode_jpeg(stored))


@pytest.mark.parametrize(
    ("what", "stored", "size"),
    [
        ("full colour", by_pillow(smooth(64), subsampling="4:4:4"), 64),
        ("colour halved in one direction", by_pillow(smooth(64), subsampling="4:2:2"), 64),
        ("progressive", by_pillow(smooth(64), progressive=True), 64),
        ("grey", by_pillow(smooth(64)[..., 0]), 64),
        ("restarts", by_pillow(smooth(64), restart_marker_blocks=2), 64),
        ("a comment", by_pillow(smooth(64), comment=b"made by hand"), 64),
        ("another size", image.encode_jpeg(smooth(64)), 80),
        ("an odd size", image.encode_jpeg(smooth(65)), 65),
        ("too small for a vector", image.encode_jpeg(smooth(16)), 16),
        ("no JPEG", b"GIF89a", 64),
        ("nothing", b"", 64),
        ("a header alone", image.encode_jpeg(smooth(64))[:-2][:300], 64),
    ],
)
def test_what_is_left_to_libjpeg(what, stored, size):
    assert decoded(stored, size) is None


def cut_short() -> list[bytes]:
    stored = image.encode_jpeg(colour_noise(32))
    return [stored[:n] + b"\xff\xd9" for n in range(2, len(stored) - 2)]


def test_a_scan_that_ends_too_soon_is_refused_wherever_it_ends():
    decoder, out = Decoder(32), np.empty((32, 32, 3), np.uint8)
    assert not any(decoder.decode(stored, out) for stored in cut_short())


def test_bytes_after_the_scan_are_refused():
    stored = image.encode_jpeg(smooth(32))
    assert decoded(stored, 32) is not None
    assert decoded(stored[:-2] + b"\x12\x34" + stored[-2:], 32) is None
    assert decoded(stored[:-2], 32) is None


def test_a_marker_within_the_scan_is_refused():
    stored = image.encode_jpeg(colour_noise(64))
    at = len(stored) // 2
    assert decoded(stored[:at] + b"\xff\xd0" + stored[at + 2 :], 64) is None


@pytest.mark.parametrize("quality", [50, 95])
def test_damage_is_refused_or_gives_what_libjpeg_gives(quality):
    """Hostile bytes with a right checksum. Where coefficients stay within what pixels can have, both agree on every
    pixel or the compiled one refuses; it never takes what libjpeg calls damaged.
    """
    rng, taken = np.random.default_rng(quality), 0
    original = image.encode_jpeg(edges(48), quality)
    decoder, out = Decoder(48), np.empty((48, 48, 3), np.uint8)
    for _ in range(3000):
        stored = bytearray(original)
        for place in rng.integers(2, len(stored) - 2, rng.integers(1, 3)):
            stored[place] = rng.integers(256)
        if not decoder.decode(bytes(stored), out):
            continue
        taken += 1
        expected = image.decode_jpeg(bytes(stored))
        if largest_coefficient(decoder, bytes(stored)) < 4096:
            np.testing.assert_array_equal(out, expected)
    assert taken > 100


def largest_coefficient(decoder: Decoder, stored: bytes) -> int:
    """Of those of the decoder's header, multiplied."""
    of, memory, header = decoder.sizes, decoder.memory, decoder.header
    nbytes = jpeg_numba.unstuffed(np.frombuffer(stored, np.uint8), header.start.size, len(stored) - 2, memory.scan)
    memory.state[:], largest = 0, 0
    for _ in range(of.mcus):
        memory.coefficients[:] = 0
        assert jpeg_numba.read_mcus(memory.scan, nbytes, memory.state, header.codes, of, memory.coefficients)
        groups = np.abs(memory.coefficients.reshape(-1, 64, 16).astype(int))
        luma = 2 * of.luma_groups
        quants = header.quants.reshape(2, 1, 64, 1)
        largest = max(largest, (groups[:luma] * quants[0]).max(), (groups[luma:] * quants[1]).max())
    return largest


def test_tables_that_cannot_be_are_refused():
    stored = image.encode_jpeg(smooth(32))
    at = stored.index(b"\xff\xc4") + 4  # class and number, then how many codes of each length there are
    for places, values in (((1,), (3,)), ((1, 2), (2, 1)), ((0,), (2,)), ((17,), (12,))):
        changed = bytearray(stored)
        for place, value in zip(places, values, strict=True):
            changed[at + place] = value
        assert jpeg.read_header(bytes(changed), 32) is None
    assert jpeg.read_header(stored, 32) is not None


def prep_and_draws(size: int, crop: int, count: int, resized: bool) -> tuple[Preprocessing, Draws]:
    rng = np.random.default_rng(1)
    mean = rng.uniform(80, 140, (size, size, 3)).astype(np.float32)
    prep = Preprocessing(size, crop, mean, np.array([1.0, 2.0, 3.0]), np.ones(3), np.eye(3))
    heights, widths = rng.integers(2, size + 1, (2, count)) if resized else np.full((2, count), crop)
    heights[: 3 if resized else 0] = size
    tops, lefts = ((rng.uniform(size=count) * (size + 1 - sides)).astype(np.int64) for sides in (heights, widths))
    shifts = rng.normal(0, 20, (count, 3)).astype(np.float32)
    sides = (heights, widths) if resized else ()
    return prep, Draws(tops, lefts, rng.uniform(size=count) < 0.5, shifts, 1.1, *sides)


@pytest.mark.parametrize("resized", [False, True])
@pytest.mark.parametrize(("size", "crop"), [(64, 56), (64, 33), (48, 48), (128, 1), (226, 197)])
def test_cutting_while_decoding_gives_the_same_numbers(size, crop, resized):
    """Also in a decoder whose planes are full of other pixels: what is not decoded is not needed."""
    stored = [image.encode_jpeg(list(PICTURES.values())[i % 4](size)) for i in range(24)]
    prep, draws = prep_and_draws(size, crop, len(stored) + 1, resized)
    mean_scales, decoder = augment.mean_and_scales(draws, prep), Decoder(size)
    decoder.memory.planes[:] = 231
    found, wanted = (np.zeros((len(stored) + 1, crop, crop, 3), np.float32) for _ in range(2))
    assert cut_jpegs(decoder, stored, draws, mean_scales, found, 1) == len(stored)
    for n, one in enumerate(stored, 1):
        augment.cut_part(image.decode_jpeg(one)[None], draws, mean_scales, wanted, n, n + 1)
    np.testing.assert_array_equal(found, wanted)


def test_cutting_stops_at_the_first_that_is_no_such_jpeg():
    good, other = image.encode_jpeg(smooth(64)), by_pillow(smooth(64), progressive=True)
    prep, draws = prep_and_draws(64, 40, 5, False)
    out, mean_scales = np.zeros((5, 40, 40, 3), np.float32), augment.mean_and_scales(draws, prep)
    assert cut_jpegs(Decoder(64), [good, good, other, good], draws, mean_scales, out, 0) == 2
    assert cut_jpegs(Decoder(64), [other, good], draws, mean_scales, out, 0) == 0
    assert cut_jpegs(Decoder(64), [good, image.encode_jpeg(smooth(64), 50)], draws, mean_scales, out, 0) == 1


NARROW = """
import numpy as np
from alexnet.data import image
from alexnet.kernels.jpeg import Decoder
pixels, out = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8), np.empty((96, 96, 3), np.uint8)
stored = image.encode_jpeg(pixels, 90)
assert Decoder(96).decode(stored, out) and (out == image.decode_jpeg(stored)).all()
print("same")
"""


def test_the_same_on_a_processor_with_shorter_vectors(tmp_path):
    environment = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2", "NUMBA_CACHE_DIR": str(tmp_path)}
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("asks for an early x86-64")
    answer = subprocess.run([sys.executable, "-c", NARROW], env=environment, capture_output=True, text=True)
    assert answer.stdout == "same\n", answer.stderr
