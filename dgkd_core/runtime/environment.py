"""What the environment's DGKD_ variables say: where to compute and with how much, never what."""

from __future__ import annotations

import os
import sys

from dgkd_core.runtime.errors import InputError


def print_any_name() -> None:
    """Let standard output escape what its encoding lacks, such as a file name that is not UTF-8."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def whole(name: str, unit: str, least: int = 0) -> int | None:
    """The whole number in an environment variable; None where it is not set or empty.

    Raises:
        InputError: it is not a whole number of at least ``least``.
    """
    given = os.environ.get(name)
    if not given:
        return None
    if not given.isdecimal() or len(given) > 18 or int(given) < least:
        raise InputError(f"{name} is {given!r}, expected a whole number of {unit}, {least} or more")
    return int(given)


def amount(name: str, unit: str) -> float | None:
    """The finite number, 0 or more, in an environment variable; None where it is not set or empty.

    Raises:
        InputError: it is no such number.
    """
    given = os.environ.get(name)
    if not given:
        return None
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"{name} is {given!r}, expected a number of {unit}, 0 or more")
    return value


def wanted_device() -> str:
    """DGKD_DEVICE, such as ``cpu`` or ``cuda:1``; else cuda where torch finds it, else cpu."""
    import torch  # not for stages that compute without it

    return os.environ.get("DGKD_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
