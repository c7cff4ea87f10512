"""What a table says: which row is best, and whether a difference is more than its spread."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from tools.sweeps.plan import Plan


@dataclass(frozen=True)
class Difference:
    """A row minus another, run by run with the same seed.

    Attributes:
        values: a difference a seed that both have, percent points of mIoU.
    """

    values: pd.Series

    @property
    def wins(self) -> int:
        return int((self.values > 0).sum())

    @property
    def beyond(self) -> bool:
        """Larger than its standard deviation over the seeds, of which one shows none."""
        return len(self.values) > 1 and bool(abs(self.values.mean()) > self.values.std())


@dataclass(frozen=True)
class Best:
    """The best row of a variant, of those that ran with the most seeds.

    Attributes:
        row, mean: it, and its mean.
        seeds: how many.
        after, lead: the next best, and how far it is behind.
        level: the others from which the best is not told apart.
        left_out: rows with fewer seeds, not compared.
    """

    row: str
    mean: float
    seeds: int
    after: str
    lead: Difference
    level: list[str]
    left_out: list[str]


def by_seed(table: pd.DataFrame, variant: str, column: str) -> pd.DataFrame:
    """Seeds down, the rows of a variant across."""
    runs = table[(table["variant"] == variant) & table[column].notna()]
    return runs.pivot(index="seed", columns="row", values=column)


def difference(
    table: pd.DataFrame, variant: str, column: str, row: str, other: str
) -> Difference | None:
    """``row`` minus ``other``; None where they share no seed."""
    seeds = by_seed(table, variant, column)
    if row not in seeds or other not in seeds:
        return None
    values = (seeds[row] - seeds[other]).dropna()
    return Difference(values) if len(values) else None


def best(plan: Plan, table: pd.DataFrame, variant: str, column: str) -> Best | None:
    """The best of the rows that ran with the most seeds; None where fewer than two have."""
    seeds = by_seed(table, variant, column)
    names = [row.name for row in plan.rows if row.name in seeds]
    counts = seeds.count()
    full = [name for name in names if counts[name] == counts.max()]
    if len(full) < 2:
        return None
    ranked = seeds[full].mean().sort_values(ascending=False, kind="stable")
    first, *others = ranked.index
    leads = {other: Difference((seeds[first] - seeds[other]).dropna()) for other in others}
    return Best(
        row=first,
        mean=float(ranked[first]),
        seeds=int(counts.max()),
        after=others[0],
        lead=leads[others[0]],
        level=[other for other in others if not leads[other].beyond],
        left_out=[name for name in names if name not in full],
    )
