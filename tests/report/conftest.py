"""What a run of many classes leaves, without the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import ROOT

from dgkd_core.config.params import load_params
from dgkd_core.datasets.voc import CLASSES
from dgkd_core.report.page import render
from dgkd_core.report.run import read_run

ODD = "<b>dog</b> & a very long name of a class that nobody would want"
NAMES = (*CLASSES[:11], ODD, *CLASSES[12:])


def _picture(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (width % 256, 90, 30)).save(path)


def _metrics() -> dict[str, Any]:
    counts = {name: 7 + i for i, name in enumerate(NAMES)}
    return {
        "prepare": {"train": {"pictures": 1464, **counts}, "val": {"pictures": 144, **counts}},
        "darken": {
            "exposure_ratio": 38.26,
            "mean_luma": {"dark": 9.44, "normal": 125.88},
            "noise_std": 3.27,
        },
        "depth": {"mean": 38.92, "std": 31.15},
        "depth_model": {"mae": 3.88, "mae_of_mean_map": 6.04},
        "cam": {"val": {"miou": 71.42, "threshold": 0.5}},
        "refine": {"coverage": 97.96, "val": {"threshold": 0.4}},
        "evaluate": {
            "teacher": {"normal": 72.46, "dark": 13.08, "dark_exposed": 15.72},
            "student": {"normal": 74.91, "dark": 66.83},
            "segmenter": {"normal": 76.58, "dark": 72.49},
            "train": {
                "scored_pictures": 1464,
                "cam_miou": 72.21,
                "pseudo_label_miou": 73.5,
                "pseudo_label_miou_where_decided": 76.49,
            },
        },
    }


def _table(path: str, *rows: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("\n".join([*rows, ""]), encoding="utf-8")


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder holds what a run with VOC's number of classes leaves."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("artifacts/prepare").mkdir(parents=True)
    Path("artifacts/prepare/classes.json").write_text(json.dumps(NAMES))
    _picture(Path("artifacts/darken/preview.png"), 900, 300)
    _picture(Path("artifacts/evaluate/sheet.png"), 1334, 600)
    for name in ("best", "median", "worst"):
        _picture(Path(f"artifacts/evaluate/examples/{name}.png"), 670, 420)
    Path("metrics").mkdir()
    for stage, values in _metrics().items():
        Path(f"metrics/{stage}.json").write_text(json.dumps(values))
    shown = ("background", *NAMES)
    quoted = [f'"{name}"' for name in shown]
    pairs = ("teacher,normal", "student,dark", "segmenter,normal", "segmenter,dark")
    _table(
        "metrics/per_class.csv",
        "network,pictures,class,iou",
        *(f"{pair},{name},{31.25 + i}" for pair in pairs for i, name in enumerate(quoted)),
    )
    _table(
        "metrics/confusion.csv",
        "truth,predicted,share",
        *(f"{a},{b},{80 if a == b else 1}" for a in quoted for b in quoted),
    )
    for stage in ("cam", "refine"):
        _table(f"metrics/sweep/{stage}.csv", "threshold,miou", "0.01,40.5", "0.5,70", "0.95,20")
    for curve, value in {
        "teacher/plots/metrics/lr": lambda step: 1e-3 * (404 - step) / 400,
        "teacher/plots/metrics/loss/cls": lambda step: 9 / step,
        "teacher/plots/metrics/val/miou": lambda step: 70 - 200 / step,
        "distill/plots/metrics/loss/kd_map": lambda step: 40 / step,
        "distill/plots/metrics/loss/kd_deep": lambda step: 30 / step,
    }.items():
        rows = (f"{step}\t{value(step):.6g}" for step in range(4, 404, 4))
        _table(f"metrics/live/{curve}.tsv", f"step\t{Path(curve).name}", *rows)
    return tmp_path


@pytest.fixture
def page(left: Path) -> Callable[[], str]:
    """The page of what lies in the current folder."""
    return lambda: render(read_run(load_params()))
