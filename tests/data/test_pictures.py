"""Picture files: exact round trips, and refusals that name the file."""

import io
import struct
import sys
import zlib
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


def _file(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def test_rgb_round_trip_and_stable_bytes() -> None:
    assert (decode_rgb(encode_rgb(RGB), "x") == RGB).all()
    assert encode_rgb(RGB) == encode_rgb(RGB.copy())


def test_other_modes_become_rgb() -> None:
    assert (decode_rgb(_file(GREY), "x") == GREY[..., None]).all()
    assert (decode_rgb(_file(np.dstack([RGB, GREY])), "x") == RGB).all()
    assert (decode_rgb(_file(np.dstack([GREY, GREY])), "x") == GREY[..., None]).all()
    palette = Image.fromarray(GREY)
    palette.putpalette(voc_palette())
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    colours = np.array(voc_palette()).reshape(256, 3)
    assert (decode_rgb(buffer.getvalue(), "x") == colours[GREY]).all()


def _deep_rgb(values: np.ndarray) -> bytes:
    """(H, W, 3) uint16 as PNG, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width = values.shape[:2]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    start = bytes([0x89]) + b"PNG\r\n\x1a\n"
    return start + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bits_are_scaled_to_8_and_it_is_said() -> None:
    deep = GREY.astype(np.uint16) * 257
    photo = read_photo(_file(deep), "x")
    assert photo.notes == ("16-bit grey, converted to 8-bit RGB",)
    assert (decode_rgb(photo.content, "x") == GREY[..., None]).all()
    assert (decode_rgb(_file(deep), "x") == GREY[..., None]).all()
    colour = read_photo(_deep_rgb(RGB.astype(np.uint16) * 257), "x")
    assert colour.notes == ("16 bits a channel, converted to 8-bit RGB",)
    assert (decode_rgb(colour.content, "x") == RGB).all()


@pytest.mark.parametrize(
    "content",
    [
        _file(GREY.astype(np.int32) * 70000, "TIFF"),
        _file(GREY.astype(np.float32) / 255, "TIFF"),
    ],
)
def test_more_than_16_bits_are_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"p\.png: a picture of mode [IF] .*, expected 8 or 16"):
        decode_rgb(content, "p.png")


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("exif", "note"),
    [
        (b"Exif\0\0MM\0\x2a\0\0", "unreadable EXIF, counts as none"),
        (b"Exif\0\0http://ns.example/", "unreadable EXIF, counts as none"),
        (b"Exif\0\0\x00\x08\x00\x02\x01\x12\x00\x03", "unreadable EXIF, counts as none"),
        (_orientation(3, 1, b"\0\0\0\0"), None),
        (_orientation(3, 1, b"\0\x09\0\0"), None),
        (_orientation(2, 2, b"6\0\0\0"), None),
        (_orientation(3, 1, b"\0\x06\0\0"), "turned upright (EXIF)"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"dpi": (72, 72)}])  # without it Pillow hides what is wrong
def test_odd_exif_turns_nothing_and_ends_nothing(
    exif: bytes, note: str | None, kind: str, more: Any
) -> None:
    photo = read_photo(_file(RGB, kind, exif=exif, **more), "x")
    assert photo.notes == ((note,) if note else ())
    turned = note is not None and note.startswith("turned")
    assert (photo.width, photo.height) == ((5, 7) if turned else (7, 5))


@pytest.mark.parametrize("error", [AssertionError(), RecursionError("deep"), KeyError(7)])
def test_whatever_pillow_raises_names_the_file(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise error

    content = _file(RGB)
    picture = Image.open(io.BytesIO(content))
    monkeypatch.setattr(type(picture), "load", fails)
    one_line(lambda: read_photo(content, "p.png"), "p.png: cannot be decoded (")
    one_line(lambda: to_photo(picture, "p.png"), "p.png: cannot be decoded (")


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@pytest.mark.parametrize(
    ("profile", "note", "colour"),
    [
        (SRGB, None, (200, 100, 50)),
        (display_p3(), "other colours, converted to sRGB", (215, 93, 31)),
        (display_p3()[:200], "unreadable colour profile, counts as none", (200, 100, 50)),
        (LAB, "unreadable colour profile, counts as none", (200, 100, 50)),
        (b"?", "unreadable colour profile, counts as none", (200, 100, 50)),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_colours_become_srgb(profile: bytes, note: str | None, colour: Any, kind: str) -> None:
    content = _file(np.full((2, 2, 3), (200, 100, 50), np.uint8), kind, icc_profile=profile)
    photo = read_photo(content, "x")
    assert photo.notes == ((note,) if note else ())
    assert np.abs(decode_rgb(photo.content, "x").astype(int) - colour).max() <= 1
    assert read_photo(photo.content, "x").notes == ()


def test_the_first_of_several_pictures_is_taken_and_it_is_said() -> None:
    for kind in ("MPO", "TIFF", "PNG"):
        content = _file(RGB, kind, save_all=True, append_images=[Image.fromarray(RGB[::-1])])
        photo = read_photo(content, "x")
        assert photo.notes == ("the first of 2 pictures in its file",)
        if kind != "MPO":
            assert (decode_rgb(photo.content, "x") == RGB).all()


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
    buffer = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 100, 50))).save(buffer, quality=90)
    photo = read_photo(buffer.getvalue(), "IMG_1.HEIC")
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


def test_other_kinds_of_photo_are_converted_and_it_is_said() -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).convert("CMYK").save(buffer, "JPEG")
    grey = read_photo(_file(GREY, "JPEG", quality=95), "x")
    assert grey.notes == ("grey, converted to 8-bit RGB",)
    assert read_photo(buffer.getvalue(), "x").notes == ("CMYK, converted to 8-bit RGB",)
    clear = read_photo(_file(np.dstack([RGB, GREY])), "x")
    assert clear.notes == ("transparent, converted to 8-bit RGB",)
    for photo in (grey, clear):
        assert Image.open(io.BytesIO(photo.content)).mode == "RGB"
    webp = read_photo(_file(RGB, "WEBP", lossless=True), "x")
    assert (webp.notes, webp.suffix) == ((), "png")
    assert (decode_rgb(webp.content, "x") == RGB).all()


def test_a_large_photo_is_shrunk_to_its_long_side() -> None:
    photo = read_photo(_file(np.zeros((40, 90, 3), np.uint8)), "x", long_side=30)
    assert (photo.width, photo.height, photo.full_size) == (30, 13, (90, 40))
    assert decode_rgb(photo.content, "x").shape == (13, 30, 3)
    assert photo.notes == ("shrunk to a long side of 30",)


@pytest.mark.parametrize(
    ("size", "long_side", "expected"),
    [
        ((90, 40), None, (90, 40)),
        ((90, 40), 90, (90, 40)),
        ((90, 40), 45, (45, 20)),
        ((1, 5000), 100, (1, 100)),
        ((5000, 3), 100, (100, 1)),
    ],
)
def test_sizes_that_fit(
    size: tuple[int, int], long_side: int | None, expected: tuple[int, int]
) -> None:
    assert fit(size, long_side) == expected


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    header = _deep_rgb(np.zeros((2, 2, 3), np.uint16))
    for side in (16_001, 60_000):  # the second is beyond what Pillow opens
        size = struct.pack(">II", side, side)
        ihdr = b"IHDR" + size + header[24:29]
        bomb = header[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + header[33:]
        with pytest.raises(InputError, match=r"^p\.png: .*256 megapixels.*$"):
            read_photo(bomb, "p.png")


@pytest.mark.parametrize("decode", [decode_rgb, decode_mask, decode_depth])
@pytest.mark.parametrize("content", [b"", b"text", encode_rgb(RGB)[:60], encode_rgb(RGB)[:20]])
def test_damaged_files_are_named(decode: Any, content: bytes) -> None:
    with pytest.raises(InputError, match=r"^p\.png: (an empty|not a picture|cannot be)"):
        decode(content, "p.png")


@pytest.mark.filterwarnings("ignore")  # of Pillow, about the damage
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_random_damage_raises_nothing_else(kind: str) -> None:
    whole = _file(RGB, kind, exif=_orientation(3, 1, b"\0\x06\0\0"), icc_profile=display_p3())
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(len(damaged), size=3):
            damaged[place] = rng.integers(256)
        try:
            read_photo(bytes(damaged), "p")
        except InputError:
            refused += 1
    assert refused > 5


def test_masks_round_trip_every_id() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    assert (decode_mask(encode_mask(mask), "m") == mask).all()
    assert (decode_mask(_file(mask), "m") == mask).all()
    assert encode_mask(mask) == encode_mask(mask.astype(np.int64))


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (encode_rgb(RGB), "RGB"),
        (_file(np.dstack([RGB, GREY])), "RGBA"),
        (_file(GREY > 9), "1"),
        (_file(GREY.astype(np.uint16)), "I;16"),
    ],
)
def test_a_mask_of_colours_is_refused(content: bytes, mode: str) -> None:
    with pytest.raises(InputError, match=f"m: a {mode} picture, expected class ids"):
        decode_mask(content, "m")


def _palette_file(colours: list[int]) -> bytes:
    """A mask of one row, index k in column k, in VOC's colours of these ids; 256: in white."""
    every = np.array([*voc_palette(), 255, 255, 255]).reshape(257, 3)
    picture = Image.fromarray(np.arange(len(colours), dtype=np.uint8)[None])
    picture.putpalette(every[colours].ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("colours", "said"),
    [
        ([0, 1, 2, 3], None),
        ([0, 2, 1], "index 1 has the colour that VOC gives the id 2"),
        ([0, 12, 255], "index 1 has the colour that VOC gives the id 12"),
        ([0, 1, 255], "index 2 has the colour that VOC gives the id 255"),
        ([1], "index 0 has the colour that VOC gives the id 1"),
        ([0, 256, 1], None),  # a palette of the user's own
        ([0, 21, 1], None),  # no id of the data set, so one of the user's own, too
        ([0, 0, 0], None),  # no palette worth the name
    ],
)
def test_a_palette_in_another_order_is_noticed(colours: list[int], said: str | None) -> None:
    content = _palette_file(colours)
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


def test_depth_of_other_bit_depths() -> None:
    assert np.allclose(decode_depth(_file(GREY), "d"), GREY / 255)
    assert np.allclose(decode_depth(_file(GREY > 99), "d"), GREY > 99)
    assert np.allclose(decode_depth(_file(np.repeat(GREY[..., None], 3, 2)), "d"), GREY / 255)
    wide = GREY.astype(np.int32) * 257
    assert np.allclose(decode_depth(_file(wide, "TIFF"), "d"), GREY / 255)
    real = GREY.astype(np.float32) / 300
    assert np.allclose(decode_depth(_file(real, "TIFF"), "d"), real)
    assert np.allclose(decode_depth(_file(real * 40, "TIFF"), "d"), real / real.max())


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


@pytest.mark.parametrize(
    "depth", [np.full((2, 2), 1.1), np.full((2, 2), -0.1), np.full((2, 2), np.nan), np.zeros((2,))]
)
def test_a_depth_out_of_range_is_not_written(depth: np.ndarray) -> None:
    with pytest.raises(ValueError, match="depth must be"):
        encode_depth(depth)


def test_arrays_round_trip() -> None:
    for array in (RGB, np.zeros((0, 4), np.uint8), GREY.astype(np.float16)):
        again = decode_array(encode_array(array), "a")
        assert again.dtype == array.dtype
        assert np.array_equal(again, array)


def _archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=GREY)
    return buffer.getvalue()


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"text", encode_array(GREY)[:-3], encode_array(GREY)[:40], _archive()]
)
def test_what_is_no_plain_array(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^a\.npy: not a plain \.npy array"):
        decode_array(content, "a.npy")


def test_pickled_objects_are_refused() -> None:
    with pytest.raises(InputError, match="not a plain"):
        decode_array(_pickled(), "a.npy")
    with pytest.raises(ValueError, match="Object arrays"):
        encode_array(np.array([{"a": 1}], dtype=object))


def _npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (10**15,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000000,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|u1', 'fortran_order': False, b'shape': (1,)}",
        "{'descr': '|V99999999999', 'fortran_order': False, 'shape': (1,)}",
        "__import__('os').system('true')",
        "[" * 4000 + "]" * 4000,
    ],
)
def test_a_hostile_array_is_one_line(header: str) -> None:
    """The first two would be taken for arrays of a petabyte and more."""
    message = one_line(lambda: decode_array(_npy(header), "a.npy"), "a.npy")
    assert message.isprintable()
    assert len(message) < 300
