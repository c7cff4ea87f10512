"""Texts that are made from Jinja's templates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def fill(
    template: Path,
    filters: dict[str, Callable[..., str]] | None = None,
    autoescape: bool = False,
    **values: Any,
) -> str:
    """The text of a template file with these values and filters; one that it lacks is an error.

    Args:
        autoescape: whether values become text in HTML.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(template.name).render(values)
