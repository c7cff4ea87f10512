"""What a path in params.yaml means, also inside DVC's temporary experiment folders.

`dvc queue` and `dvc exp run --temp` check the project out into ``.dvc/tmp/exps/…``. A relative path
in params means the same there as in the project: it counts from the project's own root.
"""

from __future__ import annotations

import os
from pathlib import Path

ARTIFACTS = "artifacts"  # what stages write for each other, in the current folder


def project_root(folder: str | Path = ".") -> Path:
    """The project's root; for a temporary experiment folder the root that it was made from."""
    folder = Path(folder).resolve()
    parts = folder.parts
    for i in range(len(parts) - 3, 0, -1):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:i])
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


def link_for_experiments(path: str | Path, folder: str | Path = ".") -> bool:
    """Let DVC find ``path`` from its temporary experiment folders too; False where it cannot.

    DVC resolves a stage's dependencies itself, from the folder it runs in, so ``../x`` would mean
    ``.dvc/tmp/exps/x`` there. A symbolic link at that place leads to the real one. Absolute paths
    and paths inside the project (git or ``dvc add`` carries those) need none.
    """
    path, root = Path(path), project_root(folder)
    up = path.parts.count("..")
    if path.is_absolute() or not up:
        return True
    exps = root / ".dvc" / "tmp" / "exps"
    if not (root / ".dvc").is_dir() or path.parts[:up] != ("..",) * up or len(path.parts) == up:
        return False
    target = Path(os.path.normpath(root / Path(*path.parts[: up + 1])))
    for start in (exps / "tmp", exps / "standalone" / "tmp"):
        place = Path(os.path.normpath(start / Path(*path.parts[: up + 1])))
        if not place.is_relative_to(root / ".dvc" / "tmp"):
            return False
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists() and not place.is_symlink():
            place.symlink_to(target, target_is_directory=target.is_dir())
    return True
