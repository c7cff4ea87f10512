"""From a data set's files to packs: masks renumbered, problems together, nothing half written."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from dgkd_core.data.manifest import Entry, read_manifest
from dgkd_core.data.pack import Pack
from dgkd_core.data.pictures import decode_mask, decode_rgb
from dgkd_core.datasets.ingest import Item, file_items, scene_items, write_data_set
from dgkd_core.datasets.voc import CLASSES, read_voc
from dgkd_core.runtime import checks
from dgkd_core.runtime.errors import InputError
from dgkd_core.scenes import drawing

OUTPUTS = [
    *("classes.json", "dark.zip", "images.zip", "manifest.csv"),
    *("masks_train.zip", "masks_val.zip"),
]


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKD_WORKERS", "1")


def _items(tree: Any, classes: tuple[str, ...] = CLASSES) -> Iterator[Item | InputError]:
    found = read_voc(tree.root, classes, "train", "val")
    yield from (InputError(problem) for problem in found.problems)
    yield from file_items(found.sources, classes, None)


def test_a_voc_tree_becomes_packs(voc_tree: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest, _ = write_data_set(out, CLASSES, _items(voc_tree))
    assert sorted(p.name for p in out.iterdir()) == OUTPUTS
    assert read_manifest(out) == manifest
    assert manifest.entries[0] == Entry("t1", "train", ("cat", "dog"), 12, 8, "t1.jpg")
    images = Pack(out / "images.zip")
    assert images.names() == ["t1.jpg", "t2.jpg", "t3.jpg", "v1.jpg"]
    assert images.read("t1.jpg") == voc_tree.image_path("t1").read_bytes()
    assert Pack(out / "masks_train.zip").names() == ["t1.png", "t2.png", "t3.png"]
    masks = Pack(out / "masks_val.zip")
    assert masks.names() == ["v1.png"]
    assert (decode_mask(masks.read("v1.png"), "v1") == voc_tree.mask([12])).all()


def test_a_subset_renumbers_masks_and_ignores_the_rest(voc_tree: Any, tmp_path: Path) -> None:
    classes = ("person", "dog")
    manifest, _ = write_data_set(tmp_path / "out", classes, _items(voc_tree, classes))
    assert manifest.classes == classes
    masks = Pack(tmp_path / "out" / "masks_train.zip")
    assert masks.names() == ["t1.png", "t2.png"]
    mask = decode_mask(masks.read("t1.png"), "t1")  # of cat (8) and dog (12)
    before = voc_tree.mask([8, 12])
    assert (mask[before == 12] == 2).all()
    assert (mask[before == 8] == 255).all()
    assert (mask[before == 255] == 255).all()
    assert (mask[before == 0] == 0).all()
    assert set(np.unique(decode_mask(masks.read("t2.png"), "t2"))) == {0, 1, 255}


def test_the_same_bytes_every_time_and_for_any_number_of_processes(
    voc_tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data_set(tmp_path / "one", CLASSES, _items(voc_tree))
    monkeypatch.setenv("DGKD_WORKERS", "2")
    write_data_set(tmp_path / "two", CLASSES, _items(voc_tree))
    for name in OUTPUTS:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_very_many_problems_are_counted(tmp_path: Path) -> None:
    problems = [InputError(f"p{i}") for i in range(checks.SHOWN + 7)]
    with pytest.raises(InputError) as caught:
        write_data_set(tmp_path, CLASSES, problems)
    lines = str(caught.value).splitlines()
    assert lines[:50] == [f"p{i}" for i in range(50)]
    assert lines[50:] == ["… and 7 more problems"]


def test_a_split_without_pictures_is_refused(voc_tree: Any, tmp_path: Path) -> None:
    sources = read_voc(voc_tree.root, CLASSES, "train", "val").sources
    items = [i for i in file_items(sources, CLASSES, None) if isinstance(i, Item)]
    for missing in ("train", "val"):
        others = [item for item in items if item.entry.split != missing]
        with pytest.raises(InputError, match=f"^no {missing} picture is left, expected at least"):
            write_data_set(tmp_path / "out", CLASSES, others)


def test_a_mask_that_shows_nothing_is_named_where_others_are_good(
    voc_tree: Any, tmp_path: Path
) -> None:
    voc_tree.add("v2", ["cat"])
    voc_tree.write_list("val", ["v1", "v2"])
    _, notes = write_data_set(tmp_path, CLASSES, _items(voc_tree))
    assert notes == ["1 picture: its mask shows none of the classes that its labels name (v2)"]


def test_a_turned_photo_is_stored_upright(voc_tree: Any, tmp_path: Path) -> None:
    wide = np.zeros((12, 8, 3), np.uint8)
    wide[:6] = 200  # the camera lay on its side: 12 high and 8 wide in the file
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turn clockwise to see it upright
    Image.fromarray(wide).save(voc_tree.image_path("t1"), "JPEG", exif=exif, quality=95)
    manifest, _ = write_data_set(tmp_path / "out", CLASSES, _items(voc_tree))
    entry = manifest.entries[0]
    assert (entry.image, entry.width, entry.height) == ("t1.png", 12, 8)
    stored = decode_rgb(Pack(tmp_path / "out" / "images.zip").read("t1.png"), "t1")
    assert stored.shape == (8, 12, 3)
    assert stored[:, 7:].min() > 150  # the top is on the right now
    assert stored[:, :5].max() < 50


def test_a_grey_photo_is_stored_as_rgb(voc_tree: Any, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 12), 77, np.uint8)).save(voc_tree.image_path("t1"), "JPEG")
    write_data_set(tmp_path / "out", CLASSES, _items(voc_tree))
    content = Pack(tmp_path / "out" / "images.zip").read("t1.png")
    assert Image.open(io.BytesIO(content)).mode == "RGB"
    assert (decode_rgb(content, "t1") == 77).all()


def test_scenes_are_written_as_they_are_drawn(tmp_path: Path) -> None:
    manifest, _ = write_data_set(tmp_path, drawing.CLASSES, scene_items(4, 3, 2, 40))
    assert [e.id for e in manifest.split("train")] == [f"train_{i:05d}" for i in range(3)]
    assert [e.id for e in manifest.split("val")] == [f"val_{i:05d}" for i in range(2)]
    images, masks = Pack(tmp_path / "images.zip"), Pack(tmp_path / "masks_val.zip")
    for i, entry in enumerate(manifest.split("val")):
        scene = drawing.render(4, "val", i, 40)
        assert (decode_rgb(images.read(entry.image), "x") == scene.image).all()
        assert (decode_mask(masks.read(f"{entry.id}.png"), "x") == scene.mask).all()
        assert entry.labels == tuple(drawing.CLASSES[k - 1] for k in scene.labels)
