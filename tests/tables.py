"""Tables of runs and experiments of DVC, made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from tools.sweeps.plan import HEADINGS
from tools.sweeps.repository import Repository
from tools.sweeps.table import COLUMNS

Finish = Callable[..., str]


def make_table(runs: list[tuple[str, str, int, float]], **columns: object) -> pd.DataFrame:
    """A table of (row, variant, seed, segmenter); other figures are 50 where not given."""
    table = pd.DataFrame(runs, columns=["row", "variant", "seed", "segmenter_dark"])
    usual = {**dict.fromkeys(HEADINGS, 50.0), "commit": "abc1234", "machine": "a computer"}
    for column, value in {**usual, **columns}.items():
        if column not in table or column in columns:
            table[column] = value
    return table[COLUMNS]


def remove(repository: Repository, name: str) -> None:
    """Delete an experiment's reference, as `dvc exp remove` does."""
    repository.run("git", "update-ref", "-d", repository.finished()[name])
