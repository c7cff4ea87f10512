"""Encoding and decoding of the picture files that the stages exchange."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dgkd_core.errors import InputError, reason

MOST_PIXELS = 100_000_000  # a larger one is taken for a decompression bomb
_KINDS = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGBA": "transparent",
    "RGBX": "RGBX",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "LAB",
    "HSV": "HSV",
}


def open_picture(content: bytes, name: str) -> Image.Image:
    """A picture file, decoded, in its own mode.

    Raises:
        InputError: not a picture, damaged, empty, over 100 megapixels.
    """
    if not content:
        raise InputError(f"{name}: an empty file (0 bytes), expected a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content))
            width, height = picture.size
            # Pillow keeps the high bytes of 16-bit colours, and says so before it decodes only
            picture.info["deep"] = any(";16" in str(tile[3]) for tile in picture.tile)
            if width * height <= MOST_PIXELS:
                picture.load()
    except UnidentifiedImageError as error:
        looks = " (it looks like HEIC or a video)" if content[4:8] == b"ftyp" else ""
        raise InputError(f"{name}: not a picture file{looks}") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too large, expected at most 100 megapixels ({error})") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise InputError(f"{name}: cannot be decoded ({error})") from error
    if width * height > MOST_PIXELS:
        raise _too_large(picture, name)
    return picture


def _too_large(picture: Image.Image, name: str) -> InputError:
    return InputError(
        f"{name}: {picture.width}x{picture.height} pixels, expected at most 100 megapixels "
        f"(larger ones are taken for decompression bombs)"
    )


def glance(path: Path) -> str | None:
    """What is wrong with a picture file at first sight, its header; None where nothing is."""
    try:
        with Image.open(path):
            return None
    except FileNotFoundError:
        return f"{path}: no such file"
    except UnidentifiedImageError:
        return f"{path}: not a picture file"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"


def _to_rgb(picture: Image.Image, name: str) -> tuple[Image.Image, str | None]:
    """A picture as RGB and what it was, where that was not RGB of 8 bits."""
    if picture.mode == "RGB":
        return picture, None
    if picture.mode in _KINDS:
        return picture.convert("RGB"), _KINDS[picture.mode]
    values: Any = np.asarray(picture)
    whole = picture.mode.startswith("I") and values.min() >= 0
    if not whole or values.max() > 65535:
        raise InputError(
            f"{name}: a picture of mode {picture.mode} (floating point or 32 bits), expected 8 or "
            f"16 bits a channel"
        )
    grey = Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
    return grey.convert("RGB"), "16-bit grey"


@dataclass(frozen=True)
class Photo:
    """A user's picture as the packs hold it.

    ``content`` are the bytes of a JPEG or PNG file of ``width`` x ``height`` pixels, RGB and
    upright: the user's own where they are that already. ``notes`` say what was done to get there.
    """

    content: bytes
    suffix: str
    width: int
    height: int
    full_size: tuple[int, int]
    notes: tuple[str, ...]


def fit(size: tuple[int, int], long_side: int | None) -> tuple[int, int]:
    """(width, height) shrunk so that the longer is at most ``long_side``; neither below 1."""
    longest = max(size)
    if long_side is None or longest <= long_side:
        return size
    width, height = (max(1, round(side * long_side / longest)) for side in size)
    return width, height


def to_photo(
    picture: Image.Image, name: str, long_side: int | None = None
) -> tuple[Image.Image, tuple[int, int], tuple[str, ...]]:
    """A decoded picture as the chain takes it: 8-bit RGB, upright, at most ``long_side`` pixels.

    Grey, palette, transparent, CMYK and 16-bit pictures are converted, rotated ones (EXIF) turned
    and large ones shrunk.

    Returns:
        it, its (width, height) upright before it was shrunk, and notes that say what was done.

    Raises:
        InputError: floating point, over 100 megapixels.
    """
    notes = []
    if picture.width * picture.height > MOST_PIXELS:
        raise _too_large(picture, name)
    if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
        notes.append("turned upright (EXIF)")
    rgb, kind = _to_rgb(picture, name)
    if picture.mode == "RGB" and picture.info.get("deep"):
        kind = "16 bits a channel"
    if kind:
        notes.append(f"{kind}, converted to 8-bit RGB")
    full = rgb.size
    size = fit(full, long_side)
    if size != full:
        rgb = rgb.resize(size, Image.Resampling.LANCZOS)
        notes.append(f"shrunk to a long side of {long_side}")
    return rgb, full, tuple(notes)


def read_photo(content: bytes, name: str, long_side: int | None = None) -> Photo:
    """Check a user's picture file and make of it what `to_photo` says, as the packs hold it.

    Raises:
        InputError: not a picture, damaged, empty, over 100 megapixels, floating point.
    """
    picture = open_picture(content, name)
    rgb, full, notes = to_photo(picture, name, long_side)
    if not notes and picture.format in ("JPEG", "PNG"):
        return Photo(content, "jpg" if picture.format == "JPEG" else "png", *full, full, ())
    return Photo(encode_rgb(np.asarray(rgb)), "png", *rgb.size, full, notes)


def decode_rgb(content: bytes, name: str) -> np.ndarray:
    """A picture file as (H, W, 3) uint8 sRGB; grey, palette and transparent ones are converted.

    Raises:
        InputError: not a picture, damaged, over 100 megapixels, floating point.
    """
    return np.asarray(_to_rgb(open_picture(content, name), name)[0])


def _renumbered(picture: Image.Image, highest: int) -> tuple[int, int] | None:
    """An index of a palette picture with the colour that VOC gives another id, and that id.

    Editors write the colours in an order of their own. That can be known only where all colours
    used are VOC's: other palettes are their maker's, whose indices are taken as they are.
    """
    palette, voc = picture.getpalette() or [], voc_palette()
    ids = {tuple(voc[3 * i : 3 * i + 3]): i for i in (*range(highest + 1), 255)}
    used = [index for index, count in enumerate(picture.histogram()) if count]
    meant = [ids.get(tuple(palette[3 * i : 3 * i + 3])) for i in used]
    if None in meant or len(set(meant)) < len(used):
        return None
    return next(
        ((i, id_) for i, id_ in zip(used, meant, strict=True) if id_ not in (i, None)), None
    )


def decode_mask(content: bytes, name: str, highest: int | None = None) -> np.ndarray:
    """A mask file as (H, W) uint8 class ids: palette or 8-bit grey PNG.

    Args:
        highest: the highest class id, for a user's file: its palette is compared with VOC's.

    Raises:
        InputError: another mode, since colours are not class ids; a JPEG, which blurs them; a
            palette that has VOC's colours in another order.
    """
    picture = open_picture(content, name)
    if picture.mode not in ("P", "L"):
        raise InputError(
            f"{name}: a {picture.mode} picture, expected class ids (palette or 8-bit grey)"
        )
    if picture.format in ("JPEG", "MPO"):
        raise InputError(f"{name}: a JPEG file, which blurs class ids, expected a PNG file")
    if highest is not None and picture.mode == "P" and (odd := _renumbered(picture, highest)):
        raise InputError(
            f"{name}: index {odd[0]} has the colour that VOC gives the id {odd[1]} (did an editor "
            "renumber the palette?), expected VOC's colours in VOC's order, or 8-bit grey ids"
        )
    return np.asarray(picture)


def decode_depth(content: bytes, name: str) -> np.ndarray:
    """A depth map file of any bit depth as (H, W) float32, full scale = 1.

    8- and 16-bit integers are divided by 255 and 65535; floating-point maps are taken as they are
    when they lie in [0, 1] and are scaled by their maximum otherwise. Of a colour file whose three
    channels agree the first counts.

    Raises:
        InputError: colours (a colour-mapped depth is not a depth), negative or non-finite values.
    """
    picture = open_picture(content, name)
    values: Any = np.asarray(picture)
    if picture.mode == "P":
        values = np.asarray(picture.convert("RGB"))
    if values.ndim == 3:
        if values.shape[2] >= 3 and (np.ptp(values[..., :3].astype(np.int64), axis=2) > 0).any():
            raise InputError(f"{name}: a colour picture, expected a one-channel depth map")
        values = values[..., 0]
    if values.dtype == np.bool_:
        return values.astype(np.float32)
    if values.dtype == np.uint8:
        return (values / np.float32(255)).astype(np.float32)
    values = values.astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputError(f"{name}: negative or non-finite depth, expected values from 0 (far) up")
    if picture.mode == "F":
        return (values / max(1.0, values.max())).astype(np.float32)
    if values.max() > 65535:
        raise InputError(f"{name}: depth up to {values.max():.0f}, expected at most 16 bit")
    return (values / 65535).astype(np.float32)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def encode_rgb(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as PNG."""
    return _png(Image.fromarray(image, "RGB"))


def _in_16_bits(depth: np.ndarray) -> np.ndarray:
    if depth.ndim != 2 or not np.isfinite(depth).all() or depth.min() < 0 or depth.max() > 1:
        raise ValueError(f"depth must be (H, W) within [0, 1], got shape {depth.shape}")
    return np.rint(depth * 65535).astype(np.uint16)


def encode_depth(depth: np.ndarray) -> bytes:
    """(H, W) float in [0, 1], near = 1, as 16-bit grey PNG."""
    return _png(Image.fromarray(_in_16_bits(depth)))


def depth_as_stored(depth: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] as `decode_depth` gives it back from `encode_depth`, float32."""
    return (_in_16_bits(depth).astype(np.float64) / 65535).astype(np.float32)


def voc_palette() -> list[int]:
    """The 256 colours of PASCAL VOC's label files, as 768 values 0…255: bits of the id, spread."""
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((np.arange(256) >> (3 * bit + channel)) & 1).astype(
                np.uint8
            ) << (7 - bit)
    return [int(value) for value in colours.reshape(-1)]


def encode_mask(mask: np.ndarray) -> bytes:
    """(H, W) uint8 class ids as palette PNG in VOC's colours."""
    picture = Image.fromarray(mask.astype(np.uint8), "L")
    picture.putpalette(voc_palette())
    return _png(picture)


def encode_array(array: np.ndarray) -> bytes:
    """A plain array in NumPy's .npy format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def decode_array(content: bytes, name: str) -> np.ndarray:
    """The array of a .npy file; pickled objects are refused."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, TypeError, EOFError, OSError, MemoryError, TokenError) as error:
        raise InputError(f"{name}: not a plain .npy array ({reason(error)})") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name}: not a plain .npy array (an archive of several)")
    return array
