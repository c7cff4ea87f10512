"""params.yaml as typed, validated values.

Every key must stand in params.yaml: there are no hidden defaults, so what DVC tracks is all there
is. The types, with ranges and descriptions, are in `dgkd_core.config.schema`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from dgkd_core.config.schema import Params
from dgkd_core.runtime.errors import InputError

_IN_QUOTES = "expected text, put it in quotes (YAML reads a number, a date or a truth value)"


def _annotation(location: Sequence[Any]) -> Any:
    """The type of what stands at a place in params.yaml; None where nothing may."""
    found: Any = Params
    for part in location:
        if get_origin(found) in (dict, list, tuple):
            found = get_args(found)[-1]
            continue
        fields = found.model_fields if _is_section(found) else {}
        field = next((f for name, f in fields.items() if part in (name, f.alias)), None)
        found = field.annotation if field else None
    return found


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _known_keys(location: Sequence[Any]) -> list[str]:
    section = _annotation(location)
    fields = section.model_fields if _is_section(section) else {}
    return [field.alias or name for name, field in fields.items()]


def _scalars(annotation: Any) -> set[type]:
    """The plain types that a type is made of."""
    if args := get_args(annotation):
        return set().union(*map(_scalars, args))
    return {annotation} if isinstance(annotation, type) else set()


def wants_text(location: Sequence[Any]) -> bool:
    """Whether text, and no number, belongs at a place in params.yaml, such as data, root."""
    kinds = _scalars(_annotation(location))
    return str in kinds and not kinds & {int, float, bool}


def _misread(values: Any, location: tuple[Any, ...] = ()) -> Iterator[str]:
    """A line for each name and date in which YAML read something else than its text."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list):
        items = enumerate(values)
    for part, value in items:
        key = ".".join(map(str, (*location, part)))
        if isinstance(values, dict) and not isinstance(part, str):
            yield f"{key} is a name: {_IN_QUOTES}"
        elif isinstance(value, date) and wants_text((*location, part)):
            yield f"{key} is {value}: {_IN_QUOTES}"
        else:
            yield from _misread(value, (*location, part))


def _explain(error: Any) -> str:
    location = tuple(part for part in error["loc"] if not str(part).startswith(("literal[", "con")))
    key = ".".join(str(part) for part in location if part not in ("float",)) or "the file"
    kind, message = error["type"], error["msg"]
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"{key}: unknown key, {hint}"
    if kind == "missing":
        return f"{key}: missing, every key must be given"
    message = message.removeprefix("Value error, ").replace("Input should be", "expected")
    if kind == "value_error":  # a section's names its key itself
        return f"{key}.{message}" if _known_keys(location) else f"{key}: {message}"
    shown = json.dumps(error["input"], default=str)
    if kind == "string_type" and isinstance(error["input"], bool | int | float):
        message = _IN_QUOTES
    return f"{key} is {shown[:80]}: {message[0].lower()}{message[1:]}"


def validate(values: Any, name: str = "params.yaml") -> Params:
    """Plain nested values, as parsed from YAML, to `Params`.

    Raises:
        InputError: one line per problem, each naming the key and what is allowed.
    """
    if not isinstance(values, dict):
        raise InputError(f"{name}: expected sections such as data: and teacher:")
    if lines := [f"{name}: {line}" for line in _misread(values)]:
        raise InputError("\n".join(lines))
    try:
        return Params.model_validate_json(json.dumps(values, default=str))  # str: YAML's dates
    except ValidationError as error:
        # a key with alternatives (auto or a number) has a problem for each of them
        found: dict[str, list[str]] = {}
        for problem in error.errors():
            text, _, expected = _explain(problem).partition(": expected ")
            found.setdefault(text, []).append(expected)
        lines = [
            f"{name}: {text}" + (f": expected {' or '.join(expected)}" if any(expected) else "")
            for text, expected in found.items()
        ]
        raise InputError("\n".join(lines)) from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from error


def _yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML file, in one line."""
    if isinstance(error, MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {' '.join(error.problem.split())}"
    return " ".join(str(error).split())


def read_yaml(path: Path, yaml: YAML) -> Any:
    """What a YAML file holds.

    Raises:
        InputError: it is missing or no YAML.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"))
        json.dumps(values, default=str, skipkeys=True)  # ValueError: it holds itself
        return values
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run from the project's root folder") from error
    except (YAMLError, ValueError, OSError, RecursionError) as error:  # ValueError: no such date
        raise InputError(f"{path}: not readable as YAML ({_yaml_problem(error)})") from error


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and validate params.yaml (YAML 1.2, so ``1e-4`` is a number)."""
    return validate(read_yaml(Path(path), YAML(typ="safe", pure=True)), str(path))
