"""The one error that a user is meant to read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 200
# what torch says on a CPU, on CUDA and on MPS; NumPy's error is a MemoryError
_TORCH_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
_AMOUNT = re.compile(
    r"(?:tried to allocate|Unable to allocate) ([\d.]+ ?[KMGTP]?i?B(?:ytes)?)", re.IGNORECASE
)


class InputError(ValueError):
    """Something that the user gave is not usable.

    The message is one line: the file or key, what was found, what was expected. Stages and the
    command line print it without a traceback and exit with status 1.
    """


class OutOfMemory(InputError):
    """Memory did not suffice."""


def no_such_file(path: Path) -> str:
    """What to say of a file that is not there; of a link into DVC's cache that was copied, too."""
    if not path.is_symlink():
        return "no such file"
    return f"a link to {os.readlink(path)}, which is not there (`cp -rL` copies files, not links)"


def reason(error: BaseException) -> str:
    """What a library's exception says, as a part of one line: short, nothing unprintable in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2]} …"


@contextmanager
def enough_memory(advice: str = "") -> Iterator[None]:
    """Raise OutOfMemory, one line that ends with ``advice``, where a library has too little memory.

    Other errors pass as they are.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not _TORCH_MEMORY.search(text):
            raise
        where = " of the GPU" if "CUDA" in text or "MPS" in text else ""
        wanted = _AMOUNT.search(text)
        more = f" (another {wanted[1]} were asked for)" if wanted else ""
        raise OutOfMemory(f"out of memory{where}{more}{advice}") from error
