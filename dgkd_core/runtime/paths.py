"""What a path in params.yaml means, also inside DVC's temporary experiment folders.

`dvc queue` and `dvc exp run --temp` check the project out into ``.dvc/tmp/exps/…``. To a stage a
relative path in params means the same there as in the project: it counts from the project's own
root. DVC itself, which watches the data, takes it from the temporary folder: so it finds there what
git and DVC carry along, and other data by an absolute path (`for_experiments`).
"""

from __future__ import annotations

import os
from pathlib import Path

ARTIFACTS = "artifacts"  # what stages write for each other, in the current folder


def project_root(folder: str | Path = ".") -> Path:
    """The project's root; for a temporary experiment folder the root that it was made from.

    The temporary folder is a checkout of the git repository, in which the project may lie deeper.
    """
    folder = Path(folder).resolve()
    parts = folder.parts
    for i in range(len(parts) - 3, 0, -1):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            top = folder  # of DVC there, as the other's is here
            while top.parent.name not in ("exps", "standalone") and not (top / ".dvc").is_dir():
                top = top.parent
            return Path(*parts[:i], folder.relative_to(top))
    return folder


def resolve(path: str | Path, folder: str | Path = ".") -> Path:
    """The file that ``path``, as written in params.yaml of ``folder``, stands for.

    A relative path inside the project that the experiment folder holds itself (because git or DVC
    tracks it) is taken from there, every other one from the project's root.
    """
    path = Path(path).expanduser()
    if path.is_absolute():
        return path
    folder = Path(folder).resolve()
    root = project_root(folder)
    inside = ".." not in path.parts
    if inside and (folder / path).exists():
        return folder / path
    return Path(os.path.normpath(root / path))


def for_experiments(path: str | Path, folder: str | Path = ".") -> str:
    """``path`` as params.yaml of ``folder`` is to hold it, for experiments to find it, too.

    Absolute where it leads out of the project, be it by a link; else as it was given.
    """
    found = resolve(path, folder)
    inside = found.resolve().is_relative_to(Path(folder).resolve())
    return str(path) if inside else str(found)
