"""The single objects of the built-in scenes: outline, albedo and height of each of six classes.

Object coordinates: u right, v up, the object inside [-1, 1]². Colours are display-referred sRGB in
[0, 1]. All classes share the same palettes, so colour does not tell them apart.
"""

from collections.abc import Callable
from math import cos, pi, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]
Rng = np.random.Generator
# inside (h, w), albedo (h, w, 3), height (h, w) in object units, gloss in [0, 1]
Drawing = tuple[Flags, Array, Array, float]


def rgb(text: str) -> Array:
    """Colours written as six hex digits each, (n, 3) in [0, 1]."""
    return np.array([list(bytes.fromhex(t)) for t in text.split()], np.float32) / 255


# (n, 3, 3): main, second and dark colour of an object, shared by all classes
PALETTES: Array = rgb(
    "d6453d f6e7c8 5b1f24  e58a2f fbeed3 6b3410  e8bf3c 7a4fa0 5a3d10  5f9e4a f3e6a2 23421f "
    "2f9186 f5d9a8 123f42  3f73b8 f4efe0 17294f  8458a8 f3c969 33204a  d65f8e fdebe6 5c1c3a "
    "a8653e f0d3a4 402215  57b0cf d9483f 1b3d55  efe3cb c2503f 4d3a30  8fae3e 8a3f6b 35401b"
).reshape(-1, 3, 3)


def mix(first: Array, second: Array, share: Array | Flags) -> Array:
    """Blend of two colours (or pictures) with share (h, w): 0 gives first, 1 second."""
    return first + (second - first) * np.asarray(share, np.float32)[..., None]


def _wave(t: Array) -> Array:
    """Triangle wave of period 1 in [0, 1]."""
    return np.abs(2 * (t - np.floor(t)) - 1)


def _dome(squared: Array) -> Array:
    """Height of a unit sphere over squared radius, slightly flattened at the rim."""
    return np.sqrt(np.clip(1.02 - squared, 0.02, None))


def _draw_ball(u: Array, v: Array, rng: Rng, colours: Array) -> Drawing:
    """Glossy sphere ringed by stripes of latitude around a tilted pole."""
    squared = u * u + v * v
    z = _dome(squared)
    turn, tilt = rng.uniform(-0.9, 0.9), rng.uniform(0.15, 0.5)
    pole = sin(turn) * u + cos(turn) * v
    latitude = np.arcsin(np.clip(cos(tilt) * pole + sin(tilt) * z, -1, 1))
    bands = _wave(latitude * rng.uniform(1.25, 1.6) + rng.uniform())
    albedo = mix(colours[0], colours[1], bands > 0.5)
    albedo = mix(albedo, colours[2], np.abs(bands - 0.5) < 0.07)
    return squared < 1, albedo, z, 0.75


def _draw_mushroom(u: Array, v: Array, rng: Rng, colours: Array) -> Drawing:
    """Domed cap with polka dots, gills under its rim, and a streaked stem."""
    stem_width = rng.uniform(0.24, 0.36)
    brim = rng.uniform(-0.15, 0.0)
    rise = (v - brim) / (1 - brim)
    cap_radius = u * u + rise * rise
    cap = (cap_radius < 1) & (rise > -0.12 * (1 - u * u))
    gills = (u * u + (rise / 0.26) ** 2 < 0.96) & ~cap
    flare = stem_width * (1 + 0.45 * np.clip(-0.35 - v, 0, 1) ** 1.2)
    stem = (np.abs(u) < flare) & (v > -1 + 0.1 * (u / flare) ** 2) & (rise < 0) & ~cap
    z = _dome(cap_radius)
    pitch = rng.uniform(0.36, 0.46)
    across, along = 1.15 * u / (z + 0.45), 1.15 * (rise - 0.35) / (z + 0.45)
    line = np.floor(along / (0.8 * pitch))
    dx = (across / pitch + 0.5 * (line % 2) + rng.uniform()) % 1 - 0.5
    dy = (along / (0.8 * pitch) - line - 0.5) * 0.8
    dots = dx * dx + dy * dy < rng.uniform(0.075, 0.1)
    ivory = 0.35 * colours[1] + 0.65 * rgb("f7ebd1")[0]
    streaks = 0.3 * _wave(u / flare * 3.2 + 0.06 * np.sin(9 * v))
    albedo = mix(ivory, colours[2], streaks)
    albedo = mix(albedo, mix(colours[2], ivory, 0.55 * _wave(u * 9)), gills)
    albedo = mix(albedo, mix(colours[0], ivory, dots), cap)
    height = np.where(cap, 0.9 * z, 0.6 * stem_width * _dome((u / flare) ** 2) - 0.1 * gills)
    return cap | gills | stem, albedo, height, 0.3


def _draw_cactus(u: Array, v: Array, rng: Rng, colours: Array) -> Drawing:
    """Ribbed trunk with one arm on each side, rows of pale spines and a bloom."""
    thick, thin = rng.uniform(0.27, 0.34), rng.uniform(0.17, 0.21)
    limbs = [(u, v, -1.3, 1 - thick, thick)]  # across, along, its two ends, radius
    for side in (-1, 1):
        elbow, reach, rise = rng.uniform((-0.45, 0.58, 0.35), (0.05, 0.7, 0.6))
        limbs.append((v - elbow, side * u, 0, float(reach), thin))
        limbs.append((u - side * float(reach), v, float(elbow), float(elbow + rise), thin))
    height, across, along = np.full_like(u, -9), u, v
    for aside, onward, start, end, radius in limbs:
        squared = (aside**2 + (onward - np.clip(onward, start, end)) ** 2) / radius**2
        h = radius * np.where(squared < 1, _dome(squared), 1 - squared)
        across = np.where(h > height, np.clip(aside / radius, -1, 1), across)
        along, height = np.where(h > height, onward, along), np.maximum(h, height)
    ribs = np.arcsin(np.clip(across, -1, 1)) * (3.2 / pi)
    groove = _wave(ribs) ** 2
    albedo = mix(colours[0], 0.5 * (colours[0] + colours[2]), groove)
    spine = (_wave(ribs) < 0.42) & (_wave(along * 7 + 0.5 * (np.round(ribs) % 2)) > 0.62)
    albedo = mix(albedo, 0.3 * colours[1] + 0.7, spine)
    bloom = np.hypot(u, v - 0.93) < 0.17 + 0.04 * np.cos(6 * np.arctan2(u, v - 0.93))
    albedo = mix(albedo, PALETTES[7, 0], bloom)
    inside = ((height > 0) & (v > -1)) | bloom
    return inside, albedo, np.where(bloom, thick, 1.1 * height - 0.05 * groove), 0.1


def _draw_house(u: Array, v: Array, rng: Rng, colours: Array) -> Drawing:
    """Brick cottage with a shingled roof, chimney, door and lit window."""
    eave, half = rng.uniform(0.0, 0.15), rng.uniform(0.72, 0.84)
    body = (np.abs(u) < half) & (v > -1) & (v <= eave)
    slope = (v - eave) / (1 - eave)
    roof = (slope > -0.05) & (np.abs(u) < (1 - slope) * 0.98)
    side = 1.0 if rng.random() < 0.5 else -1.0
    chimney = (np.abs(u - 0.45 * side) < 0.11) & (v > eave) & (v < 0.92) & ~roof
    course, tier = np.floor(v / 0.17), np.floor(v / 0.16)
    brick_u = u / 0.36 + 0.5 * (course % 2)
    shade = 0.5 + 0.5 * np.sin(12.9 * np.floor(brick_u) + 78.2 * course)
    mortar = (brick_u % 1 < 0.12) | (v / 0.17 % 1 < 0.2)
    bricks = mix(colours[0], 0.7 * colours[0] + 0.3 * colours[2], shade)
    bricks = mix(bricks, 0.5 * colours[1] + 0.42, mortar)
    scallop = 1 - (1 - _wave(u / 0.22 + 0.5 * (tier % 2))) ** 2
    tiles = mix(0.75 * colours[1] + 0.25 * colours[2], colours[2], v / 0.16 % 1 < 0.5 * scallop)
    albedo = mix(bricks, tiles, roof)
    door = np.hypot(u + 0.33 * side, np.maximum(v + 0.42, 0)) < 0.19
    pane_u, pane_v = np.abs(u - 0.36 * side), np.abs(v + 0.42)
    albedo = mix(albedo, colours[2], door | ((pane_u < 0.26) & (pane_v < 0.26)))
    glass = (pane_u < 0.2) & (pane_v < 0.2) & (pane_u > 0.03) & (pane_v > 0.03)
    albedo = mix(albedo, rgb("ffe9a3")[0], glass)
    height = np.where(roof, 0.35 - 0.3 * slope, 0.3) + 0.08 * side * u - 0.03 * (mortar & body)
    return body | roof | chimney, albedo, height, 0.0


def _draw_vase(u: Array, v: Array, rng: Rng, colours: Array) -> Drawing:
    """Turned vase glazed with zigzag bands, plain foot and open lip."""
    belly, waist, lip = rng.uniform(0.34, 0.46), rng.uniform(0.24, 0.32), rng.uniform(0.1, 0.22)
    middle, spread = rng.uniform(-0.35, -0.05), rng.uniform(0.4, 0.5)
    profile = waist + belly * np.exp(-(((v - middle) / spread) ** 2))
    profile += lip * np.exp(-(((v - 0.9) / 0.22) ** 2))
    across = np.clip(u / profile, -1, 1)
    rim = waist + lip
    sag = 0.1 * (1 - across**2)
    inside = (np.abs(u) < profile) & (v > -0.9 - sag) & (v < 0.9)
    mouth = (u / rim) ** 2 + ((v - 0.9) / 0.1) ** 2
    zigzag = 0.24 * _wave(np.arcsin(across) * rng.uniform(1.1, 1.4)) + v + sag
    band = zigzag * rng.uniform(2.3, 2.9) % 1
    albedo = mix(colours[0], colours[1], band > 0.5)
    albedo = mix(albedo, colours[2], (band > 0.68) & (band < 0.82))
    plain = (v + sag < -0.76) | (v + sag > 0.84)
    albedo = mix(albedo, colours[0], plain)
    albedo = mix(albedo, mix(colours[0], 0.4 * colours[2], mouth < 0.72), mouth < 1)
    return inside | (mouth < 1), albedo, 0.7 * profile * _dome(across**2), 0.55


def _draw_star(u: Array, v: Array, rng: Rng, colours: Array) -> Drawing:
    """Nautical star of five or six points: two-tone facets, dark outline, small inner star."""
    points, notch = int(rng.integers(5, 7)), rng.uniform(0.48, 0.6)
    sector, radius = 2 * pi / points, np.hypot(u, v)
    signed = (np.arctan2(u, v) / sector + 0.5) % 1 - 0.5
    across, up = notch * sin(sector / 2), 1 - notch * cos(sector / 2)
    angle = np.abs(signed) * sector
    reach = radius * (np.cos(angle) + np.sin(angle) * up / across)
    albedo = mix(colours[0], colours[1], (signed > 0) ^ (reach < 0.36))
    albedo = mix(albedo, colours[2], (np.abs(reach - 0.36) < 0.035) | (reach > 0.9))
    return (reach < 1) & (radius < 0.94), albedo, 0.5 * (1 - reach), 0.2


_Draw = Callable[[Array, Array, Rng, Array], Drawing]
# drawing function, largest tilt in degrees
DRAWINGS: dict[str, tuple[_Draw, float]] = {
    "ball": (_draw_ball, 25),
    "mushroom": (_draw_mushroom, 15),
    "cactus": (_draw_cactus, 10),
    "house": (_draw_house, 5),
    "vase": (_draw_vase, 10),
    "star": (_draw_star, 25),
}
