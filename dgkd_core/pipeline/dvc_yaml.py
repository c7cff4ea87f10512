"""What dvc.yaml says of a stage: what it writes, and a hash of all that this depends on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import ignored_names, sha256
from dgkd_core.runtime.paths import resolve

FORMAT = 1  # of the state that is kept; another number, another key
CODE = Path(__file__).resolve().parents[2]


def _read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def _lookup(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _digest(path: str) -> str:
    is_code = path.startswith(("dgkd_core/", "stages/"))
    file = CODE / path if is_code else resolve(path)
    if not file.exists():
        return "missing"
    return sha256(file, ignored_names(CODE / ".dvcignore") if is_code else ())


def stage_entry(stage: str, item: str | None, params: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's entry in dvc.yaml, with ``${…}`` replaced by values of params.yaml.

    Args:
        item: which one of a stage that is repeated (``foreach``).

    Raises:
        InputError: there is no such one.
    """
    entry = _read(CODE / "dvc.yaml")["stages"][stage]
    names: dict[str, Any] = {}
    if "foreach" in entry:
        place = entry["foreach"].strip("${}")
        each = _lookup(params, place)
        if item not in each:
            known = ", ".join(each) or "none"
            raise InputError(f"{place}.{item}: params.yaml has no such entry, there are: {known}")
        names = {"key": item, "item": each[item]}
        entry = entry["do"]

    def value_of(found: re.Match[str]) -> str:
        return json.dumps(str(_lookup({**params, **names}, found[1])))[1:-1]

    return json.loads(re.sub(r"\$\{([\w.]+)\}", value_of, json.dumps(entry)))


def outputs(stage: str, item: str | None = None) -> list[str]:
    """The paths that a stage writes, as dvc.yaml lists them."""
    entry = stage_entry(stage, item, _read(Path("params.yaml")))
    listed = [*entry.get("outs", []), *entry.get("metrics", []), *entry.get("plots", [])]
    return [each if isinstance(each, str) else next(iter(each)) for each in listed]


def stage_key(stage: str, item: str | None = None) -> str:
    """16 hex digits of a hash of all that a stage's outputs depend on, in the current folder."""
    params = _read(Path("params.yaml"))
    entry = stage_entry(stage, item, params)
    known = {
        "format": FORMAT,
        "torch": version("torch"),
        "params": {key: _lookup(params, key) for key in entry.get("params", [])},
        "deps": {dep: _digest(dep) for dep in entry["deps"]},
        "item": item,
    }
    text = json.dumps(known, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
