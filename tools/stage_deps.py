"""Check dvc.yaml: what a stage imports lies in the folders that it lists as deps, and no others.

python tools/stage_deps.py    status 1 and a line for each difference
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent


@cache
def imported(path: Path) -> set[str]:
    """The dotted names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def modules_of(script: Path, root: Path = ROOT) -> list[str]:
    """The script and all project files that it imports, directly or through another one.

    Returns:
        sorted paths relative to ``root``; a package's ``__init__.py`` only where a file imports the
        package itself or a name from it.
    """
    found, todo = {script}, [script]
    while todo:
        for name in imported(todo.pop()):
            parts = name.split(".")
            for place in (root.joinpath(*parts), script.parent.joinpath(*parts)):
                path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
                if path.is_file() and path not in found:
                    found.add(path)
                    todo.append(path)
    return sorted(path.relative_to(root).as_posix() for path in found)


def differences(root: Path = ROOT) -> Iterator[str]:
    """A line for each module that a stage imports and does not list, and the other way round."""
    stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    for name, entry in stages.items():
        deps = entry.get("do", entry)["deps"]  # a stage that is repeated has them under `do`
        code = [dep for dep in deps if dep.startswith(("dgkd_core/", "stages/"))]
        modules = modules_of(root / "stages" / f"{name}.py", root)
        modules.remove("stages/_start.py")  # it finds the packages, and computes nothing
        for module in modules:
            if not any(module == dep or module.startswith(f"{dep}/") for dep in code):
                yield f"dvc.yaml: {name} imports {module}, expected its folder among the deps"
        for dep in code:
            if not any(module == dep or module.startswith(f"{dep}/") for module in modules):
                yield f"dvc.yaml: {name} lists {dep} among its deps, but imports nothing of it"


if __name__ == "__main__":
    sys.exit("\n".join(differences()) or None)
