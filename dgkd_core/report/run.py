"""What a run has left, read for the page: metrics, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dgkd_core.config.leaves import leaves
from dgkd_core.config.schema import Params
from dgkd_core.report.charts import Series
from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.files import read_json, read_table
from dgkd_core.runtime.paths import ARTIFACTS

METRICS = Path("metrics")
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
        dict(leaves(each.model_dump(mode="json", by_alias=True))) for each in (params, defaults)
    )
    return tuple(Setting(key, _portable(value), usual[key]) for key, value in given.items())


def _series(path: Path, x: str, y: str, separator: str = ",", name: str | None = None) -> Series:
    """Two columns of a table as numbers; rows whose y is empty are left out.

    Raises:
        InputError: the file is missing, or there is something else than a number in it.
    """
    table = read_table(path, (x, y), separator)
    try:
        known = table[table[y] != ""]
        return Series(name or y, tuple(map(float, known[x])), tuple(map(float, known[y])))
    except ValueError as error:
        raise InputError(f"{path}: {reason(error)}, expected numbers") from error


def _curves(stage: str) -> list[Series]:
    """All curves of a training stage by step; none where it did not train.

    They are DVCLive's files ``live/STAGE/plots/metrics/**.tsv``, losses and then what was scored.
    """
    folder = METRICS / "live" / stage / "plots/metrics"
    paths = sorted(folder.rglob("*.tsv"), key=lambda path: path.as_posix())
    found = (_series(path, "step", path.stem, "\t") for path in paths)
    return [series for series in found if series.x]


def read_run(params: Params, defaults: Params) -> Run:
    """Read what the chain has left in the current folder.

    Raises:
        InputError: a file is missing or not as its stage writes it.
    """
    artifacts = Path(ARTIFACTS)
    pictures = {
        "sheet": artifacts / "evaluate/sheet.png",
        "strengths": artifacts / "darken/preview.png",
    }
    examples = artifacts / "evaluate/examples"
    if not examples.is_dir():
        raise InputError(f"{examples}: no such folder, expected what `evaluate` draws")
    pictures |= {n: examples / f"{n}.png" for n in EXAMPLES if (examples / f"{n}.png").exists()}
    return Run(
        classes=tuple(read_json(artifacts / "prepare/classes.json")),
        settings=settings_of(params, defaults),
        metrics={stage: read_json(METRICS / f"{stage}.json") for stage in SCORED},
        testsets={
            name: read_json(METRICS / f"testset/{name}.json") for name in params.evaluate.sets
        },
        iou=read_table(METRICS / "per_class.csv", ("network", "pictures", "class", "iou")),
        confusion=read_table(METRICS / "confusion.csv", ("truth", "predicted", "share")),
        sweeps=tuple(
            _series(METRICS / f"sweep/{stage}.csv", "threshold", "miou", name=name)
            for name, stage in (("class maps", "cam"), ("refined", "refine"))
        ),
        curves={stage: _curves(stage) for stage in TRAINED},
        pictures=pictures,
    )
