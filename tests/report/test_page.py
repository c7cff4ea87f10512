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
    """Gathers tags with their attributes, and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.images = [attributes for tag, attributes in self.tags if tag == "img"]
        self.links = {attributes["href"] for tag, attributes in self.tags if tag == "a"}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def change(path: str, edit: Callable[[Any], object]) -> None:
    """Edit what a JSON file holds."""
    content = json.loads(Path(path).read_text())
    edit(content)
    Path(path).write_text(json.dumps(content))


def test_the_page_needs_nothing_beside_it(page: Page) -> None:
    whole = page()
    found = Reader(whole)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in found.tags}
    assert not [a for _, a in found.tags if any(key.startswith("on") for key in a)]
    assert "url(" not in whole
    assert found.links <= {f"#{attributes.get('id')}" for _, attributes in found.tags}
    assert len(found.images) == 5
    for image in found.images:
        assert image["src"].startswith("data:image/webp;base64,")
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as opened:
            assert opened.size == (int(image["width"]), int(image["height"]))
        assert len(image["alt"]) > 20


def test_the_stage_writes_the_page_the_same_twice(page: Page, capsys: Any) -> None:
    first = page()
    report.report(load_params(), State("report"))
    assert Path("reports/index.html").read_text(encoding="utf-8") == first
    assert capsys.readouterr().out.startswith("report: reports/index.html, ")


def test_names_are_text_and_numbers_those_of_the_files(page: Page) -> None:
    whole = page()
    found = Reader(whole)
    assert "b" not in {tag for tag, _ in found.tags}
    odd = json.loads(Path("artifacts/prepare/classes.json").read_text())[11]
    assert odd.startswith("<b>dog</b> &")
    assert found.texts.count(odd) >= 4  # classes, both sides, data
    for text in ("72.49", "66.83", "15.72", "1,464 pictures", "on held-out scenes is 3.9 % of"):
        assert any(text in each for each in found.texts), text
    assert found.texts.count("31.2") == 3  # background: teacher, student, segmenter
    shares = re.findall(r'style="--share:([\d.]+)"', whole)
    assert len(shares) == 21 * 21
    assert shares.count("80.0") == found.texts.count("80.0") == 21  # the diagonal
    titles = re.findall(r"<figcaption><strong>(.+)</strong>", whole)
    assert titles == [
        "mIoU of the class maps on val, %",
        *("mIoU on val, %", "loss of the classes", "learning rate"),
        "distance from the teacher",
    ]
    assert whole.count("<polyline") == 2 + 3 + 2  # alike ones share a chart


def test_without_any_mask_nothing_is_scored_and_nothing_breaks(page: Page) -> None:
    def unscored(scores: dict[str, dict[str, Any]]) -> None:
        for values in scores.values():
            values.update(dict.fromkeys(values))
        scores["train"]["scored_pictures"] = 0

    change("metrics/evaluate.json", unscored)
    for name in ("sweep/cam", "sweep/refine", "confusion"):
        path = Path(f"metrics/{name}.csv")
        path.write_text(path.read_text().splitlines()[0] + "\n")
    for path in Path("artifacts/evaluate/examples").iterdir():
        path.unlink()
    found = Reader(page())
    text = " ".join(found.texts)
    assert "No val picture has a mask, so nothing is scored." in text
    assert not re.search(r"\b(nan|None|null|Undefined)\b", text.split("All 1")[0].split("}")[-1])
    assert len(found.images) == 2
    assert found.links == {"#scores", "#pictures", "#training", "#data", "#settings", "#again"}


def test_a_run_without_daylight_or_curves_or_some_classes(page: Page) -> None:
    def by_night(scores: dict[str, dict[str, Any]]) -> None:
        for values in scores.values():
            values.pop("normal", None)

    change("metrics/evaluate.json", by_night)
    change("metrics/darken.json", lambda found: found["mean_luma"].pop("normal"))
    change("metrics/darken.json", lambda found: found.update(noise_std=None))
    table = Path("metrics/per_class.csv")
    rows = [row for row in table.read_text().splitlines() if "normal" not in row]
    table.write_text("\n".join(re.sub(r"(dark,.*cat.*),.*", r"\1,", row) for row in rows) + "\n")
    shutil.rmtree("metrics/live")
    found = page()
    for text in ("Teacher, normal val", "teacher, normal", "mean luma, normal", "noise, standard"):
        assert text not in found
    assert "#training" not in found
    assert "<td>–</td>" in found


def test_test_sets_are_shown_and_a_large_sheet_is_shrunk(page: Page) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("sets: {} ", "sets: {night: ../night} "))
    one_line(page, "metrics/testset/night.json")
    Path("metrics/testset").mkdir()
    scores = {
        **{name: {"dark": 41.25} for name in ("teacher", "student", "segmenter")},
        "pictures": {"count": 9, "scored": 4},
    }
    Path("metrics/testset/night.json").write_text(json.dumps(scores))
    Image.new("RGB", (9, 20_000)).save("artifacts/evaluate/sheet.png")  # too high for WebP
    found = page()
    assert 'height="16383"' in found
    assert "Test set night" in found
    assert "9 pictures, 4 of them with a mask." in found
    assert found.count("<td>41.25</td>") == 3


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("metrics/evaluate.json", "{"),
        ("metrics/per_class.csv", ""),
        ("metrics/confusion.csv", "truth,share\ncat,1\n"),
        ("metrics/sweep/refine.csv", "threshold,miou\n0.1,high\n"),
        ("metrics/live/distill/plots/metrics/loss/kd_map.tsv", "epoch\tkd_map\n1\t2\n"),
        ("artifacts/evaluate/sheet.png", "no picture"),
        *((path, None) for path in ("artifacts/evaluate/examples", "artifacts/darken/preview.png")),
    ],
)
def test_a_file_that_has_vanished_or_is_not_as_its_stage_writes_it_is_named(
    page: Page, path: str, content: str | None
) -> None:
    Path(path).rename("gone")
    if content is not None:
        Path(path).write_text(content)
    one_line(page, path)


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
    apply_preset("scenes", words[3:])
    assert load_params() == wanted


def test_folders_of_this_machine_are_not_told_and_depth_that_is_not_used_is(
    page: Page, left: Path
) -> None:
    (left / "secret").mkdir()
    values = ["evaluate.sets={}", "depth.adapt.iterations=9", "model.dgf2=off"]
    apply_preset("scenes", [f"data.depth_root={left}/secret", *values])
    found = page()
    assert "…/secret" in found
    assert str(left) not in found
    assert str(ROOT) not in found
    for said in ("adapted to the dark", "The networks do not use it"):
        assert said in found
