"""depth: a depth map of every dark picture, 16 bit, near = 1."""

from pathlib import Path

import _start  # noqa: F401

from dgkd_core.config.schema import Params
from dgkd_core.data.manifest import read_manifest
from dgkd_core.depth.mapping import write_depth
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime import distributed
from dgkd_core.runtime.files import write_metrics
from dgkd_core.runtime.paths import ARTIFACTS, resolve
from dgkd_core.runtime.state import State


def depth(params: Params, state: State) -> None:
    manifest = read_manifest(Path(ARTIFACTS, "prepare"))
    dark, out = Path(ARTIFACTS, "darken", "dark.zip"), Path(ARTIFACTS, "depth", "depth.zip")
    measured = resolve(params.data.depth_root)
    cache = state.cache("depth")
    metrics = write_depth(manifest, dark, out, measured, params, "depth", cache)
    if distributed.is_main_process():
        write_metrics("metrics/depth.json", metrics)


if __name__ == "__main__":
    run("depth", depth)
