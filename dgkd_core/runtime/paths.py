"""What a path in params.yaml means, also inside DVC's temporary experiment folders.

`dvc queue` and `dvc exp run --temp` check the project out into ``.dvc/tmp/exps/…``. To a stage a
relative path in params means the same there as in the project: it counts from the project's own
root. DVC itself, which watches the data, takes it from the temporary folder: so it finds there what
git and DVC carry along, and other data by an absolute path (`for_experiments`).
"""

from __future__ import annotations

import os
from pathlib import Path

from dgkd_core.runtime.errors import InputError

ARTIFACTS = "artifacts"  # what stages write for each other, in the current folder


def with_home(path: str | Path) -> Path:
    """``path`` with a ``~`` at its beginning written out.

    Raises:
        InputError: it names a user who does not exist.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: no such user, expected ./{path} for a name with ~") from error


def project_root() -> Path:
    """The current project's root; in a temporary experiment folder, that which it was made from.

    The temporary folder is a checkout of the git repository, in which the project may lie deeper.
    """
    folder = Path.cwd()
    parts = folder.parts
    for i in range(len(parts) - 3, 0, -1):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            top = folder  # of DVC there, as the other's is here
            while top.parent.name not in ("exps", "standalone") and not (top / ".dvc").is_dir():
                top = top.parent
            return Path(*parts[:i], folder.relative_to(top))
    return folder


def resolve(path: str | Path) -> Path:
    """The file that ``path``, as written in params.yaml of the current folder, stands for.

    A relative path inside the project that the experiment folder holds itself (because git or DVC
    tracks it) is taken from there, every other one from the project's root.
    """
    path = with_home(path)
    if path.is_absolute():
        return path
    if ".." not in path.parts and path.exists():
        return Path.cwd() / path
    return Path(os.path.normpath(project_root() / path))


def for_experiments(path: str) -> str:
    """``path`` as params.yaml is to hold it, for experiments to find it, too.

    Absolute where it leads out of the project, be it by a link; else as it was given.
    """
    found = resolve(path)
    return path if found.resolve().is_relative_to(Path.cwd()) else str(found)
