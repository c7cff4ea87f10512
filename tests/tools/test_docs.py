"""The documentation says what the code does: parameters, files, quoted lines, links."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import docs  # noqa: E402
from tools.sweeps.table import recorded, spread  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _tool(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "docs.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("dgkd_core", "docs", "presets", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    shutil.copy(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    return tmp_path


def test_the_pages_fit_what_defines_them() -> None:
    done = _tool(ROOT, "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_parameter_stands_on_its_page_and_on_those_of_its_readers() -> None:
    stages = docs.load_stages(ROOT)
    page = (ROOT / "docs/params.md").read_text()
    leaves = dict(docs.leaves(docs.load_defaults(ROOT)))
    assert len(leaves) > 100
    for leaf in leaves:
        assert f"| `{leaf}` | `" in page
        readers = docs.readers(stages, leaf)
        assert readers, leaf
        for stage in readers:
            assert f"| `{leaf}` | `" in (ROOT / f"docs/stages/{stage}.md").read_text()


def test_a_changed_meaning_is_told_and_mended(project: Path) -> None:
    sections = project / "dgkd_core/config/schema.py"
    text = sections.read_text()
    sections.write_text(text.replace("average with the mirrored picture", "look into a mirror"))
    done = _tool(project, "--check")
    assert done.returncode == 1
    assert done.stderr.startswith("docs: docs/params.md, docs/stages/cam.md, ")
    assert _tool(project).returncode == 0
    assert "look into a mirror" in (project / "docs/stages/cam.md").read_text()
    assert _tool(project, "--check").returncode == 0


def test_scores_are_renewed_and_not_compared(project: Path) -> None:
    metrics, page = project / "metrics/teacher.json", project / "docs/stages/teacher.md"
    metrics.write_text(
        '{"val": {"classification_map": 9, "iou": {"a": 1.5, "b": 2.5}, "miou": 2.25}}'
    )
    assert _tool(project, "--check").returncode == 0
    assert _tool(project).returncode == 0
    assert re.search(r"\| `val\.iou\.CLASS` \|.*\| 1\.50 to 2\.50 \|", page.read_text())
    assert re.search(r"\| `val\.miou` \|.*\| 2\.25 \|", page.read_text())
    metrics.write_text('{"val": {"miou": 2.5, "new": 1}}')
    assert (
        _tool(project).stderr
        == "docs: docs/stages/teacher.md: no row for val.new of metrics/teacher.json\n"
    )


def test_a_stage_without_a_page_is_told(project: Path) -> None:
    (project / "docs/stages/cam.md").unlink()
    done = _tool(project)
    assert done.returncode == 1
    assert done.stderr.endswith("cam.md: no such file, expected a page for the stage cam\n")


def _templates() -> list[re.Pattern[str]]:
    """Every string of the code that is long enough to be known again, its holes open."""
    found = []
    for path in [*(ROOT / "dgkd_core").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [
                part.value
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
                else None
                for part in parts
            ]
            if sum(len(text or "") for text in texts) >= 15:
                pattern = "".join(".*?" if text is None else re.escape(text) for text in texts)
                found.append(re.compile(pattern))
    return found


def test_every_line_that_is_quoted_is_one_that_the_code_can_say() -> None:
    stages = "|".join([*docs.load_stages(ROOT), "dgkd"])
    page = (ROOT / "docs/troubleshooting.md").read_text()
    quoted = re.findall(rf"^    (?:{stages}): (.*)$", page, re.MULTILINE)
    assert len(quoted) > 15
    templates = _templates()
    unknown = [line for line in quoted if not any(t.search(line) for t in templates)]
    assert unknown == []


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere_and_every_page_is_in_the_index() -> None:
    broken, linked = [], set()
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if re.match(r"\w+:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists() or (anchor and anchor not in _anchors(path)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
            if page == ROOT / "docs/README.md":
                linked.add(path)
    assert broken == []
    assert set(PAGES) - linked <= {ROOT / "docs/README.md"}


def test_the_scores_in_the_readme_are_those_of_the_committed_metrics() -> None:
    """Of the commit: whoever runs the chain again has other metrics in the folder."""
    words = ["git", "show", "HEAD:metrics/evaluate.json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no commit to compare with: {done.stderr.strip()}")
    scores, rows, spreads = json.loads(done.stdout), {}, []
    for line in (ROOT / "README.md").read_text().splitlines():
        if re.match(r"\| \**(teacher|student|segmenter) ", line):
            title, score, several = (cell.strip(" *") for cell in line.strip("|").split("|"))
            rows[title.split(" (")[0]] = float(score)
            spreads.append(several)
    assert rows == {
        "teacher in daylight": round(scores["teacher"]["normal"], 1),
        "teacher on the dark pictures as they are": round(scores["teacher"]["dark"], 1),
        "teacher on the dark pictures, brightened": round(scores["teacher"]["dark_exposed"], 1),
        "student on the dark pictures": round(scores["student"]["dark"], 1),
        "segmenter on the dark pictures": round(scores["segmenter"]["dark"], 1),
        "segmenter on the normal pictures": round(scores["segmenter"]["normal"], 1),
    }
    runs = recorded(ROOT / "docs/default.csv")
    assert len(runs) == 3
    networks = ["teacher_normal", "teacher_dark", "teacher_dark_exposed", "student_dark"]
    assert spreads == [spread(runs[c]) for c in [*networks, "segmenter_dark", "segmenter_normal"]]
