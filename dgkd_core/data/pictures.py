"""Encoding and decoding of the picture files that the stages exchange."""

from __future__ import annotations

import io
from tokenize import TokenError
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from dgkd_core.errors import InputError


def _open(content: bytes, name: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not a picture file") from error
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(f"{name}: cannot be decoded ({error})") from error
    return picture


def decode_rgb(content: bytes, name: str) -> np.ndarray:
    """A picture file as (H, W, 3) uint8 sRGB; grey, palette and transparent ones are converted.

    Raises:
        InputError: not a picture, damaged, or with more than 8 bits a channel.
    """
    picture = _open(content, name)
    if picture.mode.startswith(("I", "F")):  # Pillow would clip these at 255
        raise InputError(f"{name}: a {picture.mode} picture, expected 8 bits a channel")
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    return np.asarray(picture)


def decode_mask(content: bytes, name: str) -> np.ndarray:
    """A mask file as (H, W) uint8 class ids: palette or 8-bit grey PNG.

    Raises:
        InputError: another mode, since colours are not class ids.
    """
    picture = _open(content, name)
    if picture.mode not in ("P", "L"):
        raise InputError(
            f"{name}: a {picture.mode} picture, expected class ids (palette or 8-bit grey)"
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
    picture = _open(content, name)
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


def encode_depth(depth: np.ndarray) -> bytes:
    """(H, W) float in [0, 1], near = 1, as 16-bit grey PNG."""
    if depth.ndim != 2 or not np.isfinite(depth).all() or depth.min() < 0 or depth.max() > 1:
        raise ValueError(f"depth must be (H, W) within [0, 1], got shape {depth.shape}")
    return _png(Image.fromarray(np.rint(depth * 65535).astype(np.uint16)))


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
    except (ValueError, EOFError, OSError, TokenError) as error:
        raise InputError(f"{name}: not a plain .npy array ({error})") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name}: not a plain .npy array (an archive of several)")
    return array
