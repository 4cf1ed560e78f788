"""The decode gate: each kind of picture gives the pixels it shows, everything else a short reason."""

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from alexnet.data import image
from alexnet.errors import DataError

RED, WHITE = (255, 0, 0), (255, 255, 255)


def saved(picture: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def smooth(height: int, width: int) -> np.ndarray:
    """A picture JPEG keeps well: gradients in each channel."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    return np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)], axis=-1).astype(np.uint8)


def plain(mode: str, colour, file_format: str, **options) -> bytes:
    return saved(Image.new(mode, (6, 4), colour), file_format, **options)


def half_transparent_palette() -> bytes:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putdata([0, 1])
    return saved(picture, "PNG", transparency=1)


def grey_16(file_format: str) -> bytes:
    return saved(Image.fromarray(np.full((4, 6), 0x4C80, np.uint16)), file_format)


MODES = {
    "RGB png": (plain("RGB", RED, "PNG"), RED),
    "RGB webp": (plain("RGB", RED, "WEBP", lossless=True), RED),
    "RGB bmp": (plain("RGB", RED, "BMP"), RED),
    "RGB ppm": (plain("RGB", RED, "PPM"), RED),
    "RGB tiff": (plain("RGB", RED, "TIFF"), RED),
    "grey": (plain("L", 77, "PNG"), (77, 77, 77)),
    "grey jpeg": (plain("L", 77, "JPEG"), (77, 77, 77)),
    "one bit": (plain("1", 1, "PNG"), WHITE),
    "palette gif": (plain("P", 0, "GIF"), (0, 0, 0)),
    "CMYK jpeg": (plain("CMYK", (255, 0, 0, 0), "JPEG", quality=100), (0, 255, 255)),
    "half transparent": (plain("RGBA", (255, 0, 0, 0), "PNG"), WHITE),
    "RGBA": (plain("RGBA", (0, 0, 0, 51), "PNG"), (204, 204, 204)),
    "LA": (plain("LA", (0, 51), "PNG"), (204, 204, 204)),
    "16-bit png": (grey_16("PNG"), (0x4C, 0x4C, 0x4C)),
    "16-bit tiff": (grey_16("TIFF"), (0x4C, 0x4C, 0x4C)),
}


@pytest.mark.parametrize("name", MODES)
def test_each_mode_shows_its_colour(name):
    data, expected = MODES[name]
    pixels = image.decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 6, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= ("jpeg" in name.lower())


def test_transparent_palette_entry_is_white():
    assert image.decode(half_transparent_palette()).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (5, 5), colour) for colour in (RED, (0, 0, 255))]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (image.decode(data) == RED).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = smooth(24, 40)
    turned = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2)}
    turned |= {6: np.rot90(upright, 1), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1)}
    exif = Image.Exif()
    exif[image.EXIF_ORIENTATION] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(turned[orientation])), "PNG", exif=exif)
    np.testing.assert_array_equal(image.decode(data), upright)


def test_exif_orientation_of_a_jpeg():
    exif = Image.Exif()
    exif[image.EXIF_ORIENTATION] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(smooth(32, 64))))
    pixels = image.decode(saved(stored, "JPEG", quality=98, exif=exif))
    assert np.abs(pixels.astype(int) - smooth(32, 64)).mean() < 3


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_fast_path_gives_the_pixels_of_pillow(options):
    data = saved(Image.fromarray(smooth(50, 70)), "JPEG", quality=80, **options)
    np.testing.assert_array_equal(image.decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = saved(Image.fromarray(smooth(32, 32)), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


JPEG = saved(Image.fromarray(smooth(64, 64)), "JPEG")
PNG = saved(Image.fromarray(smooth(64, 64)), "PNG")
REFUSED = {
    "zero bytes": (b"", "empty"),
    "text": (b"hello, this is no picture", "not a picture"),
    "one byte": (b"P", "not a picture"),
    "web page": (b"<!DOCTYPE html><html>", "web page"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture"),
    "jpeg start only": (b"\xff\xd8\xff", "damaged JPEG"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "damaged JPEG"),
    "jpeg without its last bytes": (JPEG[:-2], "damaged JPEG"),
    "truncated png": (PNG[: len(PNG) // 2], "damaged PNG"),
    "400 MP bomb": (png_that_claims(20_000, 20_000), "too many pixels"),
    "bomb below Pillow's own guard": (png_that_claims(8_100, 8_100), "too many pixels"),
    "lying jpeg header": (jpeg_that_claims(9_000, 9_000), "too many pixels"),
    "no pixels": (png_that_claims(0, 5), "damaged PNG"),
    "float tiff": (saved(Image.new("F", (4, 4), 0.5), "TIFF"), "no faithful 8-bit form"),
    "32-bit tiff": (saved(Image.new("I", (4, 4), 70_000), "TIFF"), "no faithful 8-bit form"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_short_reason(name):
    data, reason = REFUSED[name]
    with pytest.raises(DataError, match=reason) as caught:
        image.decode(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.filterwarnings("ignore::UserWarning")  # pytest undoes the filter that image.py sets
def test_mutated_files_never_raise_anything_else():
    rng = np.random.default_rng(0)
    outcomes = {True: 0, False: 0}
    for data in [JPEG, PNG, MODES["16-bit tiff"][0], MODES["palette gif"][0], MODES["RGB webp"][0]] * 60:
        damaged = bytearray(data)
        for at in rng.integers(4, len(damaged), 5):
            damaged[at] = rng.integers(256)
        try:
            outcomes[image.decode(bytes(damaged)).shape[2] == 3] += 1
        except DataError:
            outcomes[False] += 1
    assert outcomes[False] > 60


def test_max_pixels_is_the_callers():
    with pytest.raises(DataError, match="too many pixels"):
        image.decode(PNG, max_pixels=64 * 64 - 1)
    assert image.decode(PNG, max_pixels=64 * 64).shape == (64, 64, 3)


def test_size_of_reads_the_header():
    assert image.size_of(png_that_claims(30, 20)) == (20, 30)


@pytest.mark.parametrize("shape", [(256, 256), (256, 301), (300, 256)])
def test_square_is_a_plain_cut_where_no_scaling_is_needed(shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    top, left = (shape[0] - 256) // 2, (shape[1] - 256) // 2
    np.testing.assert_array_equal(image.square(picture), picture[top : top + 256, left : left + 256])


@pytest.mark.parametrize("shape", [(512, 640), (600, 512), (1, 50), (50, 1), (97, 131), (2048, 2048)])
def test_square_keeps_a_constant_and_the_size(shape):
    squared = image.square(np.full((*shape, 3), 93, np.uint8))
    assert squared.shape == (256, 256, 3)
    assert (squared == 93).all()


def test_square_equals_scaling_first_and_cutting_second():
    picture = np.random.default_rng(1).integers(0, 256, (512, 768, 3), np.uint8)
    whole = np.asarray(Image.fromarray(picture).resize((384, 256), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(image.square(picture), whole[:, 64:320])


def test_square_shrinks_without_aliasing():
    """A one-pixel chequerboard is grey from afar; a filter that skips pixels would leave black and white."""
    board = np.indices((1024, 1024)).sum(0) % 2 * 255
    squared = image.square(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), 64)
    assert np.abs(squared.astype(int) - 127.5).max() < 3


def test_encode_jpeg_is_deterministic_and_close():
    picture = smooth(256, 256)
    data = image.encode_jpeg(picture)
    assert data == image.encode_jpeg(np.asfortranarray(picture))
    assert np.abs(image.decode_jpeg(data).astype(int) - picture).mean() < 1.5
    with pytest.raises(DataError, match="damaged"):
        image.decode_jpeg(data[:-100])


def jpeg_of(pixels: np.ndarray) -> bytes:
    return saved(Image.fromarray(pixels), "JPEG", quality=90)


def with_stray(jpeg: bytes, place: str) -> bytes:
    at, what = (jpeg.index(b"\xff\xdb"), b"\x01\xda\x03") if place == "segments" else (len(jpeg) - 2, bytes(8))
    return jpeg[:at] + what + jpeg[at:]


@pytest.mark.parametrize("place", ["segments", "end"])
def test_bytes_that_harm_no_pixel_are_left_out(place):
    sound = jpeg_of(smooth(40, 60))
    np.testing.assert_array_equal(image.decode(with_stray(sound, place)), image.decode(sound))
    both = with_stray(with_stray(sound, "segments"), "end") + jpeg_of(smooth(16, 16))  # and a preview behind it
    np.testing.assert_array_equal(image.decode(both), image.decode(sound))


def test_damage_among_the_pixels_is_refused_where_the_decoder_notices():
    sound, noticed = jpeg_of(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), 0
    start = sound.index(b"\xff\xda") + 14
    for seed in range(60):
        draw, damaged = np.random.default_rng(seed), bytearray(sound)
        damaged[draw.integers(start, len(sound) - 2)] ^= 1 << draw.integers(8)
        complaint = ""
        try:
            simplejpeg.decode_jpeg(bytes(damaged), strict=True)
        except ValueError as error:
            complaint = str(error)
        if "extraneous bytes" in complaint:
            noticed += 1
            for one in (bytes(damaged), with_stray(bytes(damaged), "segments")):
                with pytest.raises(DataError, match="damaged JPEG"):
                    image.decode(one)
    assert noticed > 3


def png_with_key(bits: int, colour: int, numbers: list[int], key: list[int]) -> bytes:
    """One row of pixels, written by hand: colour 0 is grey, 2 is RGB."""
    row = "".join(f"{number:0{bits}b}" for number in numbers)
    row = bytes(int(row.ljust(-(-len(row) // 8) * 8, "0")[i : i + 8], 2) for i in range(0, len(row), 8))
    width = len(numbers) // (3 if colour == 2 else 1)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)),
        (b"tRNS", struct.pack(f">{len(key)}H", *key)),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("bits", "colour", "numbers", "key", "seen"),
    [
        (4, 0, [10, 3], [10], [[255] * 3, [51] * 3]),
        (8, 0, [10, 3], [10], [[255] * 3, [3] * 3]),
        (16, 0, [0x1234, 0x1300], [0x1234], [[255] * 3, [0x13] * 3]),
        (16, 2, [0x1111, 0x2222, 0x3333, 0x4000, 0x5000, 0x6000], [0x1111, 0x2222, 0x3333], [[255] * 3, [64, 80, 96]]),
    ],
)
def test_a_colour_that_stands_for_nothing_is_white(bits, colour, numbers, key, seen):
    assert image.decode(png_with_key(bits, colour, numbers, key))[0].tolist() == seen
