"""Texts that are made from the templates in this folder, ``*.jinja``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def fill(name: str, filters: dict[str, Callable[..., str]] | None = None, **values: Any) -> str:
    """The text of the template ``name`` with these values and filters; one it lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(name).render(values)
