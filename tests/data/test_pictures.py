"""Picture files: exact round trips, and refusals that name the file."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dgkd_core.data.pictures import (
    decode_array,
    decode_depth,
    decode_mask,
    decode_rgb,
    encode_array,
    encode_depth,
    encode_mask,
    encode_rgb,
    voc_palette,
)
from dgkd_core.errors import InputError

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


@pytest.mark.parametrize(
    "content",
    [_file(GREY.astype(np.uint16) * 257), _file(GREY.astype(np.float32) / 255, "TIFF")],
)
def test_more_than_8_bits_would_be_clipped_and_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"p\.png: a .* picture, expected 8 bits a channel"):
        decode_rgb(content, "p.png")


@pytest.mark.parametrize("decode", [decode_rgb, decode_mask, decode_depth])
@pytest.mark.parametrize("content", [b"", b"text", encode_rgb(RGB)[:60], encode_rgb(RGB)[:20]])
def test_damaged_files_are_named(decode: Any, content: bytes) -> None:
    with pytest.raises(InputError, match=r"^p\.png: (not a picture file|cannot be decoded)"):
        decode(content, "p.png")


@pytest.mark.filterwarnings("ignore")  # of Pillow, about the damage
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_random_damage_raises_nothing_else(kind: str) -> None:
    whole = _file(RGB, kind)
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(len(damaged), size=3):
            damaged[place] = rng.integers(256)
        try:
            decode_rgb(bytes(damaged), "p")
        except InputError:
            refused += 1
    assert refused > 10


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


def test_damaged_arrays_raise_nothing_else() -> None:
    whole, rng, refused = encode_array(GREY), np.random.default_rng(0), 0
    for place in range(len(whole)):
        for _ in range(4):
            damaged = bytearray(whole)
            damaged[place] = rng.integers(256)
            try:
                decode_array(bytes(damaged), "a")
            except InputError:
                refused += 1
    assert refused > 50
