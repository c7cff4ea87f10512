"""depth: a depth map of every dark picture, 16 bit, near = 1."""

from pathlib import Path

import _start  # noqa: F401
from _depth import write_depth

from dgkd_core import world
from dgkd_core.data.manifest import read_manifest
from dgkd_core.files import write_metrics
from dgkd_core.paths import resolve
from dgkd_core.sections import Params
from dgkd_core.stage import ARTIFACTS, run
from dgkd_core.state import State


def depth(params: Params, state: State) -> None:
    manifest = read_manifest(Path(ARTIFACTS, "prepare"))
    dark, out = Path(ARTIFACTS, "darken", "dark.zip"), Path(ARTIFACTS, "depth", "depth.zip")
    measured = resolve(params.data.depth_root)
    journal = state.journal("depth")
    metrics = write_depth(manifest, dark, out, measured, params, "depth", journal)
    if world.first():
        write_metrics("metrics/depth.json", metrics)


if __name__ == "__main__":
    run("depth", depth)
