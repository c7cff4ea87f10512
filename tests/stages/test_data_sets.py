"""The whole chain on data sets of a user's own: pairs, dark pictures alone, no masks, odd sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import testset
from PIL import Image
from support import copy_built, one_line, read_live

from dgkd_core.config.params import load_params
from dgkd_core.config.presets import apply_preset
from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.pack import Pack
from dgkd_core.data.pictures import decode_mask, decode_rgb
from dgkd_core.data.store import Store
from dgkd_core.evaluation import networks
from dgkd_core.lowlight.synthesis import darken_simple, picture_rng
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import sha256
from dgkd_core.runtime.state import State
from dgkd_core.scenes import drawing

Run = Callable[..., None]
CLASSES = list(drawing.CLASSES)
UP_TO_DEPTH = ("prepare", "darken", "depth_model", "depth_adapt", "depth")
IN_THE_DARK = (
    *("teacher.model=elsewhere", "distill.lambda=0"),
    *("cam.source=student", "refine.guide=dark"),
)
AFTER_TEACHER = ("distill", "cam", "refine", "segment", "evaluate", "report")
DARK = {"alpha": (0.9, 1.0), "beta": (0.05, 0.08), "gamma": (1.0, 1.2), "noise": 0.002}


def make(root: Path, kinds: tuple[str, ...], masks: bool = True, count: int = 8) -> Path:
    """A folder data set of scenes: two of every eight pictures are val."""
    rows = ["id,labels,split"]
    for name in ("normal", "dark", "masks"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        scene, id_ = drawing.render(3, "mine", index, 48), f"é {index}"
        split = "val" if index % 4 == 3 else "train"
        night = darken_simple(scene.image, picture_rng(0, id_), **DARK)
        if "normal" in kinds:
            Image.fromarray(scene.image).save(root / "normal" / f"{id_}.jpg", quality=95)
        if "dark" in kinds:
            Image.fromarray(night.image).save(root / "dark" / f"{id_}.png")
        if masks and split == "val":
            Image.fromarray(scene.mask).save(root / "masks" / f"{id_}.png")
        labels = ";".join(drawing.CLASSES[k - 1] for k in scene.labels)
        rows.append(f"{id_},{labels},{split}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def choose(*values: str) -> None:
    """The tiny preset over the default params, with the data set in mine/."""
    folder = ["data.kind=folder", "data.root=mine", f"data.classes=[{', '.join(CLASSES)}]"]
    apply_preset("scenes", [])
    apply_preset("tiny", [*folder, "depth.model=gradient", *values])


def metrics(stage: str) -> Any:
    return json.loads(Path(f"metrics/{stage}.json").read_text())


def page() -> str:
    return Path("reports/index.html").read_text(encoding="utf-8")


@pytest.mark.full
def test_real_pairs_of_which_one_has_a_mask(
    project: Path, run_stages: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make(project / "mine", ("normal", "dark"))
    (root / "masks" / "é 3.png").unlink()
    choose("cam.source=mean", "refine.guide=normal")
    run_stages(*UP_TO_DEPTH, "teacher", *AFTER_TEACHER)
    assert "prepare: 1 of 2 val pictures have a mask and are scored" in capsys.readouterr().out
    dark = Pack(Path("artifacts/darken/dark.zip"))
    for entry in read_manifest("artifacts/prepare").entries:
        mine = np.asarray(Image.open(root / "dark" / f"{entry.id}.png"))
        assert (decode_rgb(dark.read(f"{entry.id}.png"), entry.id) == mine).all()
    assert metrics("darken")["noise_std"] is None
    assert metrics("darken")["mean_luma"]["dark"] < 20
    assert set(metrics("evaluate")["segmenter"]) == {"normal", "dark"}
    assert metrics("evaluate")["segmenter"]["dark"] is not None
    examples = [path.read_bytes() for path in Path("artifacts/evaluate/examples").iterdir()]
    assert len(examples) == 3
    assert len(set(examples)) == 1  # of the one picture that has a mask


@pytest.mark.full
def test_dark_pictures_alone_and_a_teacher_from_elsewhere(
    project: Path, run_stages: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    make(project / "mine", ("normal",))
    choose()
    run_stages(*UP_TO_DEPTH, "teacher")
    shutil.copytree("artifacts/teacher", "elsewhere")
    choose("segment.teacher=elsewhere", "segment.init=weights")
    words = "elsewhere: a network for", "segment.teacher expects a segmenter"
    one_line(lambda: run_stages("segment"), *words)
    shutil.rmtree(project / "mine")
    make(project / "mine", ("dark",))
    none = (
        "which needs normal-light pictures, but 6 of 6 train pictures have none (é 0 is the first)"
    )
    every = none.replace("6 of 6 train", "8 of 8 train and val")
    choose()
    with pytest.raises(InputError) as caught:
        run_stages("prepare")
    assert str(caught.value).splitlines() == [
        f"teacher.model is null, {none}",
        f"distill.lambda is 1.0, {none}",
        f"cam.source is mean, {every}",
        f"refine.guide is normal, {every}",
    ]
    capsys.readouterr()
    choose(*IN_THE_DARK)
    run_stages("prepare", "darken", "depth_model", "depth_adapt", "depth")
    said = capsys.readouterr().out
    assert "prepare: no normal-light pictures to train on: the teacher is taken over" in said
    assert "prepare: no normal-light val pictures: networks are scored in the dark only" in said
    assert "nan" not in said

    # what cannot run says so in one line, each by the key that asks for it
    choose()
    assert one_line(lambda: run_stages("teacher")) == f"teacher.model is null, {none}"
    choose("teacher.model=elsewhere")
    run_stages("teacher")
    assert one_line(lambda: run_stages("distill")) == f"distill.lambda is 1.0, {none}"
    choose(*IN_THE_DARK, "cam.source=mean")
    run_stages("teacher", "distill")
    one_line(lambda: run_stages("cam"), "cam.source is mean, which needs normal-light pictures")
    choose(*IN_THE_DARK, "refine.guide=normal")
    run_stages("cam")
    one_line(lambda: run_stages("refine"), "refine.guide is normal, which needs normal-light")

    # so does a network from elsewhere that is another one
    choose(*IN_THE_DARK, f"data.classes=[{', '.join(reversed(CLASSES))}]")
    run_stages("prepare")
    one_line(lambda: run_stages("teacher"), "elsewhere", "a network for ball,", "expects a network")
    one_line(lambda: choose("teacher.model=nowhere"), "teacher.model", "nowhere is not a folder")
    choose(*IN_THE_DARK)
    run_stages("prepare")
    config = Path("elsewhere/model.json")
    text = config.read_text()
    config.write_text(f"{text}\n")
    one_line(lambda: run_stages("teacher"), "elsewhere", "teacher.model_sha256 expects")
    config.write_text(text)

    # and what can, does
    run_stages("teacher", *AFTER_TEACHER)
    evaluated = metrics("evaluate")
    assert set(evaluated["segmenter"]) == {"dark"}
    assert "Teacher, normal val" not in page()
    assert "Teacher, on normal pictures" not in page()  # no curve
    assert set(evaluated["teacher"]) == {"dark", "dark_exposed"}
    assert sha256("artifacts/teacher/model.safetensors") == sha256("elsewhere/model.safetensors")


@pytest.mark.full
def test_no_mask_at_all(project: Path, run_stages: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make(project / "mine", ("normal", "dark"), masks=False)
    choose()
    one_line(lambda: run_stages("prepare"), "refine.threshold is auto, but no val picture has a")
    choose("refine.threshold=0.3")
    run_stages(*UP_TO_DEPTH, "teacher")
    choose("refine.threshold=0.3", "distill.keep=best")
    one_line(lambda: run_stages("distill"), "distill.keep is best, but no val picture has a mask")
    choose("refine.threshold=0.3")
    run_stages("distill", "cam")
    said = capsys.readouterr().out
    assert "prepare: no val picture has a mask: nothing is scored" in said
    assert "val after step" not in said
    for stage in ("teacher", "distill"):
        assert "val/miou" not in read_live(project, stage)
    shows = "has a mask that shows a class,"
    assert f"teacher: no normal val picture {shows} the teacher is not scored" in said
    assert f"cam: no val picture {shows} the class maps are not scored" in said
    choose()
    one_line(lambda: run_stages("refine"), "refine.threshold is auto, but no val picture has a")
    choose("refine.threshold=0.3")
    run_stages("refine", "segment", "evaluate", "report")
    said = capsys.readouterr().out
    assert f"evaluate: no val picture {shows} nothing is scored" in said
    assert metrics("evaluate")["segmenter"] == {"dark": None, "normal": None}
    assert len(Pack(Path("artifacts/evaluate/predictions.zip"))) == 2
    assert Path("artifacts/evaluate/sheet.png").is_file()
    assert list(Path("artifacts/evaluate/examples").iterdir()) == []
    assert Path("metrics/sweep/cam.csv").read_text() == "threshold,miou\n"
    assert Path("metrics/confusion.csv").read_text() == "truth,predicted,share\n"
    assert "so nothing is scored" in page()


def add(root: Path, id_: str, split: str, size: tuple[int, int]) -> None:
    """A picture of any size that shows stripes, and its mask: a ball on the left half."""
    width, height = size
    row = np.linspace(20, 230, width).astype(np.uint8)
    image = np.repeat(np.stack([row, row[::-1], row], 1)[None], height, 0)
    Image.fromarray(image).save(root / f"normal/{id_}.png")
    mask = np.zeros((height, width), np.uint8)
    mask[:, : (width + 1) // 2] = 1
    Image.fromarray(mask).save(root / f"masks/{id_}.png")
    with open(root / "labels.csv", "a", encoding="utf-8") as table:
        table.write(f"{id_},ball,{split}\n")


SIZES = {
    **{"one wide": (1, 40), "one high": (40, 1), "one pixel": (1, 1)},
    **{"long": (400, 5), "tall": (3, 300), "smaller than the crop": (20, 17)},
}


@pytest.mark.full
def test_pictures_of_odd_sizes_go_through_the_whole_chain(project: Path, run_stages: Run) -> None:
    root = make(project / "mine", ("normal",), count=4)
    for name, size in SIZES.items():
        for split in ("train", "val"):
            add(root, f"{name} {split}", split, size)
    choose("depth.model=scenes", "refine.dilations=[1, 2, 4, 8]", "cam.scales=[1.0, 0.5, 1.5]")
    run_stages(*UP_TO_DEPTH, "teacher", *AFTER_TEACHER)
    predictions = Pack(Path("artifacts/evaluate/predictions.zip"))
    for name, (width, height) in SIZES.items():
        assert decode_mask(predictions.read(f"{name} val.png"), name).shape == (height, width)


@pytest.mark.full
def test_further_test_sets(
    chain: Path, tmp_path: Path, run_stages: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_built(chain, tmp_path / "copy")
    monkeypatch.chdir(folder)
    made = make(tmp_path / "made", ("dark",))
    night = made.rename(tmp_path / "night") / "dark"
    for name in ("masks", "labels.csv"):
        shutil.move(night.with_name(name), night / name)
    few = tmp_path / "few.txt"
    few.write_text("night/dark/é 3.png\nnight/dark/é 0.png\n", encoding="utf-8")
    apply_preset("tiny", [f"evaluate.sets={{dusk: {night}, few: {few}}}"])
    for name in ("dusk", "few"):
        testset.testset(name, load_params(), State("testset", name))
    run_stages("report")
    assert "2 pictures, 0 of them with a mask" in page()
    dusk, two = metrics("testset/dusk"), metrics("testset/few")
    assert dusk["pictures"] == {"count": 8, "scored": 2}
    assert two["pictures"] == {"count": 2, "scored": 0}
    assert set(dusk["segmenter"]) == {"dark"}
    assert dusk["segmenter"]["dark"] is not None
    assert two["segmenter"]["dark"] is None
    assert len(Pack(Path("artifacts/testset/few/predictions.zip"))) == 2
    assert Path("artifacts/testset/dusk/sheet.png").is_file()


@pytest.mark.full
def test_no_depth_where_no_network_reads_it(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy_built(chain, tmp_path / "copy"))
    root, depth = Path("artifacts"), Path("artifacts/depth/depth.zip")
    assert networks.depth_pack(depth) == depth
    config = root / "segmenter/model.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dgf2": "off"}))
    assert networks.depth_pack(depth) is None
    manifest = read_manifest(root / "prepare")
    packs = networks.PackPaths(
        images=root / "prepare/images.zip",
        dark=root / "darken/dark.zip",
        truth=root / "prepare/masks_val.zip",
        depth=depth,
    )
    found = []
    for some in (packs, replace(packs, depth=None)):
        gallery = networks.Gallery(manifest, some, Store(), root / "evaluate/predictions.zip")
        found.append(list(gallery.tiles(manifest.split("val")[0])))
        gallery.write_sheet(tmp_path / "sheet.png", 2)
    assert found[1] == [title for title in found[0] if title != "depth"] != found[0]
