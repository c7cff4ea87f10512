"""What a stage imports lies in the folders that dvc.yaml lists, in layers without a circle."""

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from stage_deps import differences, imported, modules_of  # noqa: E402


def test_dvc_yaml_fits_the_imports() -> None:
    assert list(differences()) == []


def test_a_difference_is_told(tmp_path: Path) -> None:
    for name in ("dgkd_core", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "dvc.yaml").read_text()
    wrong = text.replace("dgkd_core/lowlight\n", "dgkd_core/scenes\n", 1)
    (tmp_path / "dvc.yaml").write_text(wrong)
    told = list(differences(tmp_path))
    assert told[-1] == (
        "dvc.yaml: darken lists dgkd_core/scenes among its deps, but imports nothing of it"
    )
    assert told[0] == (
        "dvc.yaml: darken imports dgkd_core/lowlight/darkening.py, expected its folder among the "
        "deps"
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in {
        "stages/one.py": "import _start\nfrom pathlib import Path\nfrom core.a import x\n",
        "stages/_start.py": "import sys\n",
        "core/a.py": "def x():\n    from core import b\n    return b\n",
        "core/b.py": "import core.sub.c as c\nimport numpy\n",
        "core/sub/c.py": "from core.a import x\n",
        "core/unused.py": "import core.a\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_imports_are_followed_through_every_form(tree: Path) -> None:
    assert modules_of(tree / "stages" / "one.py", tree) == [
        "core/a.py",
        "core/b.py",
        "core/sub/c.py",
        "stages/_start.py",
        "stages/one.py",
    ]


def test_a_stage_that_imports_nothing_depends_on_itself(tree: Path) -> None:
    assert modules_of(tree / "stages" / "_start.py", tree) == ["stages/_start.py"]


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
    packages = {path.parent.name for path in (ROOT / "dgkd_core").glob("*/__init__.py")}
    assert packages == set(level)
    assert {path.name for path in (ROOT / "dgkd_core").glob("*.py")} == {
        "__init__.py",
        "__main__.py",
    }
    for file in (ROOT / "dgkd_core").glob("*/**/*.py"):
        package = file.relative_to(ROOT / "dgkd_core").parts[0]
        names = {name.split(".")[1] for name in imported(file) if name.startswith("dgkd_core.")}
        wrong = {n for n in names - {package} if n in level and level[n] >= level[package]}
        assert not wrong, f"{file}: imports {wrong}"
