"""The one error that a user is meant to read."""


class InputError(ValueError):
    """Something that the user gave is not usable.

    The message is one line: the file or key, what was found, what was expected. Stages and the
    command line print it without a traceback and exit with status 1.
    """
