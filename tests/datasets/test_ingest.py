"""From a data set's files to packs: masks renumbered, sizes that fit, the same bytes every time."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked import made
from trees import VocTree, columns, mask

from dgkd_core.config.presets import apply_preset
from dgkd_core.data.manifest import Entry, read_manifest
from dgkd_core.data.pack import Pack
from dgkd_core.data.pictures import decode_mask, decode_rgb
from dgkd_core.datasets.ingest import Item, file_items, scene_items, write_data_set
from dgkd_core.datasets.voc import CLASSES
from dgkd_core.runtime.errors import InputError
from dgkd_core.scenes import drawing

OUTPUTS = {
    *("classes.json", "dark.zip", "images.zip", "manifest.csv"),
    *("masks_train.zip", "masks_val.zip"),
}


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKD_WORKERS", "1")


def _items(tree: VocTree, *classes: str) -> Iterator[Item | InputError]:
    found = tree.read(*classes)
    assert found.problems == []
    return file_items(found.sources, found.classes, None)


def test_a_voc_tree_becomes_packs_the_same_for_any_number_of_processes(
    voc_tree: VocTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    manifest, notes = write_data_set(out, CLASSES, _items(voc_tree))
    assert {path.name for path in out.iterdir()} == OUTPUTS
    assert (read_manifest(out), notes) == (manifest, [])
    assert manifest.entries[0] == Entry("t1", "train", ("cat", "dog"), 12, 8, "t1.jpg")
    images, masks = Pack(out / "images.zip"), Pack(out / "masks_val.zip")
    assert images.names() == ["t1.jpg", "t2.jpg", "t3.jpg", "v1.jpg"]
    assert images.read("t1.jpg") == voc_tree.image("t1").read_bytes()
    assert Pack(out / "masks_train.zip").names() == ["t1.png", "t2.png", "t3.png"]
    assert masks.names() == ["v1.png"]
    assert (decode_mask(masks.read("v1.png"), "v1") == columns(12)).all()
    monkeypatch.setenv("DGKD_WORKERS", "2")
    write_data_set(tmp_path / "two", CLASSES, _items(voc_tree))
    for name in OUTPUTS:
        assert (out / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_prepare_takes_nothing_else_from_training_masks(
    voc_tree: VocTree, settings: Path, run_stages: Callable[..., None]
) -> None:
    """That no other stage reads them: tests/test_weak_supervision.py."""
    apply_preset("scenes", ["data.kind=voc", f"data.root={voc_tree.root}"])
    run_stages("prepare")
    masks = Path("artifacts/prepare/masks_train.zip")
    before, size = made(Path(), "prepare"), masks.stat().st_size
    for id_ in ("t1", "t2", "t3"):
        voc_tree.mask(id_).unlink()
    run_stages("prepare")
    after = made(Path(), "prepare")
    assert {path for path in {*before, *after} if before[path] != after[path]} == {str(masks)}
    assert masks.stat().st_size < size


def test_a_subset_renumbers_masks_and_ignores_the_rest(voc_tree: VocTree, tmp_path: Path) -> None:
    classes = ("person", "dog")
    manifest, _ = write_data_set(tmp_path, classes, _items(voc_tree, *classes))
    assert manifest.classes == classes
    masks = Pack(tmp_path / "masks_train.zip")
    assert masks.names() == ["t1.png", "t2.png"]
    # of cat (8) and dog (12)
    expected = [0] * 3 + [255] * 3 + [2] * 3 + [255] * 3
    assert decode_mask(masks.read("t1.png"), "t1")[0].tolist() == expected


def test_a_mask_whose_classes_are_not_its_labels_is_named(
    voc_tree: VocTree, tmp_path: Path
) -> None:
    mask(voc_tree.mask("v1"), 8, 12)
    voc_tree.add("v2", ["cat"], 12)
    voc_tree.list("val").write_text("v1\nv2\n")
    _, notes = write_data_set(tmp_path, CLASSES, _items(voc_tree))
    assert notes == [
        "2 pictures: its mask holds a class that its labels lack (v1, …)",
        "1 picture: its mask shows none of the classes that its labels name (v2)",
    ]


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
