"""A plan: the runs of the chain that a table is made of, as YAML in experiments/."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML

from dgkd_core.config.leaves import leaves
from dgkd_core.config.params import load_params, read_yaml
from dgkd_core.runtime.errors import InputError, reason

Values = dict[str, Any]  # what is laid over params.yaml: dotted key and value
KEYS = ["row", "variant", "seed"]
# what is told of a run: column, its heading, the metrics file and the key in it
FIGURES = [
    ("luma_dark", "mean luma, dark", "darken", "mean_luma.dark"),
    ("teacher_normal", "teacher, normal", "evaluate", "teacher.normal"),
    ("teacher_dark", "teacher, dark", "evaluate", "teacher.dark"),
    ("teacher_dark_exposed", "teacher, brightened", "evaluate", "teacher.dark_exposed"),
    ("student_dark", "student, dark", "evaluate", "student.dark"),
    ("cam", "CAM", "cam", "val.miou"),
    ("pseudo", "pseudo labels", "refine", "val.best_threshold_miou"),
    ("segmenter_normal", "segmenter, normal", "evaluate", "segmenter.normal"),
    ("segmenter_dark", "segmenter, dark", "evaluate", "segmenter.dark"),
]
HEADINGS = {column: heading for column, heading, *_ in FIGURES}
Key = tuple[str, str, int]


def in_words(column: str) -> str:
    """A network's score in words: segmenter on the dark pictures."""
    network, _, pictures = HEADINGS[column].partition(", ")
    return f"{network} on the {pictures} pictures" if pictures else network


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Part):
    """What is compared: a method, or a value."""

    name: str = Field(pattern=r"^[\w.-]+$")
    title: str
    variants: list[str] | None = None  # None: all of the plan
    values: Values = Field(alias="set")


class Plot(_Part):
    """A figure of the table.

    Attributes:
        x: a column of the table, or a key of params.yaml that rows or variants set.
        y: columns of the table; more than one is drawn as a line each.
        lines: what else has a line of its own: each row (x goes along the variants), or each
            variant (x goes along the rows).
        scale: ``symlog`` is a logarithmic axis that holds zero.
        reverse: x falls from left to right.
    """

    x: str
    label: str
    y: list[str] = Field(min_length=1)
    lines: Literal["row", "variant"]
    scale: Literal["linear", "log", "symlog"] = "linear"
    reverse: bool = False


class Plan(_Part):
    """Every row in its variants with every seed.

    Attributes:
        name: the file's name without .yaml; names the experiments and the table.
        base: what every row starts from, whatever params.yaml says.
        baseline: the row that the others are compared with.
        data: what the runs learned and were scored on, in words.
        scores: columns of the table that docs/RESULTS.md shows.
        place: where it stands in docs/RESULTS.md, 1 first.
        preset: what params.yaml must hold for its runs, but for the values that the plan sets.
    """

    name: str
    title: str
    data: str
    note: str = ""
    preset: str | None = None
    seeds: list[int] = Field(min_length=1)
    base: Values = {}
    variants: dict[str, Values] = Field(min_length=1)
    variant_titles: dict[str, str] = {}
    rows: list[Row] = Field(min_length=1)
    baseline: str
    scores: list[str] = ["segmenter_dark"]
    place: int = 99
    plot: Plot | None = None

    @model_validator(mode="after")
    def _names(self) -> Plan:
        rows = [row.name for row in self.rows]
        if twice := sorted({name for name in rows if rows.count(name) > 1}):
            raise ValueError(f"rows: {twice[0]} is there twice")
        if self.baseline not in rows:
            raise ValueError(f"baseline: no row {self.baseline}, expected {', '.join(rows)}")
        named = {"variant_titles": list(self.variant_titles)}
        named.update({row.name: row.variants or [] for row in self.rows})
        for place, names in named.items():
            if unknown := [name for name in names if name not in self.variants]:
                known = ", ".join(self.variants)
                raise ValueError(f"{place}: no variant {unknown[0]}, expected {known}")
        return self

    @model_validator(mode="after")
    def _columns(self) -> Plan:
        known, plotted = ", ".join(HEADINGS), self.plot.y if self.plot else []
        for place, columns in {"scores": self.scores, "plot.y": plotted}.items():
            if unknown := [column for column in columns if column not in HEADINGS]:
                raise ValueError(f"{place}: no column {unknown[0]}, expected some of {known}")
        if self.plot is None:
            return self
        x = self.plot.x
        for run in () if x in HEADINGS else self.experiments():
            value = run.values.get(x)
            if isinstance(value, bool) or not isinstance(value, int | float):
                said = f"expected a column ({known}) or a parameter that every run sets to a number"
                raise ValueError(f"plot.x: {x} is {value} in {run.name}, {said}")
        return self

    def need_preset(self, root: Path) -> None:
        """Refuse to run on the params.yaml of a project where it has not the plan's preset."""
        if self.preset is None:
            return
        wanted = read_yaml(root / "presets" / f"{self.preset}.yaml", YAML(typ="safe", pure=True))
        params = load_params(root / "params.yaml").model_dump(mode="json", by_alias=True)
        found = dict(leaves(params))
        for key, value in leaves(wanted):
            if key not in ("base", "seed", *self.base) and found.get(key) != value:
                raise InputError(
                    f"{self.name}: params.yaml has {key}: {found.get(key)}, expected {value} as in "
                    f"presets/{self.preset}.yaml (`dgkd preset {self.preset}`)"
                )

    def variant_title(self, variant: str) -> str:
        return self.variant_titles.get(variant, variant)

    def experiments(self) -> Iterator[Experiment]:
        """All runs: seed by seed, so that the first figures of every row come early."""
        for seed in self.seeds:
            for row in self.rows:
                for variant in row.variants or self.variants:
                    values = {**self.base, **self.variants[variant], **row.values}
                    yield Experiment(self.name, row.name, variant, seed, values)


@dataclass(frozen=True)
class Experiment:
    """One run of the chain: ``values`` are laid over params.yaml."""

    plan: str
    row: str
    variant: str
    seed: int
    values: Mapping[str, Any]

    @property
    def key(self) -> Key:
        return self.row, self.variant, self.seed

    @property
    def name(self) -> str:
        return f"{self.plan}.{self.row}.{self.variant}.s{self.seed}"

    def command(self) -> list[str]:
        """The DVC command that queues it."""
        words = ["dvc", "exp", "run", "--queue", "--name", self.name]
        for key, value in {"seed": self.seed, **self.values}.items():
            words += ["-S", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        return words


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file.

    Raises:
        InputError: it cannot be read, or is no plan.
    """
    values = read_yaml(path, YAML(typ="safe", pure=True))
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a plan with title, data, seeds, variants, rows")
    try:
        return Plan(name=path.stem, **values)
    except ValidationError as error:
        first = error.errors()[0]
        place = [".".join(map(str, first["loc"]))] if first["loc"] else []
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(": ".join([str(path), *place, said])) from error
    except TypeError as error:  # a key that is no text, or `name`
        raise InputError(f"{path}: {reason(error)}") from error
