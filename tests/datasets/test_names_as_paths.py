"""Params that would reach further than the data set, or into a file of a model, are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import one_line

from dgkd_core.config.params import load_params, validate

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "classes", ["\x1b[2J"]),
        ("data", "classes", [""]),
        ("data", "classes", ["a" * 300]),
        ("data", "classes", [f"c{i}" for i in range(255)]),
        ("data", "labels", "/etc/passwd"),
        *(("evaluate", "sets", {name: "x"}) for name in ("a; true", "../a", "a\n")),
        *(
            ("model", "backbone", name)
            for name in ("timm:hf-hub:x/y", "timm:x/y", "timm:local-dir:/etc", "resnet18;true")
        ),
    ],
)
def test_params_that_would_reach_further_are_refused(section: str, key: str, value: Any) -> None:
    values = load_params(ROOT / "params.yaml").model_dump(mode="json", by_alias=True)
    values["data"] |= {"kind": "folder", "classes": ["Katze und Hund", "犬　猫"]}
    validate(values)
    values[section][key] = value
    assert one_line(lambda: validate(values), f"{section}.{key}").isprintable()
