"""Keep each stage's module dependencies in dvc.yaml equal to what the stage imports.

    python tools/stage_deps.py            write them into dvc.yaml
    python tools/stage_deps.py --check    only compare, status 1 where they differ

A stage depends on its script and on every module of this project that it imports, directly or
through another one. Packages' own ``__init__.py`` hold a docstring only and are left out.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def modules_of(script: Path, root: Path = ROOT) -> list[str]:
    """The script and all project files that it imports, as sorted paths relative to ``root``."""
    found, todo = {script}, [script]
    while todo:
        for name in _imported(todo.pop()):
            for base in (root, script.parent):
                path = base / (name.replace(".", "/") + ".py")
                if path.is_file() and path not in found:
                    found.add(path)
                    todo.append(path)
    return sorted(path.relative_to(root).as_posix() for path in found)


def main() -> None:
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 100
    path = ROOT / "dvc.yaml"
    document = yaml.load(path)
    wrong = []
    for name, entry in document["stages"].items():
        stage = entry.get("do", entry)  # a stage that is repeated (foreach) has them under do
        expected = modules_of(ROOT / "stages" / f"{name}.py")
        given = [dep for dep in stage["deps"] if dep.endswith(".py")]
        if given != expected:
            wrong.append(name)
            others = [dep for dep in stage["deps"] if not dep.endswith(".py")]
            stage["deps"].clear()
            stage["deps"].extend(others + expected)
    if wrong and "--check" in sys.argv:
        sys.exit(f"dvc.yaml: deps of {', '.join(wrong)} differ from imports; run {Path(__file__)}")
    if wrong:
        with open(path, "w", encoding="utf-8") as file:
            yaml.dump(document, file)
        print(f"dvc.yaml: renewed the modules of {', '.join(wrong)}")


if __name__ == "__main__":
    main()
