"""What a run has left, read for the page: metrics, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dgkd_core.config.params import load_params
from dgkd_core.config.schema import Params
from dgkd_core.report.curves import Series, numbers, read_curves
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import read_json, read_table

TRAINED = ("depth_model", "depth_adapt", "teacher", "distill", "segment")
SCORED = ("prepare", "darken", "depth_model", "refine", "evaluate")
EXAMPLES = ("best", "median", "worst")


@dataclass(frozen=True)
class Setting:
    """A parameter by its dotted key, its value and the one of the defaults."""

    key: str
    value: Any
    default: Any

    @property
    def changed(self) -> bool:
        return bool(self.value != self.default)


@dataclass(frozen=True)
class Run:
    """A run as its files tell it.

    Args:
        classes: their names in the order of their ids, without the background.
        settings: every parameter.
        metrics: the content of metrics/STAGE.json by stage.
        testsets: that of metrics/testset/NAME.json by name.
        iou, confusion: metrics/per_class.csv and confusion.csv, all text.
        sweeps: mIoU of the class maps by background threshold, before and after refining.
        curves: by training stage; empty where it did not train.
        pictures: files by what they show.
    """

    classes: tuple[str, ...]
    settings: tuple[Setting, ...]
    metrics: Mapping[str, dict[str, Any]]
    testsets: Mapping[str, dict[str, Any]]
    iou: pd.DataFrame
    confusion: pd.DataFrame
    sweeps: tuple[Series, ...]
    curves: Mapping[str, list[Series]]
    pictures: Mapping[str, Path]

    def setting(self, key: str) -> Any:
        """The value of a parameter."""
        return next(setting.value for setting in self.settings if setting.key == key)


def _leaves(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """All values by their dotted keys; test sets, whose names the user chose, are one value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = above + key
        section = isinstance(value, Mapping) and name != "evaluate.sets"
        found |= _leaves(value, f"{name}.") if section else {name: value}
    return found


def _portable(value: Any) -> Any:
    """A value without the folders of this machine: the page may be shown to others."""
    if isinstance(value, Mapping):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, str) and Path(value).is_absolute():
        return f"…/{Path(value).name}"
    return value


def settings_of(params: Params, defaults: Params) -> tuple[Setting, ...]:
    """Every parameter beside its default, in the order of params.yaml.

    Of an absolute path the last name only.
    """
    given, usual = (
        _leaves(each.model_dump(mode="json", by_alias=True)) for each in (params, defaults)
    )
    return tuple(Setting(key, _portable(value), usual[key]) for key, value in given.items())


def read_run(
    params: Params, artifacts: Path = Path("artifacts"), metrics: Path = Path("metrics")
) -> Run:
    """Read what the chain has left in the current folder.

    Raises:
        InputError: a file is missing or not as its stage writes it.
    """
    sheets = {"sheet": "evaluate/sheet.png", "strengths": "darken/preview.png"}
    pictures = {name: artifacts / path for name, path in sheets.items()}
    examples = artifacts / "evaluate/examples"
    if not examples.is_dir():
        raise InputError(f"{examples}: no such folder, expected what `evaluate` draws")
    pictures |= {n: examples / f"{n}.png" for n in EXAMPLES if (examples / f"{n}.png").exists()}
    sweeps = {"class maps": "cam", "refined": "refine"}
    return Run(
        classes=tuple(read_json(artifacts / "prepare/classes.json")),
        settings=settings_of(params, load_params("presets/scenes.yaml")),
        metrics={stage: read_json(metrics / f"{stage}.json") for stage in SCORED},
        testsets={
            name: read_json(metrics / f"testset/{name}.json") for name in params.evaluate.sets
        },
        iou=read_table(metrics / "per_class.csv", ("network", "pictures", "class", "iou")),
        confusion=read_table(metrics / "confusion.csv", ("truth", "predicted", "share")),
        sweeps=tuple(
            numbers(path, read_table(path, ("threshold", "miou")), "threshold", "miou", name)
            for name, stage in sweeps.items()
            for path in [metrics / f"sweep/{stage}.csv"]
        ),
        curves={stage: read_curves(stage, metrics) for stage in TRAINED},
        pictures=pictures,
    )
