"""What a run of many classes leaves, without the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dgkd_core.config.params import load_params
from dgkd_core.datasets.voc import CLASSES
from dgkd_core.report.page import render
from dgkd_core.report.run import read_run

ODD = "<b>dog</b> & a very long name of a class that nobody would want"
NAMES = (*CLASSES[:11], ODD, *CLASSES[12:])
COUNTS = {name: 7 + i for i, name in enumerate(NAMES)}
METRICS = {
    "prepare": {"train": {"pictures": 1464, **COUNTS}, "val": {"pictures": 144, **COUNTS}},
    "darken": {
        **{"exposure_ratio": 38.26, "noise_std": 3.27},
        "mean_luma": {"dark": 9.44, "normal": 125.88},
    },
    "depth_model": {"mae": 3.88, "mae_of_mean_map": 6.04},
    "refine": {"coverage": 97.96, "val": {"threshold": 0.4}},
    "evaluate": {
        "teacher": {"normal": 72.46, "dark": 13.08, "dark_exposed": 15.72},
        "student": {"normal": 74.91, "dark": 66.83},
        "segmenter": {"normal": 76.58, "dark": 72.49},
        "train": {
            **{"scored_pictures": 1464, "cam_miou": 72.21, "pseudo_label_miou": 73.5},
            "pseudo_label_miou_where_decided": 76.49,
        },
    },
}
PICTURES = {
    "darken/preview.png": (900, 300),
    "evaluate/sheet.png": (1334, 600),
    **{f"evaluate/examples/{name}.png": (670, 420) for name in ("best", "median", "worst")},
}


@pytest.fixture
def left(settings: Path) -> Path:
    """The current folder holds what a run with VOC's number of classes leaves."""

    def write(path: str, *lines: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("\n".join([*lines, ""]), encoding="utf-8")

    write("artifacts/prepare/classes.json", json.dumps(NAMES))
    for path, size in PICTURES.items():
        Path("artifacts", path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 90, 30)).save(f"artifacts/{path}")
    for stage, values in METRICS.items():
        write(f"metrics/{stage}.json", json.dumps(values))
    quoted = [f'"{name}"' for name in ("background", *NAMES)]
    pairs = ("teacher,normal", "student,dark", "segmenter,normal", "segmenter,dark")
    shares = (f"{a},{b},{80 if a == b else 1}" for a in quoted for b in quoted)
    ious = (f"{pair},{name},{31.25 + i}" for pair in pairs for i, name in enumerate(quoted))
    write("metrics/per_class.csv", "network,pictures,class,iou", *ious)
    write("metrics/confusion.csv", "truth,predicted,share", *shares)
    for stage in ("cam", "refine"):
        write(f"metrics/sweep/{stage}.csv", "threshold,miou", "0.01,40.5", "0.5,70", "0.95,20")
    for stage, curve in (
        *(("teacher", curve) for curve in ("lr", "loss/cls", "val/miou")),
        *(("distill", curve) for curve in ("loss/kd_map", "loss/kd_deep")),
    ):
        rows = (f"{step}\t{70 / step:.6g}" for step in range(4, 404, 4))
        name = f"metrics/live/{stage}/plots/metrics/{curve}.tsv"
        write(name, f"step\t{Path(curve).name}", *rows)
    return settings


@pytest.fixture
def page(left: Path) -> Callable[[], str]:
    """The page of what lies in the current folder."""
    return lambda: render(read_run(load_params(), load_params("presets/scenes.yaml")))
