"""What a stage imports lies in the folders that dvc.yaml lists, in layers without a circle."""

from __future__ import annotations

import shutil
from graphlib import TopologicalSorter
from pathlib import Path

from support import ROOT

from tools.stage_deps import differences, imported

CORE = ROOT / "dgkd_core"


def test_dvc_yaml_fits_the_imports() -> None:
    assert list(differences()) == []


def test_a_difference_is_told(tmp_path: Path) -> None:
    for name in ("dgkd_core", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "dvc.yaml").read_text()
    wrong = text.replace("dgkd_core/lowlight\n", "dgkd_core/scenes\n", 1)
    (tmp_path / "dvc.yaml").write_text(wrong)
    first, *_, last = differences(tmp_path)
    said = "darken imports dgkd_core/lowlight/darkening.py, expected its folder among the deps"
    assert first == f"dvc.yaml: {said}"
    said = "darken lists dgkd_core/scenes among its deps, but imports nothing of it"
    assert last == f"dvc.yaml: {said}"


def test_packages_import_each_other_in_one_direction() -> None:
    """Layers from the bottom; what stands in one line knows nothing of its neighbours."""
    layers = [
        {"runtime"},
        {"config", "imaging", "scenes"},
        {"data", "models"},
        {"datasets", "lowlight", "depth", "distill", "evaluation", "report"},
        {"training", "pseudo_labels", "convert", "deploy"},
        {"pipeline", "cli"},
    ]
    level = {package: i for i, layer in enumerate(layers) for package in layer}
    assert {path.parent.name for path in CORE.glob("*/__init__.py")} == set(level)
    assert {path.name for path in CORE.glob("*.py")} == {"__init__.py", "__main__.py"}
    for file in CORE.rglob("*.py"):
        assert not {n.split(".")[0] for n in imported(file)} & {"stages", "tools", "benchmarks"}
    for file in CORE.glob("*/**/*.py"):
        package = file.relative_to(CORE).parts[0]
        names = {name.split(".")[1] for name in imported(file) if name.startswith("dgkd_core.")}
        wrong = {n for n in names - {package} if n in level and level[n] >= level[package]}
        assert not wrong, f"{file}: imports {wrong}"


def test_modules_import_each_other_without_a_circle() -> None:
    """Also inside a package, and what a function imports when it is called."""
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in CORE.rglob("*.py")
    }
    graph = {name: imported(file) & modules.keys() for name, file in modules.items()}
    TopologicalSorter(graph).prepare()  # a CycleError names the circle
