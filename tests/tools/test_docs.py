"""The documentation says what the code does: parameters, files, quoted lines, links, scores."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import ROOT

from tools import docs
from tools.sweeps.table import recorded, spread

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that the tool reads and writes."""
    for name in ("docs", "presets", "metrics"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    return tmp_path


def _refused(*arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        docs.main(arguments)
    return str(ended.value)


def test_the_pages_fit_what_defines_them() -> None:
    docs.main(["--check"])


def test_a_page_that_differs_is_told_and_mended_and_one_that_is_missing_is_told(
    project: Path,
) -> None:
    page = project / "docs/stages/cam.md"
    right = page.read_text()
    page.write_text(right.replace("average with the mirrored picture", "look into a mirror"))
    said = "docs: docs/stages/cam.md differ from what defines them; run `make docs`"
    assert _refused("--check") == said
    docs.main([])
    assert page.read_text() == right
    docs.main(["--check"])
    page.unlink()
    said = f"docs: {page}: no such file, expected a page for the stage cam"
    assert _refused() == said
    page.with_name("came.md").write_text(right)
    page.write_text(right)
    assert _refused() == f"docs: {page.with_name('came.md')}: dvc.yaml has no stage came"


def test_scores_are_renewed_and_not_compared(project: Path) -> None:
    metrics, page = project / "metrics/teacher.json", project / "docs/stages/teacher.md"
    val = {"classification_map": 9, "iou": {"a": 1.5, "b": 2.5}, "miou": 2.25}
    metrics.write_text(json.dumps({"val": val}))
    docs.main(["--check"])
    docs.main([])
    assert re.search(r"\| `val\.iou\.CLASS` \|.*\| 1\.50 to 2\.50 \|", page.read_text())
    assert re.search(r"\| `val\.miou` \|.*\| 2\.25 \|", page.read_text())
    metrics.write_text('{"val": {"miou": 2.5, "new": 1}}')
    said = "docs: docs/stages/teacher.md: no row for val.new of metrics/teacher.json"
    assert _refused() == said


def _templates() -> list[re.Pattern[str]]:
    """Every string of the code that is long enough to be known again, its holes open."""
    found = []
    for path in [*(ROOT / "dgkd_core").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            values = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            texts = [value if isinstance(value, str) else None for value in values]
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
    assert [line for line in quoted if not any(t.search(line) for t in templates)] == []


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere_and_every_page_is_in_the_index() -> None:
    broken, linked = [], {ROOT / "docs/README.md"}
    for page in PAGES:
        for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text()):
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists() or (anchor and anchor not in _anchors(path)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
            if page == ROOT / "docs/README.md":
                linked.add(path)
    assert broken == []
    assert set(PAGES) <= linked


def test_the_scores_in_the_readme_are_those_of_the_committed_metrics() -> None:
    """Of the commit: whoever runs the chain again has other metrics in the folder."""
    words = ["git", "show", "HEAD:metrics/evaluate.json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no commit to compare with: {done.stderr.strip()}")
    scores, runs = json.loads(done.stdout), recorded(ROOT / "docs/default.csv")
    assert len(runs) == 7
    rows = re.findall(
        r"^\| \**(?:teacher|student|segmenter) .*\| (.*) \| (.*) \|$",
        (ROOT / "README.md").read_text(),
        re.MULTILINE,
    )
    columns = [
        *("teacher.normal", "teacher.dark", "teacher.dark_exposed"),
        *("student.dark", "segmenter.dark", "segmenter.normal"),
    ]
    expected = []
    for column in columns:
        network, pictures = column.split(".")
        several = spread(runs[column.replace(".", "_")])
        expected.append((f"{scores[network][pictures]:.1f}", several))
    assert rows == expected
