"""Small JSON files that come from others, checked against a type before anything believes them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from dgkd_core.runtime.checks import shown
from dgkd_core.runtime.errors import InputError, no_such_file
from dgkd_core.runtime.files import read_bytes

T = TypeVar("T")
MOST_BYTES = 1 << 20


def read_checked(path: Path, kind: type[T], what: str) -> T:
    """The ``kind``, a dataclass, that a JSON file holds, and no more than that.

    Args:
        what: what the file is, for whoever lacks it.

    Raises:
        InputError: it is missing, larger than `MOST_BYTES`, damaged or holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: {no_such_file(path)}, expected {what}")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(f"{path}: {size} bytes, expected at most {MOST_BYTES}")
    try:
        return TypeAdapter(kind).validate_json(read_bytes(path), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = shown(".".join(str(part) for part in first["loc"]))[1:-1] or "the file"
        whole = first["type"] in ("json_invalid", "missing", "extra_forbidden", "dataclass_type")
        found = key if whole else f"{key} is {shown(first['input'])}"
        said = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
        raise InputError(f"{path}: {found}: {said[0].lower()}{said[1:]}") from error
