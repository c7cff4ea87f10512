"""dvc.yaml's module dependencies are what the stages import."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from stage_deps import modules_of  # noqa: E402


def _tool(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "stage_deps.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_dvc_yaml_fits_the_imports() -> None:
    done = _tool(ROOT, "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


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


def test_every_module_of_a_stage_is_really_imported() -> None:
    """The packages' own list of what was imported says the same; but for sums over processes."""
    code = (
        "import sys, runpy\nsys.path.insert(0, 'stages')\n"
        "runpy.run_path('stages/darken.py', run_name='stage')\n"
        "files = {getattr(m, '__file__', None) or '' for m in list(sys.modules.values())}\n"
        "print('\\n'.join(sorted(files)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {
        Path(line).relative_to(ROOT).as_posix()
        for line in done.stdout.splitlines()
        if line.startswith(f"{ROOT}/") and "/.venv/" not in line
    }
    loaded = {name for name in loaded if not name.endswith("__init__.py")}
    loaded |= {"stages/darken.py", "dgkd_core/collectives.py"}
    assert loaded == set(modules_of(ROOT / "stages" / "darken.py"))


def test_a_difference_is_told_and_mended(tmp_path: Path) -> None:
    for name in ("dgkd_core", "stages", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "dvc.yaml").read_text()
    wrong = text.replace("      - dgkd_core/imaging/lowlight.py\n", "", 1)
    (tmp_path / "dvc.yaml").write_text(wrong)
    done = _tool(tmp_path, "--check")
    assert done.returncode == 1
    assert done.stderr.startswith("dvc.yaml: deps of darken differ from imports; run ")
    assert (tmp_path / "dvc.yaml").read_text() == wrong
    done = _tool(tmp_path)
    assert (done.returncode, done.stdout) == (0, "dvc.yaml: renewed the modules of darken\n")
    assert (tmp_path / "dvc.yaml").read_text() == text  # comments and all
    assert _tool(tmp_path, "--check").returncode == 0
