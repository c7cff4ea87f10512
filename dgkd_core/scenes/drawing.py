"""Procedural illustrated scenes with exact masks and depth: a data set that needs no download.

One to three objects of six classes stand on a textured ground under uneven light. Classes differ
in outline and interior texture; all share the same palettes, so colour does not tell them apart.
Drawn at twice the side and box-averaged down; masks and depth are sampled, so they never blend.
The objects themselves are in objects.py. Canvas coordinates: x right, y down, in [0, 1].
Colours are display-referred sRGB in [0, 1].
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import cos, radians, sin
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dgkd_core.scenes.objects import DRAWINGS, PALETTES, Array, Drawing, Flags, Rng, mix, rgb

Labels = NDArray[np.uint8]

CLASSES: tuple[str, ...] = ("ball", "mushroom", "cactus", "house", "vase", "star")

MIN_SIZE, MAX_SIZE = 32, 1024
MIN_VISIBLE = 0.35  # of an object's own pixels
MIN_AREA = 0.010  # of the picture
CROP = 1.3  # half side of an object's crop, in object units: room for rotation


@dataclass(frozen=True)
class Scene:
    """One picture with its ground truth.

    image: (H, W, 3) uint8 sRGB. mask: (H, W) uint8, 0 = background, k = CLASSES[k - 1].
    depth: (H, W) float32 in [0, 1], near = 1 (behaves like inverse depth).
    labels: sorted ids of the classes in mask, each covering at least MIN_AREA of it.
    """

    image: NDArray[np.uint8]
    mask: Labels
    depth: NDArray[np.float32]
    labels: tuple[int, ...]


class _Placed(NamedTuple):
    """A lit object in its canvas window; area counts its pixels before the frame cut any off."""

    class_id: int
    window: tuple[slice, slice]
    foot: float
    centre: float
    width: float
    area: int
    inside: Flags
    colour: Array
    bulge: Array


class _Stage(NamedTuple):
    """x (1, S); y and ground (S, 1), ground 0 at the horizon and 1 at the foot; light a unit vector
    (right, up, towards the viewer)."""

    side: int
    horizon: float
    x: Array
    y: Array
    ground: Array
    light: Array


# (n, 2, 3): zenith and horizon
SKIES: Array = rgb(
    "4f94cf cfe6f0  7fb2d9 f8e3c4  7d83c4 f6c9b6  68b5bd eef0d0  a5a0c8 fbdcc0"
).reshape(-1, 2, 3)


@lru_cache(maxsize=256)
def _blend_weights(length: int, cells: int) -> Array:
    """(length, cells + 1) smoothstep weights that spread cells + 1 knots over length pixels."""
    at = (np.arange(length) + 0.5) / length * cells
    near = np.clip(1 - np.abs(at[:, None] - np.arange(cells + 1)), 0, 1)
    return (near * near * (3 - 2 * near)).astype(np.float32)


def _noise(rng: Rng, height: int, width: int, rows: int, cols: int, octaves: int = 1) -> Array:
    """Value noise (height, width) in [-1, 1], rows × cols cells, each octave twice as fine."""
    total: Array = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        down, across = rows << octave, cols << octave
        knots = (2 * rng.random((down + 1, across + 1), np.float32) - 1) * 0.5**octave
        total += _blend_weights(height, down) @ knots @ _blend_weights(width, across).T
    return total / (2 - 0.5 ** (octaves - 1))


def _sky(stage: _Stage, rng: Rng, hills: Array | None = None) -> Array:
    """Gradient with soft clouds, (S, S, 3); two ridges of the colour of the hills, if given."""
    top, low = SKIES[rng.integers(len(SKIES))]
    sky = mix(top, low, np.clip(stage.y / stage.horizon, 0, 1) ** 0.8)
    clouds = _noise(rng, stage.side, stage.side, 5, 3, octaves=4)
    sky = mix(sky, 0.25 * low + 0.75, np.clip(2.4 * clouds - rng.uniform(-0.2, 0.3), 0, 0.85))
    if hills is None:
        return sky
    for haze, lift in ((0.4, 0.13), (0.7, 0.06)):
        top = stage.horizon - lift * (1 + 0.8 * _noise(rng, 1, stage.side, 1, 3, octaves=3))
        sky = mix(sky, hills, haze * (stage.y > top))
    return sky


def _meadow(stage: _Stage, rng: Rng) -> Array:
    """Grass of a random green to ochre with pale flowers, hills and sky."""
    grass, side = rgb("6f9f3f 4e8f5b 9aa545 b59a4a 5f9a86")[rng.integers(5)], stage.side
    blades = _noise(rng, side, side, 26, 100, octaves=2) * (0.3 + 0.7 * stage.ground)
    patches = _noise(rng, side, side, 7, 4, octaves=2)
    floor = grass * (0.95 + 0.3 * blades + 0.2 * patches)[..., None]
    fleck = _noise(rng, side, side, 64, 64) > 0.88 - 0.1 * patches
    floor = mix(floor, rgb("fff3c9")[0], fleck * np.clip(stage.ground * 3, 0, 0.9))
    return mix(_sky(stage, rng, 0.8 * grass), floor, stage.ground > 0)


def _sand(stage: _Stage, rng: Rng) -> Array:
    """Wind-rippled dunes under hills or, as often, a beach with a wavering line of foam and sea."""
    sand, side = rgb("e6c184 dc9e6c e8d4a8 cf9276 d4bfa6")[rng.integers(5)], stage.side
    drift = _noise(rng, side, side, 6, 3, octaves=2)
    shade = 0.95 + 0.13 * drift + 0.09 * _noise(rng, side, side, 100, 100)
    if rng.random() < 0.5:
        shade += 0.06 * np.sin(46 * np.log(stage.ground + 0.25) + 5 * drift + 3 * stage.x)
        return mix(_sky(stage, rng, 0.85 * sand), sand * shade[..., None], stage.ground > 0)
    inland = stage.ground - 0.16 - 0.05 * _noise(rng, 1, side, 1, 3, octaves=3)
    shade -= 0.22 * np.exp(-np.clip(inland, 0, 1) / 0.05)
    sea = rgb("2f86a6 3f9f9b 4f78b3")[rng.integers(3)]
    water = sea * (0.97 + 0.22 * _noise(rng, side, side, 120, 22))[..., None]
    floor = mix(water, sand * shade[..., None], inland > 0)
    floor = mix(floor, np.ones(3, np.float32), np.abs(inland) < 0.012)
    return mix(_sky(stage, rng), floor, stage.ground > 0)


def _room(stage: _Stage, rng: Rng) -> Array:
    """Faintly striped wall with a skirting board over a floor of boards in perspective."""
    wall = rgb("a9c0b8 d9b9a0 b3b9d4 e0cf9f c79a93 9fb6c9")[rng.integers(6)]
    wood, side = rgb("b8824f 96704f c79f6d a8765f")[rng.integers(4)], stage.side
    paper = 0.96 + 0.03 * (stage.x * rng.integers(5, 9) % 1 > 0.5)
    paper = paper + 0.06 * _noise(rng, side, side, 12, 12, octaves=4)
    across = 4.5 * (stage.x - rng.uniform(0.3, 0.7)) / (stage.ground + 0.45)
    tone = 0.95 + 0.1 * np.sin(37.7 * np.floor(across) + rng.uniform(0, 6))
    tone += 0.05 * np.sin(26 * across + 3 * _noise(rng, side, side, 3, 24, octaves=2))
    tone -= 0.4 * (np.abs(across - np.round(across)) < 0.03)
    picture = mix(wall * paper[..., None], wood * tone[..., None], stage.ground > 0)
    return mix(picture, 0.4 * wall + 0.55, np.abs(stage.y - stage.horizon + 0.02) < 0.022)


BACKGROUNDS: tuple[Callable[[_Stage, Rng], Array], ...] = (_meadow, _sand, _sand, _room)


@lru_cache(maxsize=64)
def _line(side: int) -> Array:
    """Pixel centres of a row, (1, side) in (0, 1)."""
    return ((np.arange(side) + 0.5) / side).astype(np.float32)[None]


def _set_stage(rng: Rng, side: int) -> _Stage:
    horizon, x = rng.uniform(0.34, 0.48), _line(side)
    light = np.array([rng.uniform(-0.7, 0.7), rng.uniform(0.4, 0.7), 0.75], np.float32)
    ground = np.clip((x.T - horizon) / (1 - horizon), 0, 1)
    return _Stage(side, horizon, x, x.T, ground, light / np.linalg.norm(light))


def _shade(drawing: Drawing, step: float, light: Array) -> Array:
    """Lit colour (h, w, 3): diffuse, specular and a dark rim; step: pixel side in object units."""
    inside, albedo, height, gloss = drawing
    fall_v, fall_u = np.gradient(height, step)
    norm = 1 / np.sqrt(fall_u**2 + fall_v**2 + 1)
    facing = np.clip((light[2] - light[0] * fall_u + light[1] * fall_v) * norm, 0, 1)
    half = (light + np.array([0, 0, 1], np.float32)) / np.sqrt(2 + 2 * light[2])
    mirror = np.clip((half[2] - half[0] * fall_u + half[1] * fall_v) * norm, 0, 1)
    inner = ndimage.uniform_filter(inside.astype(np.float32), max(3, int(0.12 / step)))
    tone = (0.5 + 0.75 * facing) * (0.55 + 0.45 * np.clip(2 * inner - 0.9, 0, 1))
    return albedo * tone[..., None] + (gloss * mirror**48)[..., None]


def _place(
    rng: Rng, stage: _Stage, class_id: int, centre: float, foot: float, extent: float
) -> _Placed:
    """Draw one object of a class about x = centre, standing on y = foot, extent wide or high."""
    pixels, side = round(CROP * extent * stage.side), stage.side
    u = CROP * (2 * _line(pixels) - 1)
    draw, tilt = DRAWINGS[CLASSES[class_id - 1]]
    turn, narrow = radians(rng.uniform(-tilt, tilt)), rng.uniform(0.88, 1.0)
    colours = PALETTES[rng.integers(len(PALETTES))] * rng.uniform(0.92, 1.08)
    colours = np.clip(colours + rng.uniform(-0.04, 0.04, 3), 0, 1).astype(np.float32)
    turned_u = (cos(turn) * u + sin(turn) * u.T) / narrow
    drawing = draw(turned_u, sin(turn) * u - cos(turn) * u.T, rng, colours)
    colour = _shade(drawing, 2 * CROP / pixels, stage.light)
    inside, height = drawing[0], drawing[2]
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    top = round(foot * side) - int(rows[-1]) - 1
    left = round((centre - 0.5 * CROP * extent) * side)
    window = (slice(max(top, 0), top + pixels), slice(max(left, 0), left + pixels))
    crop = (slice(max(-top, 0), side - top), slice(max(-left, 0), side - left))
    middle, width = (left + 0.5 * float(cols[0] + cols[-1])) / side, len(cols) / side
    area, bulge = int(inside.sum()), np.clip(height, 0, 1)
    place = (class_id, window, foot, middle, width, area)
    return _Placed(*place, inside[crop], colour[crop], bulge[crop])


def _lay_out(rng: Rng, stage: _Stage) -> list[_Placed]:
    """One to three objects, farthest first; nearer ones stand lower and tend to be larger."""
    count = int(rng.choice([1, 2, 3], p=[0.3, 0.42, 0.28]))
    spots: list[tuple[float, float, float]] = []
    for _ in range(count):
        for _attempt in range(12):
            extent = rng.uniform((0.36, 0.32, 0.29)[count - 1], (0.55, 0.5, 0.44)[count - 1])
            near = min(max((extent - 0.28) / 0.25 + rng.uniform(-0.1, 0.4), 0.25), 1)
            foot = max(stage.horizon + near * (0.97 - stage.horizon), extent + 0.02)
            centre = rng.uniform(0.48 * extent, 1 - 0.48 * extent)
            if all(abs(centre - x) > 0.36 * (extent + other) for x, _, other in spots):
                break
        spots.append((centre, foot, extent))
    spots.sort(key=lambda spot: spot[1])
    return [_place(rng, stage, int(rng.integers(len(CLASSES))) + 1, *spot) for spot in spots]


def _keep_visible(items: list[_Placed], side: int) -> list[_Placed]:
    """Drop what nearer objects or the frame hide, judged on the pixels that the mask samples."""
    taken = np.zeros((side, side), bool)
    kept: list[_Placed] = []
    for item in reversed(items):
        free = np.zeros_like(taken)
        free[item.window] = item.inside & ~taken[item.window]
        large = free[::2, ::2].mean() >= MIN_AREA
        if large and free.sum() >= MIN_VISIBLE * item.area:
            kept.insert(0, item)
            taken |= free
    return kept


def _compose(stage: _Stage, rng: Rng, items: list[_Placed]) -> tuple[Array, Labels, Array]:
    """Picture (S, S, 3), mask (S, S) and depth (S, S) of the objects over a background."""
    picture = BACKGROUNDS[rng.integers(len(BACKGROUNDS))](stage, rng)
    mask = np.zeros((stage.side, stage.side), np.uint8)
    wall = 0.04 + 0.10 * np.clip(stage.y / stage.horizon, 0, 1)
    depth = np.repeat(wall + 0.64 * stage.ground, stage.side, axis=1)
    for item in items:
        across = (stage.x - item.centre + 0.22 * item.width * stage.light[0]) / (0.5 * item.width)
        down = (stage.y - item.foot + 0.01) / (0.11 * item.width + 0.01)
        shadow = 0.62 * np.exp(-(down**2)) * (stage.ground > 0) * np.exp(-(across**4))
        picture = picture * (1 - shadow)[..., None]
        inside = item.inside
        picture[item.window][inside] = item.colour[inside]
        mask[item.window][inside] = item.class_id
        stand = (item.foot - stage.horizon) / (1 - stage.horizon)
        depth[item.window][inside] = 0.17 + 0.64 * stand + 0.12 * item.bulge[inside]
    return picture, mask, depth


def _expose(picture: Array, stage: _Stage, rng: Rng) -> Array:
    """Uneven tinted light, vignette, exposure to a mean luma of 0.43 to 0.55, soft highlights."""
    x, y = stage.x - 0.5, stage.y - 0.5
    field = 0.9 + rng.uniform(0.3, 0.8) * stage.light[0] * x - rng.uniform(0, 0.25) * y
    reach = rng.uniform(0.06, 0.16)
    spot = np.exp(-((y - rng.uniform(-0.4, 0.3)) ** 2) / reach)
    spot = spot * np.exp(-((x - rng.uniform(-0.4, 0.4)) ** 2) / reach)
    field = (field + rng.uniform(0.15, 0.4) * spot) * (1 - 0.3 * (x * x + y * y))
    tint = 1 + np.array([0.05, 0, -0.06], np.float32) * rng.uniform(-0.6, 1.2)
    lit = picture * (field[..., None] * tint)
    lit *= 1.2
    lit -= (lit @ np.array([0.299, 0.587, 0.114], np.float32) / 6)[..., None]  # saturation
    lit *= min(max(rng.uniform(0.44, 0.55) / float(lit[..., 1].mean()), 0.6), 1.6)
    bright = np.maximum(lit - 0.75, 0)
    return lit - bright * bright / (0.25 + bright)


def render(seed: int, split: str, index: int, size: int = 128) -> Scene:
    """Scene number index of a split, size × size; the same arguments always give the same scene.

    Raises:
        ValueError: a negative seed or index, a size outside MIN_SIZE..MAX_SIZE.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size is {size}, expected {MIN_SIZE} to {MAX_SIZE} pixels")
    rng = np.random.default_rng(np.random.SeedSequence((seed, zlib.crc32(split.encode()), index)))
    items: list[_Placed] = []
    while not items:
        stage = _set_stage(rng, 2 * size)
        items = _keep_visible(_lay_out(rng, stage), 2 * size)
    picture, canvas_mask, canvas_depth = _compose(stage, rng, items)
    fine = _expose(picture, stage, rng)
    image = (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4
    image += rng.standard_normal((size, size, 1), np.float32) * rng.uniform(0.004, 0.012)
    mask = canvas_mask[::2, ::2].copy()
    depth = np.clip(canvas_depth[::2, ::2], 0, 1).astype(np.float32)
    pixels = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    return Scene(pixels, mask, depth, tuple(sorted({item.class_id for item in items})))
