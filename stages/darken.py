"""darken: make a low-light picture of every normal one, deterministic per picture.

Where the data set brings a real dark picture, that one is taken.
"""

from math import isfinite
from pathlib import Path

import _start  # noqa: F401

from dgkd_core.config.schema import Params
from dgkd_core.data.manifest import read_manifest
from dgkd_core.lowlight.darkening import make_dark, write_dark
from dgkd_core.lowlight.preview import write_preview
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime import distributed
from dgkd_core.runtime.files import write_metrics
from dgkd_core.runtime.paths import ARTIFACTS
from dgkd_core.runtime.state import State


def darken(params: Params, state: State) -> None:
    source, out = Path(ARTIFACTS, "prepare"), Path(ARTIFACTS, "darken", "dark.zip")
    manifest = read_manifest(source)
    settings = params.lowlight.model_dump()
    cache = state.cache("dark")
    make_dark(manifest, source, params.data.seed, settings, "darken", cache)
    if not distributed.is_main_process():
        return
    metrics = write_dark(manifest, out, cache)
    preview = out.with_name("preview.png")
    write_preview(preview, manifest.entries, source, settings, params.data.seed)
    write_metrics("metrics/darken.json", metrics)
    taken = sum(bool(entry.dark) for entry in manifest.entries)
    if taken:
        print(f"darken: {taken} of {len(manifest.entries)} pictures are really dark, taken as is")
    luma, noise = metrics["mean_luma"], metrics["noise_std"]
    day = f"{luma['normal']:.1f} -> " if isfinite(luma["normal"]) else ""
    grain = f", noise {noise:.2f} levels" if isfinite(noise) else ""
    print(f"darken: mean luma {day}{luma['dark']:.1f} of 255{grain}")


if __name__ == "__main__":
    run("darken", darken)
