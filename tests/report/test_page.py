"""The page: whole in itself, the same bytes twice, true to the files, calm without some."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report
from PIL import Image
from support import ROOT, one_line

from dgkd_core.config.params import load_params
from dgkd_core.config.presets import apply_preset
from dgkd_core.report.page import command
from dgkd_core.report.run import settings_of
from dgkd_core.runtime.state import State

Page = Callable[[], str]


class Reader(HTMLParser):
    """Gathers tags with their attributes, and text by the tag it is in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1][0] if self.tags else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def change(path: str, *keys: str, value: Any) -> None:
    """Another value in a JSON file."""
    content = json.loads(Path(path).read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    Path(path).write_text(json.dumps(content))


def test_the_page_needs_nothing_beside_it(page: Page) -> None:
    found = Reader(page())
    assert not [tag for tag, _ in found.tags if tag in ("script", "link", "iframe", "object")]
    assert len(found.all("img")) == 5
    for image in found.all("img"):
        source = image["src"] or ""
        assert source.startswith("data:image/webp;base64,")
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as opened:
            assert opened.size == (int(image["width"] or 0), int(image["height"] or 0))
        assert len(image["alt"] or "") > 20
    targets = {attributes.get("id") for _, attributes in found.tags}
    for link in found.all("a"):
        assert (link["href"] or "")[0] == "#"
        assert (link["href"] or "")[1:] in targets
    assert not [a for _, a in found.tags if any(key.startswith("on") for key in a)]
    assert "url(" not in page()


def test_the_stage_writes_the_page_the_same_twice(left: Path, page: Page, capsys: Any) -> None:
    first = page()
    report.report(load_params(), State("report"))
    assert Path("reports/index.html").read_text(encoding="utf-8") == first
    said = capsys.readouterr().out
    assert re.fullmatch(r"report: reports/index\.html, \d+ kB, to be opened in a browser\n", said)
    change("metrics/evaluate.json", "segmenter", "dark", value=72.51)
    assert page() != first


def test_names_are_text_and_numbers_those_of_the_files(page: Page) -> None:
    whole = page()
    found = Reader(whole)
    assert not found.all("b")
    odd = json.loads(Path("artifacts/prepare/classes.json").read_text())[11]
    assert odd.startswith("<b>dog</b> &")
    texts = [text for _, text in found.texts]
    assert texts.count(odd) >= 4  # classes, both sides, data
    for text in ("72.49", "66.83", "15.72", "1,464 pictures"):
        assert any(text in each for each in texts), text
    assert texts.count("31.2") == 3  # background: teacher, student, segmenter
    assert texts.count("80.0") == 21  # the diagonal
    shares = re.findall(r'style="--share:([\d.]+)"', whole)
    assert len(shares) == 21 * 21
    assert shares.count("80.0") == 21
    titles = re.findall(r"<figcaption><strong>(.+)</strong>", whole)
    assert titles == [
        "mIoU of the class maps on val, %",
        *("mIoU on val, %", "loss of the classes", "learning rate"),
        "distance from the teacher",
    ]
    assert whole.count("<polyline") == 2 + 3 + 2  # alike ones share a chart


def test_without_any_mask_nothing_is_scored_and_nothing_breaks(page: Page) -> None:
    for network, kinds in (("teacher", 3), ("student", 2), ("segmenter", 2)):
        for kind in ("normal", "dark", "dark_exposed")[:kinds]:
            change("metrics/evaluate.json", network, kind, value=None)
    for key in ("cam_miou", "pseudo_label_miou", "pseudo_label_miou_where_decided"):
        change("metrics/evaluate.json", "train", key, value=None)
    change("metrics/evaluate.json", "train", "scored_pictures", value=0)
    for name in ("sweep/cam", "sweep/refine", "confusion"):
        path = Path(f"metrics/{name}.csv")
        path.write_text(path.read_text().splitlines()[0] + "\n")
    for path in Path("artifacts/evaluate/examples").iterdir():
        path.unlink()
    found = page()
    assert "No val picture has a mask, so nothing is scored." in found
    text = " ".join(text for tag, text in Reader(found).texts if tag != "style")
    assert not re.search(r"\b(nan|None|null|Undefined)\b", text.split("All 1")[0])
    assert 'id="classes"' not in found
    assert 'id="threshold"' not in found
    assert len(Reader(found).all("img")) == 2
    hrefs = {link["href"] for link in Reader(found).all("a")}
    assert hrefs == {"#scores", "#pictures", "#training", "#data", "#settings", "#again"}


def test_a_run_without_daylight_or_curves_or_some_classes(page: Page) -> None:
    for network in ("teacher", "student", "segmenter"):
        content = json.loads(Path("metrics/evaluate.json").read_text())
        del content[network]["normal"]
        Path("metrics/evaluate.json").write_text(json.dumps(content))
    change("metrics/darken.json", "mean_luma", value={"dark": 9.4})
    change("metrics/darken.json", "noise_std", value=None)
    table = Path("metrics/per_class.csv")
    rows = [row for row in table.read_text().splitlines() if "normal" not in row]
    table.write_text("\n".join(re.sub(r"(dark,.*cat.*),.*", r"\1,", row) for row in rows) + "\n")
    shutil.rmtree("metrics/live")
    found = page()
    assert "Teacher, normal val" not in found
    assert "teacher, normal" not in found
    assert "mean luma, normal" not in found
    assert 'id="training"' not in found
    assert "#training" not in found
    assert "<td>–</td>" in found


def test_test_sets_are_shown(page: Page) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("sets: {} ", "sets: {night: ../night} "))
    one_line(page, "metrics/testset/night.json")
    Path("metrics/testset").mkdir()
    scores = {
        **{name: {"dark": 41.25} for name in ("teacher", "student", "segmenter")},
        "pictures": {"count": 9, "scored": 4},
    }
    Path("metrics/testset/night.json").write_text(json.dumps(scores))
    found = page()
    assert "Test set night" in found
    assert "9 pictures, 4 of them with a mask." in found
    assert found.count("<td>41.25</td>") == 3


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("metrics/evaluate.json", "{"),
        ("metrics/per_class.csv", ""),
        ("metrics/per_class.csv", "<<<<<<< HEAD\nnetwork,pictures,class,iou\n"),
        ("metrics/confusion.csv", "truth,share\ncat,1\n"),
        ("metrics/sweep/refine.csv", "threshold,miou\n0.1,high\n"),
        ("metrics/live/teacher/plots/metrics/loss/cls.tsv", "step\tcls\none\t2\n"),
        ("metrics/live/distill/plots/metrics/loss/kd_map.tsv", "epoch\tkd_map\n1\t2\n"),
        ("artifacts/evaluate/sheet.png", "no picture"),
        *((path, None) for path in ("artifacts/evaluate/examples", "artifacts/darken/preview.png")),
        ("metrics/refine.json", None),
    ],
)
def test_a_file_that_has_vanished_or_is_not_as_its_stage_writes_it_is_named(
    page: Page, path: str, content: str | None
) -> None:
    if content is not None:
        Path(path).write_text(content)
    else:
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
    one_line(page, path)


def test_a_sheet_that_is_too_high_for_webp_is_shrunk(page: Page) -> None:
    Image.new("RGB", (90, 20_000)).save("artifacts/evaluate/sheet.png")
    assert 'height="16383"' in page()


def test_the_command_makes_these_settings_from_any(left: Path) -> None:
    values = [
        *("seed=3", "distill.lambda=0.25", "lowlight.physical.ratio=[4, 16]", "model.dgf2=off"),
        *("data.kind=folder", "data.classes=[cat, it's a dog]", "refine.threshold=0.35"),
        *("depth.revision=null", "evaluate.sets={night: night photos}", "data.long_side=null"),
    ]
    apply_preset("scenes", values)
    wanted, defaults = load_params(), load_params("presets/scenes.yaml")
    words = shlex.split(command(settings_of(wanted, defaults)).replace("\\\n", " "))
    assert words[:3] == ["dgkd", "preset", "scenes"]
    apply_preset("scenes", ["seed=9"])
    apply_preset("scenes", words[3:])
    assert load_params() == wanted


def test_folders_of_this_machine_are_not_told(page: Page, left: Path) -> None:
    (left / "secret").mkdir()
    apply_preset("scenes", [f"data.depth_root={left}/secret", "evaluate.sets={}"])
    found = page()
    assert "…/secret" in found
    assert str(left) not in found
    assert str(ROOT) not in found
