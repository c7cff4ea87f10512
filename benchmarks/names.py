"""What can be measured: names of the command line, each with its cases.

Every case is measured in a process of its own: memory that an earlier one freed stays with the
process, and what a later one takes from there would not be seen.
"""

from __future__ import annotations

CASES: dict[str, tuple[str, ...]] = {
    "step": ("",),
    "train": ("",),
    "pamr": ("in training", "in refine", "as published"),
    "dist": ("map", "deep", "shallow"),
    "inference": ("",),
    "cam": ("",),
    "depth": ("",),
    "darken": ("", "in processes"),
    "data": ("first visit", "kept"),
    "export": ("PyTorch", "onnxruntime"),
}
DRAW = "draw"  # not measured: the pictures that the others work on
NO_PICTURES = ("pamr", "dist", "export")
SLOW = ", straightforward"  # of pamr's cases, where it is asked for


def cases(name: str, straightforward: bool) -> list[str]:
    """The cases of a benchmark, in the order of the table."""
    if name != "pamr" or not straightforward:
        return list(CASES[name])
    return [case + form for case in CASES[name] for form in ("", SLOW)]
