"""darken: make a low-light picture of every normal one, deterministic per picture."""

from pathlib import Path
from typing import Any

import _start  # noqa: F401
import numpy as np

from dgkd_core.data.manifest import Entry, read_manifest
from dgkd_core.data.pack import Pack, write_pack
from dgkd_core.data.pictures import decode_rgb, encode_rgb
from dgkd_core.files import write_metrics
from dgkd_core.imaging.lowlight import darken as darken_picture
from dgkd_core.imaging.lowlight import luma, picture_rng
from dgkd_core.imaging.preview import write_preview
from dgkd_core.parallel import ordered_map
from dgkd_core.params import Params
from dgkd_core.progress import Progress
from dgkd_core.stage import ARTIFACTS, run


def picture(job: tuple[Entry, bytes, int, dict[str, Any]]) -> tuple[bytes, tuple[float, ...]]:
    """The dark PNG of one picture, and its luma before and after, noise level and ratio."""
    entry, content, seed, settings = job
    image = decode_rgb(content, entry.image)
    night = darken_picture(image, picture_rng(seed, entry.id), **settings)
    noise = np.std(night.image.astype(np.float32) - night.clean)
    return encode_rgb(night.image), (luma(image), luma(night.image), float(noise), night.ratio)


def darken(params: Params) -> None:
    source = Path(ARTIFACTS, "prepare")
    entries = read_manifest(source).entries
    images = Pack(source / "images.zip")
    settings = params.lowlight.model_dump()
    jobs = ((entry, images.read(entry.image), params.seed, settings) for entry in entries)
    rows = []
    with write_pack(Path(ARTIFACTS, "darken", "dark.zip")) as dark:
        pictures = Progress(ordered_map(picture, jobs), "darken", len(entries), lines=4)
        for entry, (content, row) in zip(entries, pictures, strict=True):
            dark.add(f"{entry.id}.png", content)
            rows.append(row)
    preview = Path(ARTIFACTS, "darken", "preview.png")
    write_preview(preview, entries, images, settings, params.seed)
    normal, dim, noise_level, ratio = np.mean(rows, axis=0)
    metrics = {
        "mean_luma": {"normal": float(normal), "dark": float(dim)},
        "noise_std": float(noise_level),
        "exposure_ratio": float(ratio),
    }
    write_metrics("metrics/darken.json", metrics)
    print(f"darken: mean luma {normal:.1f} -> {dim:.1f} of 255, noise {noise_level:.2f} levels")


if __name__ == "__main__":
    run("darken", darken)
