"""Picture files: exact round trips, and refusals that name the file."""

import io
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cameras import display_p3, dng
from PIL import ExifTags, Image, ImageCms, ImageOps
from support import one_line

from dgkd_core.data.pictures import (
    Photo,
    decode_array,
    decode_depth,
    decode_mask,
    decode_rgb,
    encode_array,
    encode_depth,
    encode_mask,
    encode_rgb,
    fit,
    read_photo,
    to_photo,
    voc_palette,
)
from dgkd_core.runtime.errors import InputError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (5, 7)).astype(np.uint8)


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def _file(array: np.ndarray, kind: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    picture = Image.fromarray(array)
    return _saved(lambda b: (picture.convert(mode) if mode else picture).save(b, kind, **options))


def _png(size: tuple[int, int], bits: int, kind: int, rows: bytes) -> bytes:
    """A PNG of a kind (0 grey, 2 RGB) and depth that Pillow does not write; size is (w, h)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0))
    start = b"\x89PNG\r\n\x1a\n"
    return start + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _deep_rgb(values: np.ndarray) -> bytes:
    """(H, W, 3) uint16 as PNG."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return _png(values.shape[1::-1], 16, 2, rows)


GREYS = np.repeat(GREY[..., None], 3, 2)
COLOURS = np.array(voc_palette(), np.uint8).reshape(256, 3)
FIRST = "the first of 2 pictures in its file"
CONVERTED: list[tuple[bytes, str | None, Any]] = [  # a file, what is said of it, what it shows
    (encode_rgb(RGB), None, RGB),
    (_file(RGB, "WEBP", lossless=True), None, RGB),
    (_file(GREY), "grey, converted to 8-bit RGB", GREYS),
    (_file(np.dstack([GREY, GREY])), "grey with transparency, converted to 8-bit RGB", GREYS),
    (_file(np.dstack([RGB, GREY])), "transparent, converted to 8-bit RGB", RGB),
    (encode_mask(GREY), "palette, converted to 8-bit RGB", COLOURS[GREY]),
    (_file(RGB, "JPEG", "CMYK"), "CMYK, converted to 8-bit RGB", None),
    (_file(GREY.astype(np.uint16) * 257), "16-bit grey, converted to 8-bit RGB", GREYS),
    (_deep_rgb(RGB.astype(np.uint16) * 257), "16 bits a channel, converted to 8-bit RGB", RGB),
    *(
        (_file(RGB, kind, save_all=True, append_images=[Image.fromarray(RGB[::-1])]), *said)
        for kind, *said in (("MPO", FIRST, None), ("TIFF", FIRST, RGB))
    ),
]


@pytest.mark.parametrize(("content", "note", "shows"), CONVERTED)
def test_other_pictures_become_rgb_of_8_bits_and_it_is_said(
    content: bytes, note: str | None, shows: Any
) -> None:
    photo = read_photo(content, "x")
    assert photo.notes == ((note,) if note else ())
    assert Image.open(io.BytesIO(photo.content)).mode == "RGB"
    if shows is not None:
        assert np.array_equal(decode_rgb(photo.content, "x"), shows)
        assert np.array_equal(decode_rgb(content, "x"), shows)


def test_a_plain_photo_is_kept_byte_for_byte() -> None:
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png")):
        content = _file(RGB, kind)
        photo = read_photo(content, "x", long_side=7)
        assert photo == Photo(content, suffix, 7, 5, (7, 5), ())


def test_a_turned_photo_becomes_upright() -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        # what a viewer shows of this file
        content = _file(RGB, exif=exif)
        shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
        photo = read_photo(content, "x")
        assert (decode_rgb(photo.content, "x") == shown).all()
        assert (photo.width, photo.height) == shown.shape[1::-1]
        assert photo.notes == (("turned upright (EXIF)",) if orientation > 1 else ())


def _orientation(kind: int, count: int, value: bytes) -> bytes:
    entry = struct.pack(">HHHI", 1, ExifTags.Base.Orientation, kind, count)
    return b"Exif\0\0MM\0\x2a" + struct.pack(">I", 8) + entry + value + bytes(8)


@pytest.mark.parametrize(
    ("exif", "note"),
    [
        (b"Exif\0\0MM\0\x2a\0\0", "unreadable EXIF, counts as none"),
        (_orientation(3, 1, b"\0\x09\0\0"), None),
        (_orientation(2, 2, b"6\0\0\0"), None),
        (_orientation(3, 1, b"\0\x06\0\0"), "turned upright (EXIF)"),
    ],
)
def test_odd_exif_turns_nothing_and_ends_nothing(exif: bytes, note: str | None) -> None:
    for kind, more in (("PNG", {}), ("JPEG", {}), ("JPEG", {"dpi": (72, 72)})):
        # without the resolution Pillow hides what is wrong
        photo = read_photo(_file(RGB, kind, exif=exif, **more), "x")
        assert photo.notes == ((note,) if note else ())
        turned = note is not None and note.startswith("turned")
        assert (photo.width, photo.height) == ((5, 7) if turned else (7, 5))


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@pytest.mark.parametrize(
    ("profile", "note", "colour"),
    [
        (SRGB, None, (200, 100, 50)),
        (display_p3(), "other colours, converted to sRGB", (215, 93, 31)),
        (display_p3()[:200], "unreadable colour profile, counts as none", (200, 100, 50)),
        (LAB, "unreadable colour profile, counts as none", (200, 100, 50)),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_colours_become_srgb(profile: bytes, note: str | None, colour: Any, kind: str) -> None:
    content = _file(np.full((2, 2, 3), (200, 100, 50), np.uint8), kind, icc_profile=profile)
    photo = read_photo(content, "x")
    assert photo.notes == ((note,) if note else ())
    assert np.abs(decode_rgb(photo.content, "x").astype(int) - colour).max() <= 1
    assert read_photo(photo.content, "x").notes == ()


def test_camera_raw_is_developed_upright_in_srgb() -> None:
    pytest.importorskip("rawpy")
    grey = np.full((64, 96), 8000, np.uint16)
    grey[:32] = 16000
    for orientation, first, last in ((1, 135, 98), (6, 98, 135)):
        photo = read_photo(dng(grey, orientation), "a night.DNG")
        found = decode_rgb(photo.content, "x").astype(int)
        assert found.shape == ((64, 96, 3) if orientation == 1 else (96, 64, 3))
        assert np.abs(found[8, 8] - first).max() <= 1
        assert np.abs(found[-8, -8] - last).max() <= 1
        assert photo.notes == ("camera raw, developed",)
    one_line(lambda: read_photo(b"?", "a.nef"), "a.nef: cannot be decoded (")


def test_heic_is_read() -> None:
    heif = pytest.importorskip("pillow_heif")
    picture = heif.from_pillow(Image.new("RGB", (64, 48), (200, 100, 50)))
    content = _saved(lambda buffer: picture.save(buffer, quality=90))
    photo = read_photo(content, "IMG_1.HEIC")
    assert (photo.width, photo.height, photo.notes) == (64, 48, ())
    assert np.abs(decode_rgb(photo.content, "x").astype(int) - (200, 100, 50)).max() <= 8


def test_what_needs_an_extra_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("rawpy", "pillow_heif"):
        monkeypatch.setitem(sys.modules, package, None)
    raw, heic = dng(np.zeros((2, 2))), b"\0\0\0\x18ftypheic" + bytes(40)
    one_line(lambda: read_photo(raw, "a.DNG"), "a.DNG: camera raw", "pip install 'dgkd[raw]'")
    one_line(lambda: read_photo(heic, "a.jpg"), "a.jpg: a HEIC", "pip install 'dgkd[heic]'")


def test_the_preview_in_camera_raw_is_no_photograph() -> None:
    for tag, value in ((254, 1), (255, 2)):
        content = _file(RGB, "TIFF", tiffinfo={tag: value})
        one_line(lambda c=content: read_photo(c, "a.tif"), "a.tif: 7x5 pixels are a preview")
    opened = Image.open(io.BytesIO(_file(RGB, "TIFF")))
    one_line(lambda: to_photo(opened, "a.NEF"), "a.NEF: 7x5 pixels are a preview")


def test_a_large_photo_is_shrunk_to_its_long_side() -> None:
    photo = read_photo(_file(np.zeros((40, 90, 3), np.uint8)), "x", long_side=30)
    assert (photo.width, photo.height, photo.full_size) == (30, 13, (90, 40))
    assert decode_rgb(photo.content, "x").shape == (13, 30, 3)
    assert photo.notes == ("shrunk to a long side of 30",)
    sizes = fit((1, 5000), 100), fit((90, 40), 90), fit((9, 4), None)
    assert sizes == ((1, 100), (90, 40), (9, 4))


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    for side in (16_001, 60_000):  # the second is beyond what Pillow opens
        bomb = _png((side, side), 16, 2, b"")
        with pytest.raises(InputError, match=r"^p\.png: .*256 megapixels.*$"):
            read_photo(bomb, "p.png")


@pytest.mark.parametrize("decode", [decode_rgb, decode_mask, decode_depth])
def test_damaged_files_are_named(decode: Any) -> None:
    for content in (b"", b"text", encode_rgb(RGB)[:60]):
        with pytest.raises(InputError, match=r"^p\.png: (an empty|not a picture|cannot be)"):
            decode(content, "p.png")
    for grey in (GREY.astype(np.int32) * 70000, GREY.astype(np.float32) / 255):
        said = "p.png: a picture of mode"
        one_line(lambda grey=grey: decode_rgb(_file(grey, "TIFF"), "p.png"), said, "8 or 16")


def test_masks_round_trip_every_id_and_colours_are_refused() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    assert (decode_mask(encode_mask(mask), "m") == mask).all()
    assert (decode_mask(_file(mask), "m") == mask).all()
    for array, mode in ((RGB, "RGB"), (GREY > 9, "1"), (GREY.astype(np.uint16), "I;16")):
        with pytest.raises(InputError, match=f"m: a {mode} picture, expected class ids"):
            decode_mask(_file(array), "m")


@pytest.mark.parametrize("bits", [2, 4])
def test_a_mask_whose_ids_pillow_would_stretch_is_refused(bits: int) -> None:
    content = _png((2, 1), bits, 0, bytes([0, 1 << (8 - bits)]))
    one_line(lambda: decode_mask(content, "m"), "m: grey of 2 or 4 bits", "8-bit grey")


@pytest.mark.parametrize(
    ("colours", "said"),
    [
        ([0, 1, 2, 3], None),
        ([0, 2, 1], "index 1 has the colour that VOC gives the id 2"),
        ([0, 1, 255], "index 2 has the colour that VOC gives the id 255"),
        ([1], "index 0 has the colour that VOC gives the id 1"),
        ([0, 256, 1], None),  # a palette of the user's own
        ([0, 21, 1], None),  # no id of the data set, so one of the user's own, too
        ([0, 0, 0], None),  # no palette worth the name
    ],
)
def test_a_palette_in_another_order_is_noticed(colours: list[int], said: str | None) -> None:
    """A mask of one row, index k in column k, in VOC's colours of these ids; 256: in white."""
    every = np.array([*voc_palette(), 255, 255, 255]).reshape(257, 3)
    picture = Image.fromarray(np.arange(len(colours), dtype=np.uint8)[None])
    picture.putpalette(every[colours].ravel().tolist())
    content = _saved(lambda buffer: picture.save(buffer, "PNG"))
    assert decode_mask(content, "m").tolist() == [list(range(len(colours)))]
    if said is None:
        decode_mask(content, "m", 20)
    else:
        assert one_line(lambda: decode_mask(content, "m", 20), "m: ").startswith(f"m: {said}")


def test_the_palette_is_vocs() -> None:
    colours = np.array(voc_palette()).reshape(256, 3).tolist()
    known = {0: [0, 0, 0], 1: [128, 0, 0], 2: [0, 128, 0], 3: [128, 128, 0], 8: [64, 0, 0]}
    known |= {15: [192, 128, 128], 20: [0, 64, 128], 255: [224, 224, 192]}
    assert {i: colours[i] for i in known} == known
    assert len({tuple(c) for c in colours}) == 256


def test_depth_round_trip_in_16_bits() -> None:
    depth = np.linspace(0, 1, 35).reshape(5, 7)
    again = decode_depth(encode_depth(depth), "d")
    assert again.dtype == np.float32
    assert np.abs(again - depth).max() <= 0.5 / 65535 + 1e-7
    for wrong in (depth + 0.1, depth - 0.1, depth * np.nan, depth[0]):
        with pytest.raises(ValueError, match="depth must be"):
            encode_depth(wrong)


def test_depth_of_other_bit_depths() -> None:
    real = GREY.astype(np.float32) / 300
    for content, expected in (
        (_file(GREY), GREY / 255),
        (_file(GREY > 99), GREY > 99),
        (_file(GREYS), GREY / 255),
        (_file(GREY.astype(np.int32) * 257, "TIFF"), GREY / 255),
        (_file(real, "TIFF"), real),
        (_file(real * 40, "TIFF"), real / real.max()),
    ):
        assert np.allclose(decode_depth(content, "d"), expected)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (RGB, "a colour picture, expected a one-channel depth map"),
        (-GREY.astype(np.float32), "negative or non-finite depth"),
        (np.full((2, 2), np.nan, np.float32), "negative or non-finite depth"),
        (GREY.astype(np.int32) * 1000, "expected at most 16 bit"),
        (-GREY.astype(np.int32), "negative or non-finite depth"),
    ],
)
def test_what_is_no_depth_map(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=f"^d: .*{message}"):
        decode_depth(_file(array, "PNG" if array.dtype == np.uint8 else "TIFF"), "d")


def test_arrays_round_trip() -> None:
    for array in (RGB, np.zeros((0, 4), np.uint8), GREY.astype(np.float16)):
        again = decode_array(encode_array(array), "a")
        assert again.dtype == array.dtype
        assert np.array_equal(again, array)


def _npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


HEADERS = (
    # of a petabyte
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000000,)}",
    "__import__('os').system('true')",
    "[" * 4000 + "]" * 4000,
)


@pytest.mark.parametrize(
    "content",
    [
        *(b"text", encode_array(GREY)[:-3], encode_array(GREY)[:40], *map(_npy, HEADERS)),
        _saved(lambda buffer: np.savez(buffer, GREY)),
        _saved(lambda buffer: np.save(buffer, np.array([{"a": 1}], object))),
    ],
)
def test_damaged_and_hostile_arrays_are_one_line(content: bytes) -> None:
    message = one_line(lambda: decode_array(content, "a.npy"))
    assert message.startswith("a.npy: not a plain .npy array")
    assert message.isprintable()
    assert len(message) < 300
