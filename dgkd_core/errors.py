"""The one error that a user is meant to read."""

from __future__ import annotations

_LONGEST = 200


class InputError(ValueError):
    """Something that the user gave is not usable.

    The message is one line: the file or key, what was found, what was expected. Stages and the
    command line print it without a traceback and exit with status 1.
    """


def reason(error: BaseException) -> str:
    """What a library's exception says, as a part of one line: short, nothing unprintable in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2]} …"
