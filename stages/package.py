"""package: the segmenter and all that it needs for a prediction, in one folder."""

from pathlib import Path

import _start  # noqa: F401

from dgkd_core.config.schema import Params
from dgkd_core.deploy.card import card, darkness_of, data_of
from dgkd_core.deploy.folder import (
    CARD,
    DEPTH,
    DEPTH_FILES,
    NETWORK_FILES,
    STUDENT,
    DepthKind,
    Light,
    Run,
    Score,
    Settings,
    copy_files,
    digests,
    halve,
    portable,
    versions,
    write_run,
    write_settings,
)
from dgkd_core.depth.mapping import chosen_dpt
from dgkd_core.models.registry import ModelConfig, read_model_config
from dgkd_core.pipeline.stage import run
from dgkd_core.runtime.files import atomic_folder, read_json, read_table, write_text
from dgkd_core.runtime.paths import ARTIFACTS
from dgkd_core.runtime.state import State

ROOT = Path(ARTIFACTS)


def depth_kind(config: ModelConfig) -> DepthKind:
    """Where the segmenter's depth maps come from."""
    source = read_json(ROOT / "depth_model/source.json")["model"]
    if config.dgf2 == "off":
        return "off"
    return source if source in ("given", "gradient") else "dpt"


def scores() -> dict[Light, Score]:
    """The segmenter's, as `evaluate` wrote them."""
    means = read_json("metrics/evaluate.json")["segmenter"]
    table = read_table(Path("metrics/per_class.csv"), ("network", "pictures", "class", "iou"))
    found = {}
    for kind, miou in means.items():
        rows = table[(table["network"] == "segmenter") & (table["pictures"] == kind)]
        pairs = zip(rows["class"], rows["iou"], strict=True)
        found[kind] = Score(miou, {name: float(iou) if iou else None for name, iou in pairs})
    return found


def package(params: Params, state: State) -> None:
    config = read_model_config(ROOT / "segmenter")
    settings = Settings.of(params, depth_kind(config))
    pictures, scored = read_json("metrics/prepare.json"), scores()
    with atomic_folder(ROOT / "model") as folder:
        copy_files(ROOT / "segmenter", NETWORK_FILES, folder)
        if settings.depth == "dpt":
            copy_files(chosen_dpt(), DEPTH_FILES, folder / DEPTH)
        if params.package.student:
            copy_files(ROOT / "student", NETWORK_FILES, folder / STUDENT)
        if params.package.half:
            halve(folder)
        made = Run(
            data=data_of(params),
            darkness=darkness_of(params),
            params=portable(params),
            pictures=pictures,
            scores=scored,
            versions=versions(),
            sha256=digests(folder),
            half=params.package.half,
        )
        write_settings(folder, settings)
        write_run(folder, made)
        write_text(folder / CARD, card(config, settings, made, params.package.notes))
    size = sum(path.stat().st_size for path in (ROOT / "model").rglob("*") if path.is_file())
    print(f"package: {ROOT / 'model'}, {size / 1e6:.1f} MB, depth: {settings.depth}")


if __name__ == "__main__":
    run("package", package, shared=False)
