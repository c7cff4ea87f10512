"""Encoding and decoding of the picture files that the stages exchange."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from tokenize import TokenError
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from dgkd_core.runtime.checks import RAW_SUFFIXES
from dgkd_core.runtime.errors import InputError, no_such_file, reason

MOST_PIXELS = 256_000_000  # phones reach 200 million; a larger one is taken for a bomb
_TURNS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation; any other value is upright
_SAME = 2  # levels of 255 that a colour profile may be from sRGB and count as it
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_KINDS = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGBA": "transparent",
    **{mode: mode for mode in ("RGBX", "CMYK", "YCbCr", "LAB", "HSV")},
}


@contextmanager
def _own_limit() -> Iterator[None]:
    """Pillow without its warnings and with this project's limit on pixels."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes a line with the file's name; too little memory passes."""
    try:
        with _own_limit():
            yield
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too large, expected at most 256 megapixels ({error})") from error
    except Exception as error:  # of dozens of formats, each with its own
        raise InputError(f"{name}: cannot be decoded ({reason(error)})") from error


@contextmanager
def _extra(name: str, what: str) -> Iterator[None]:
    """An import that an optional extra of this package brings."""
    try:
        yield
    except ImportError as error:
        raise InputError(f"{what}, which needs more: pip install 'dgkd[{name}]'") from error


def _developed(content: bytes, name: str) -> Image.Image:
    """A camera raw file as 8-bit sRGB, upright: the camera's white balance, not brightened."""
    with _extra("raw", f"{name}: camera raw"):
        import rawpy
    with rawpy.imread(io.BytesIO(content)) as raw:
        width, height = raw.sizes.width, raw.sizes.height
        if width * height > MOST_PIXELS:
            raise _too_large((width, height), name)
        values = raw.postprocess(
            use_camera_wb=True,
            no_auto_bright=True,
            gamma=(2.4, 12.92),  # sRGB's
            output_color=rawpy.ColorSpace.sRGB,
            output_bps=8,
        )
    picture = Image.fromarray(values)
    picture.info["raw"] = True
    return picture


def _opened(content: bytes, name: str) -> Any:
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        if content[4:8] == b"ftyp" and content[8:12] in _HEIC:
            with _extra("heic", f"{name}: a HEIC picture"):
                import pillow_heif
            return pillow_heif.HeifImageFile(io.BytesIO(content))
        looks = " (it looks like a video)" if content[4:8] == b"ftyp" else ""
        raise InputError(f"{name}: not a picture file{looks}") from error


def open_picture(content: bytes, name: str) -> Image.Image:
    """A picture file, decoded, in its own mode; if ``name`` ends as camera raw, as `_developed`.

    Raises:
        InputError: not a picture, damaged, empty, over 256 megapixels, or of a kind for which an
            extra is not installed.
    """
    if not content:
        raise InputError(f"{name}: an empty file (0 bytes), expected a picture")
    with _decoding(name):
        if PurePath(name).suffix.lower() in RAW_SUFFIXES:
            return _developed(content, name)
        picture = _opened(content, name)
        if picture.width * picture.height > MOST_PIXELS:
            raise _too_large(picture.size, name)
        # Pillow keeps the high bytes of 16-bit colours, and says so before it decodes only
        picture.info["deep"] = any(";16" in str(tile[3]) for tile in picture.tile)
        picture.info["stretched"] = any(tile[3] in ("L;2", "L;4") for tile in picture.tile)
        picture.info["frames"] = getattr(picture, "n_frames", 1)
        picture.load()
    return picture


def _too_large(size: tuple[int, int], name: str) -> InputError:
    return InputError(
        f"{name}: {size[0]}x{size[1]} pixels, expected at most 256 megapixels "
        f"(larger ones are taken for decompression bombs)"
    )


def quick_check(path: Path) -> str | None:
    """What is wrong with the header of a picture file; None if it is fine."""
    try:
        with _own_limit(), Image.open(path):
            return None
    except FileNotFoundError:
        return f"{path}: {no_such_file(path)}"
    except UnidentifiedImageError:
        return f"{path}: not a picture file"
    except Exception as error:  # as in `_decoding`
        return f"{path}: cannot be read ({getattr(error, 'strerror', None) or reason(error)})"


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
    grey = Image.fromarray(((values.astype(np.int32) + 128) // 257).astype(np.uint8))
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


def _upright(picture: Image.Image) -> tuple[Image.Image, str | None]:
    """A picture turned as its EXIF says, and a note on that."""
    try:
        if exif := picture.info.get("exif"):
            Image.Exif().load(exif)  # what opening a JPEG has found wrong already, Pillow hides
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # struct.error, SyntaxError, …
        return picture, "unreadable EXIF, counts as none"
    return (picture, None) if turn is None else (picture.transpose(turn), "turned upright (EXIF)")


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a picture of that mode and ICC profile to sRGB; None where it is sRGB already."""
    transform = ImageCms.buildTransform(
        ImageCms.getOpenProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode == "CMYK":
        return transform
    values = np.arange(256, dtype=np.uint8)[None]
    if mode == "RGB":
        some = values[0, ::15]
        values = np.stack(np.meshgrid(some, some, some), -1).reshape(1, -1, 3)
    probe = Image.fromarray(values)
    as_it_is, found = (
        np.asarray(p, np.int16)
        for p in (probe.convert("RGB"), ImageCms.applyTransform(probe, transform))
    )
    return transform if np.abs(found - as_it_is).max() > _SAME else None


def _managed(picture: Image.Image, rgb: Image.Image) -> tuple[Image.Image, str | None]:
    """The RGB of a picture, maybe shrunk, as sRGB by the picture's ICC profile; a note on that."""
    if not (profile := picture.info.get("icc_profile")):
        return rgb, None
    try:
        space = ImageCms.getOpenProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
        own = rgb  # a profile of yet another space has no transform from it
        if space == picture.mode == "CMYK":
            own = picture.resize(rgb.size, Image.Resampling.LANCZOS)
        elif space == "GRAY" and picture.mode in ("L", "LA", "I;16"):
            own = rgb.convert("L")
        transform = _to_srgb(profile, own.mode)
        if transform is None:
            return rgb, None
        found: Any = ImageCms.applyTransform(own, transform)
        return found, "other colours, converted to sRGB"
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return rgb, "unreadable colour profile, counts as none"


def _is_preview(picture: Image.Image, name: str) -> bool:
    """Whether a picture that Pillow has decoded is the small one in a camera raw file."""
    tags = getattr(picture, "tag_v2", {})
    if tags.get(254) in (1, 3, 5, 7) or tags.get(255) == 2:  # NewSubfileType, SubfileType
        return True
    return bool(picture.format) and PurePath(name).suffix.lower() in RAW_SUFFIXES


def to_photo(
    picture: Image.Image, name: str, long_side: int | None = None
) -> tuple[Image.Image, tuple[int, int], tuple[str, ...]]:
    """A picture as the chain takes it: 8-bit sRGB, upright, at most ``long_side`` pixels.

    Grey, palette, transparent, CMYK and 16-bit pictures and those of other colour profiles are
    converted, rotated ones (EXIF) turned and large ones shrunk. EXIF and profiles that cannot be
    read count as none.

    Returns:
        it, its (width, height) upright before it was shrunk, and notes that say what was done.

    Raises:
        InputError: damaged, floating point, over 256 megapixels, the preview in a camera raw file.
    """
    if picture.width * picture.height > MOST_PIXELS:
        raise _too_large(picture.size, name)
    with _decoding(name):
        if _is_preview(picture, name):
            raise InputError(
                f"{name}: {picture.width}x{picture.height} pixels are a preview (a reduced image, "
                f"as in camera raw), expected the picture itself"
            )
        picture.load()
        upright, turned = _upright(picture)
        rgb, kind = _to_rgb(upright, name)
        if picture.mode == "RGB" and picture.info.get("deep"):
            kind = "16 bits a channel"
        full = rgb.size
        size = fit(full, long_side)
        if size != full:
            rgb = rgb.resize(size, Image.Resampling.LANCZOS)
        rgb, managed = _managed(upright, rgb)
    frames = picture.info.get("frames", 1)
    notes = (
        f"the first of {frames} pictures in its file" if frames > 1 else None,
        "camera raw, developed" if picture.info.get("raw") else None,
        turned,
        f"{kind}, converted to 8-bit RGB" if kind else None,
        managed,
        f"shrunk to a long side of {long_side}" if size != full else None,
    )
    return rgb, full, tuple(note for note in notes if note)


def read_photo(content: bytes, name: str, long_side: int | None = None) -> Photo:
    """Check a user's picture file and make of it what `to_photo` says, as the packs hold it.

    Raises:
        InputError: not a picture, damaged, empty, over 256 megapixels, floating point.
    """
    picture = open_picture(content, name)
    rgb, full, notes = to_photo(picture, name, long_side)
    if not notes and picture.format in ("JPEG", "PNG"):
        return Photo(content, "jpg" if picture.format == "JPEG" else "png", *full, full, ())
    return Photo(encode_rgb(np.asarray(rgb)), "png", *rgb.size, full, notes)


def decode_rgb(content: bytes, name: str) -> np.ndarray:
    """A picture file as (H, W, 3) uint8 sRGB; grey, palette and transparent ones are converted.

    Raises:
        InputError: not a picture, damaged, over 256 megapixels, floating point.
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
    meant = {i: ids.get(tuple(palette[3 * i : 3 * i + 3]), -1) for i in used}
    if -1 in meant.values() or len(set(meant.values())) < len(used):
        return None
    return next(((i, id_) for i, id_ in meant.items() if id_ != i), None)


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
    if picture.info.get("stretched"):  # by Pillow, to 255
        raise InputError(f"{name}: grey of 2 or 4 bits, expected palette or 8-bit grey")
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
            set_ = (np.arange(256) >> (3 * bit + channel)) & 1
            colours[:, channel] |= (set_ << (7 - bit)).astype(np.uint8)
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
    """The array of a .npy file.

    Raises:
        InputError: damaged, an archive, or pickled objects.
    """
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, TypeError, EOFError, OSError, MemoryError, TokenError) as error:
        raise InputError(f"{name}: not a plain .npy array ({reason(error)})") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name}: not a plain .npy array (an archive of several)")
    return array
