"""Nested values, such as those of params.yaml, by their dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """All values with their dotted keys, in their order: ``("distill.lambda", 1.0)``, …

    Test sets (evaluate.sets), whose names the user chose, are one value.
    """
    for key, value in values.items():
        name = above + key
        if isinstance(value, Mapping) and name != "evaluate.sets":
            yield from leaves(value, f"{name}.")
        else:
            yield name, value
