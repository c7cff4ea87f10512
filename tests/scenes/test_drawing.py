"""Scenes are repeatable, honestly labelled, evenly drawn, and ordered in depth."""

import numpy as np
import pytest

from dgkd_core.scenes import drawing, objects
from dgkd_core.scenes.drawing import CLASSES, Scene, render

LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [render(7, "train", index, 64) for index in range(120)]


def _same(first: Scene, second: Scene) -> bool:
    arrays = ("image", "mask", "depth")
    return first.labels == second.labels and all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in arrays
    )


def test_a_scene_depends_on_its_arguments_alone() -> None:
    forward = [render(3, "val", index, 48) for index in range(6)]
    np.random.default_rng(0).random(9)
    backward = [render(3, "val", index, 48) for index in reversed(range(6))][::-1]
    assert all(_same(a, b) for a, b in zip(forward, backward, strict=True))


@pytest.mark.parametrize("other", [(4, "val", 0), (3, "train", 0), (3, "val", 1)])
def test_every_argument_changes_the_picture(other: tuple[int, str, int]) -> None:
    assert not np.array_equal(render(3, "val", 0, 48).image, render(*other, 48).image)


@pytest.mark.parametrize("size", [32, 57, 128, 160])
def test_shapes_types_and_ranges(size: int) -> None:
    scene = render(0, "train", 5, size)
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.mask.shape == scene.depth.shape == (size, size)
    assert scene.mask.dtype == np.uint8
    assert scene.depth.dtype == np.float32
    assert 0 <= scene.depth.min() < scene.depth.max() <= 1


def test_labels_are_the_mask_and_each_is_large_enough(many: list[Scene]) -> None:
    for scene in many:
        ids, counts = np.unique(scene.mask, return_counts=True)
        assert scene.labels == tuple(int(k) for k in ids if k)
        assert scene.labels
        assert max(scene.labels) <= len(CLASSES)
        assert counts.min() >= 0.008 * scene.mask.size


def test_the_smallest_pictures_keep_the_same_promise() -> None:
    for index in range(20):
        scene = render(1, "tiny", index, 32)
        ids, counts = np.unique(scene.mask, return_counts=True)
        assert scene.labels == tuple(int(k) for k in ids if k)
        assert counts.min() >= 0.008 * scene.mask.size


def test_classes_are_about_equally_common(many: list[Scene]) -> None:
    drawn = np.array([sum(k in scene.labels for scene in many) for k in range(1, 7)])
    assert drawn.min() > 0.6 * drawn.mean()
    assert drawn.max() < 1.5 * drawn.mean()
    assert {len(scene.labels) for scene in many} == {1, 2, 3}


def test_exposure_is_normal_and_varied(many: list[Scene]) -> None:
    luma = np.array([(scene.image @ LUMA).mean() for scene in many])
    assert 100 < luma.mean() < 140
    assert luma.min() > 70
    assert luma.max() < 190


def test_colour_does_not_give_the_class_away(many: list[Scene]) -> None:
    """The spread of mean colour within a class dwarfs the distance between the class means."""
    colours: dict[int, list[np.ndarray]] = {k: [] for k in range(1, 7)}
    for scene in many:
        for k in scene.labels:
            colours[k].append(scene.image[scene.mask == k].mean(axis=0))
    within = np.mean([np.std(colours[k], axis=0) for k in colours])
    between = np.std([np.mean(colours[k], axis=0) for k in colours], axis=0).mean()
    assert within > 1.5 * between


def test_objects_differ_in_texture_from_their_surroundings(many: list[Scene]) -> None:
    """Neighbouring pixels differ more inside objects than on the background."""
    inside, outside = [], []
    for scene in many:
        step = np.abs(np.diff((scene.image @ LUMA), axis=1))
        same = scene.mask[:, 1:] == scene.mask[:, :-1]
        inside.append(step[same & (scene.mask[:, 1:] > 0)].mean())
        outside.append(step[same & (scene.mask[:, 1:] == 0)].mean())
    assert np.mean(inside) > 2 * np.mean(outside)


def test_the_background_comes_nearer_downwards(many: list[Scene]) -> None:
    for scene in many:
        column_steps = np.diff(scene.depth, axis=0)
        both = (scene.mask[1:] == 0) & (scene.mask[:-1] == 0)
        assert (column_steps[both] > 0).all()
        background = np.where(scene.mask == 0, scene.depth, np.nan)
        assert np.nanmax(np.nanmax(background, 1) - np.nanmin(background, 1)) < 1e-6


def test_objects_are_nearer_than_the_ground_they_hide() -> None:
    for index in range(20):
        scene = render(2, "depth", index, 64)
        for row in range(64):
            ground = scene.depth[row][scene.mask[row] == 0]
            if ground.size:
                assert (scene.depth[row][scene.mask[row] > 0] > ground[0]).all()


@pytest.mark.parametrize("name", CLASSES)
def test_every_drawing_fills_its_frame_and_no_more(name: str) -> None:
    line = np.linspace(-1.3, 1.3, 131, dtype=np.float32)[None]
    for seed in range(12):
        rng = np.random.default_rng(seed)
        draw, _tilt = objects.DRAWINGS[name]
        inside, albedo, height, gloss = draw(line, -line.T, rng, objects.PALETTES[seed])
        rows, cols = np.nonzero(inside)
        extent = max(np.ptp(rows), np.ptp(cols)) / 50
        assert 0.85 < extent / 2 <= 1.15
        assert albedo.shape == (131, 131, 3)
        assert np.isfinite(height).all()
        assert height[inside].min() > -0.2
        assert 0 <= gloss <= 1
        assert 0.3 < inside.sum() / (np.ptp(rows) * np.ptp(cols)) < 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, "train", 0, 64), "seed is -1"),
        ((0, "train", -2, 64), "index -2"),
        ((0, "", 0, 64), "split is empty"),
        ((0, "train", 0, 31), "size is 31, expected 32 to 1024"),
        ((0, "train", 0, 1025), "size is 1025"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[int, str, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(*arguments)


def test_hidden_objects_are_dropped_and_visible_ones_kept() -> None:
    rng = np.random.default_rng(0)
    stage = drawing._set_stage(rng, 128)
    back = drawing._place(rng, stage, 1, 0.5, 0.80, 0.35)
    front = drawing._place(rng, stage, 4, 0.5, 0.82, 0.55)
    beside = drawing._place(rng, stage, 6, 0.15, 0.75, 0.3)
    kept = drawing._keep_visible([beside, back, front], 128)
    assert [item.class_id for item in kept] == [6, 4]
