"""Photographs on their way into the networks: from a file or a PIL image, of any size and mode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dgkd_core.data.pictures import to_photo
from dgkd_core.errors import InputError, reason


@dataclass(frozen=True)
class Photograph:
    """A photograph as the networks see it, before it is exposed.

    ``rgb`` is (h, w, 3) uint8, upright; ``size`` its own (width, height), before it was shrunk.
    """

    name: str
    rgb: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...]


def photograph(picture: Image.Image, name: str, long_side: int) -> Photograph:
    """``picture``, treated as ``prepare`` treats a data set's.

    Raises:
        InputError: it is damaged, floating point or over 100 megapixels.
    """
    try:
        rgb, size, notes = to_photo(picture, name, long_side)
    except (OSError, SyntaxError) as error:  # Pillow decodes at the first use
        raise InputError(f"{name}: cannot be decoded ({reason(error)})") from error
    return Photograph(name, np.asarray(rgb), size, notes)
