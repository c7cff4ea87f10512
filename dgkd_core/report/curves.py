"""The curves that training stages leave, and other tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.files import read_table


@dataclass(frozen=True)
class Series:
    """One line of a chart: numbers y at x, in the order of x."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def numbers(path: Path, table: pd.DataFrame, x: str, y: str, name: str | None = None) -> Series:
    """Two columns of a table as a `Series`; rows whose y is empty are left out.

    Raises:
        InputError: there is something else than a number in them.
    """
    try:
        known = table[table[y] != ""]
        return Series(name or y, tuple(map(float, known[x])), tuple(map(float, known[y])))
    except ValueError as error:
        raise InputError(f"{path}: {reason(error)}, expected numbers") from error


def read_curves(stage: str, metrics: Path) -> list[Series]:
    """All curves of a training stage by step; none where it did not train.

    They are DVCLive's files ``live/STAGE/plots/metrics/**.tsv``, losses and then what was scored.
    """
    folder = metrics / "live" / stage / "plots" / "metrics"
    found = (
        numbers(path, read_table(path, ("step", path.stem), "\t"), "step", path.stem)
        for path in sorted(folder.rglob("*.tsv"), key=lambda path: path.as_posix())
    )
    return [series for series in found if series.x]
