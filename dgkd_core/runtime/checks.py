"""What the readers of other people's data share: names of pictures, and problems in one error."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from dgkd_core.runtime.errors import InputError

SHOWN = 50
LONGEST_NAME = 200
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# what lists of classes by other tools begin with: "_background_", "__ignore__"
_NO_CLASSES = ("background", "bg", "ignore", "void", "unlabeled", "unlabelled")
_RAW = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .kdc .mef .mos .mrw .nef .nrw .orf "
    ".pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
)
RAW_SUFFIXES = tuple(_RAW.split())  # of cameras
# of photographs; those that PICTURE_SUFFIXES lack need an extra
PHOTO_SUFFIXES = (*PICTURE_SUFFIXES, ".heic", ".heif", ".hif", *RAW_SUFFIXES)
PHOTO_KINDS = f"{', '.join(PICTURE_SUFFIXES)}, HEIC or camera raw"
_ODD = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, line separators


def join_problems(problems: Sequence[str]) -> InputError:
    """All problems as one error, a line each: the first 50 in full, then how many more."""
    more = len(problems) - SHOWN
    tail = [f"… and {more} more problems"] if more > 0 else []
    return InputError("\n".join([*problems[:SHOWN], *tail]))


def shown(value: object) -> str:
    """A value from a file as it can be shown in one short line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def holds_control_characters(text: str) -> bool:
    """Line breaks and the like, or bytes that were no text; spaces of any kind are fine."""
    return any(unicodedata.category(character) in _ODD for character in text)


def name_problem(text: str) -> str | None:
    """Why ``text`` cannot be a picture's id or file name; None where it can.

    Spaces and letters of any script are fine.
    """
    if text.strip() in ("", ".", ".."):
        return "is no name"
    if "/" in text or "\\" in text:
        return "holds a path separator"
    if holds_control_characters(text):
        return "holds a control character"
    if len(text.encode()) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} bytes"
    return None


def class_problem(name: str) -> str | None:
    """Why ``name`` cannot be a class's; None where it can."""
    if holds_control_characters(name):
        return "holds a control character"
    if name != name.strip():
        return "begins or ends with a space"
    if ";" in name:
        return "holds ';', which joins several classes"
    if re.sub(r"[\W_]", "", name).casefold() in _NO_CLASSES:
        return "is no class: in masks 0 is the background and 255 does not count, neither is listed"
    return None


def normal_id(text: str) -> str:
    """A picture's id as it is compared: Unicode's NFC, since macOS writes file names as NFD."""
    return unicodedata.normalize("NFC", text)
