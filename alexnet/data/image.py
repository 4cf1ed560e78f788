"""Bytes to pixels: the one gate through which every picture comes in, whether packed, predicted or served.

    decode(data)          file bytes              -> uint8 (h, w, 3) RGB, or DataError with the reason
    square(image, 256)    uint8 (h, w, 3)         -> uint8 (256, 256, 3), the paper's section 2
    encode_jpeg(image)    uint8 (h, w, 3)         -> JPEG bytes as a pack stores them

A picture that cannot be shown faithfully is refused, never bent: truncated files, 32-bit and floating-point greys,
headers that promise more pixels than allowed. Sixteen-bit grey keeps its high byte, CMYK becomes RGB, transparency is
laid over white, the camera's EXIF rotation is applied, and of an animation the first frame counts. Reasons name no
file; the caller knows it. Up to a colon a reason says of which kind it is.
"""

import io
import re
import struct
import warnings
import zlib

import numpy as np
import simplejpeg
from PIL import Image

from alexnet.data.resize import resized_square
from alexnet.errors import DataError

MAX_PIXELS = 64_000_000
EXPECTED = "JPEG, PNG, WebP, BMP, GIF, TIFF or PPM expected"

# What Pillow and libjpeg raise over damaged or hostile bytes. KeyboardInterrupt and the like pass.
FOREIGN_ERRORS = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError,
    RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

# Process-wide on purpose: `catch_warnings` is not safe in threads, and packing and serving decode in threads.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # damaged EXIF and the like: noise here

EXIF_ORIENTATION = 0x0112
START_OF_SCAN = 0xDA  # a marker in a JPEG
TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Modes whose Pillow conversion to RGB loses nothing that can be seen; what is not named here or below is refused.
PLAIN_MODES = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}
ALPHA_MODES = {"RGBA", "LA", "PA", "RGBa", "La"}


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture in `data` as uint8 (h, w, 3), RGB, upright.

    Raises DataError with a short reason: not a picture, more than `max_pixels` (read from the header, before anything
    is decoded), damaged or truncated, or a kind of pixel that has no honest 8-bit form.
    """
    file_format = _format_by_magic(data)
    image = _open_header(data, file_format, max_pixels)
    try:
        if file_format == "JPEG" and image.mode in ("RGB", "L") and _orientation(image) == 1:
            return _decode_plain_jpeg(data, image)
        if file_format == "PNG":
            _check_png_pixels(data)
            _scale_key(image, bits=data[24])
        image.load()
        return np.asarray(_to_rgb(_upright(image), file_format))
    except DataError:
        raise
    except FOREIGN_ERRORS as error:
        raise DataError(f"damaged {file_format}: {_short(error)}") from error


def size_of(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) from the header alone, before any EXIF rotation. Raises DataError as `decode` does."""
    width, height = _open_header(data, _format_by_magic(data), max_pixels).size
    return height, width


def square(image_hwc: np.ndarray, size_px: int = 256) -> np.ndarray:
    """The central square at `size_px`: uint8 (h, w, 3) -> uint8 (size_px, size_px, 3); paper, section 2.

    Same picture as "shorter side to 256, then the central 256x256", but only what is kept is resampled and the scale
    is exact in both directions. Pixels next to the cut still take part, as they would if the cut came second. Bicubic
    with its support widened when shrinking (antialiased): sharper than the triangle filter, less ringing and half the
    time of Lanczos.
    """
    height, width = image_hwc.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    if side == size_px:
        return np.require(image_hwc[top : top + side, left : left + side], requirements=("C", "W"))
    return resized_square(np.require(image_hwc, requirements=("C", "W")), top, left, side, size_px)


def encode_jpeg(image_hwc: np.ndarray, quality: int = 95) -> bytes:
    """uint8 (h, w, 3) -> JPEG bytes, the same bytes every time.

    Colour is stored at half resolution (4:2:0): nearly all photographs arrive that way, and against 4:4:4 it saves a
    seventh of the bytes and a quarter of the decoding time, for an error of 2.1 instead of 1.8 grey levels (rms).
    """
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image_hwc), quality=quality, colorspace="RGB", colorsubsampling="420"
    )


def decode_jpeg(data: bytes | memoryview, out: np.ndarray | None = None) -> np.ndarray:
    """JPEG bytes that `encode_jpeg` wrote -> uint8 (h, w, 3), into `out` where given. Damage raises DataError."""
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, buffer=out)
    except ValueError as error:
        raise DataError(f"damaged JPEG: {_short(error)}") from error


def _format_by_magic(data: bytes) -> str:
    if len(data) == 0:
        raise DataError("empty file (0 bytes)")
    head = bytes(data[:64])
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    raise DataError(_what_else(head))


def _what_else(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer, not the picture itself; fetch it with `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"a web page, not a picture ({EXPECTED})"
    return f"not a picture ({EXPECTED})"


def _open_header(data: bytes, file_format: str, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=[file_format])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"too many pixels for one picture: more than {max_pixels:,}") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"damaged {file_format}: the header cannot be read") from error
    except FOREIGN_ERRORS as error:
        raise DataError(f"damaged {file_format}: {_short(error)}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(f"too many pixels for one picture: {width}x{height} (at most {max_pixels:,})")
    if width < 1 or height < 1:
        raise DataError(f"damaged {file_format}: {width}x{height} pixels")
    return image


def _decode_plain_jpeg(data: bytes, image: Image.Image) -> np.ndarray:
    """libjpeg-turbo directly: a third of Pillow's time, and warnings of damage, which Pillow hides, become errors. But
    bytes that harm no pixel are left out.
    """
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError as error:
        if "subsampling" in str(error):  # one that simplejpeg does not know
            image.load()
            return np.asarray(image.convert("RGB"))
        if (rest := _without_harmless(data, str(error))) is None:
            raise
    return _decode_plain_jpeg(rest, image)


def _without_harmless(data: bytes, complaint: str) -> bytes | None:
    """A JPEG without the bytes that libjpeg-turbo complains of, where they lie between two segments, as often in old
    archives, or are zeros behind the last pixel, as of some cameras; None where they may be what damage left over.
    """
    found = re.search(r"(\d+) extraneous bytes before marker", complaint)
    if not found:
        return None
    count, (first, last, scan) = int(found[1]), _stray_bytes(data)
    if count == last - first:
        return data[:first] + data[last:]
    at = data.find(bytes(count) + b"\xff\xd9", scan)
    return None if at < 0 else data[:at] + data[at + count :]


def _stray_bytes(data: bytes) -> tuple[int, int, int]:
    """(start, end) of the first bytes between two segments in front of the pixels, and where these begin."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            end = data.find(b"\xff", at)
            return at, end, end
        if data[at + 1] == START_OF_SCAN:
            break
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return at, at, at


def _check_png_pixels(data: bytes) -> None:
    """Pillow skips the checksums of the parts that hold pixels, and a few damages get past its unpacking."""
    at, view = 8, memoryview(data)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4])
        holds_pixels = view[at + 4 : at + 8] == b"IDAT" and end <= len(data)
        if holds_pixels and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise DataError("damaged PNG: the checksum of its pixels differs")
        at = end


def _scale_key(image: Image.Image, bits: int) -> None:
    """The colour that a PNG says is transparent, in the eight bits that Pillow makes of its numbers."""
    key = image.info.get("transparency")
    if image.mode in ("L", "RGB") and isinstance(key, int | tuple) and bits != 8:
        as_read = (lambda v: v >> 8) if bits == 16 else (lambda v: v * 255 // (2**bits - 1))
        image.info["transparency"] = as_read(key) if isinstance(key, int) else tuple(map(as_read, key))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(EXIF_ORIENTATION, 1)
    except FOREIGN_ERRORS:  # damaged EXIF says nothing about the pixels
        return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = TURN.get(_orientation(image))  # for TIFF Pillow has turned the loaded picture and dropped the tag
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, file_format: str) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and file_format in ("PNG", "PPM")):  # PNG and PPM have at most 16 bits
        grey_16 = np.asarray(image)
        grey = (grey_16 >> 8).astype(np.uint8)
        grey[grey_16 == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if mode in ALPHA_MODES or (mode in PLAIN_MODES and image.has_transparency_data):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if mode in PLAIN_MODES:
        return image.convert("RGB")
    raise DataError(
        f"no faithful 8-bit form: {mode!r} pixels (32-bit, floating-point or unusual colours); convert them first"
    )


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:120]
