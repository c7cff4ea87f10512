"""Scenes are repeatable, honestly labelled, evenly drawn, and ordered in depth."""

import numpy as np
import pytest

from dgkd_core.scenes.drawing import CLASSES, Scene, render


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [render(7, "train", index, 64) for index in range(100)]


def _bytes(scene: Scene) -> tuple[object, ...]:
    return scene.labels, *(x.tobytes() for x in (scene.image, scene.mask, scene.depth))


def test_a_scene_depends_on_its_arguments_alone_and_on_each_of_them() -> None:
    forward = [_bytes(render(3, "val", index, 48)) for index in range(6)]
    np.random.default_rng(0).random(9)
    backward = [_bytes(render(3, "val", index, 48)) for index in reversed(range(6))]
    assert forward == backward[::-1]
    others = [(4, "val", 0, 48), (3, "train", 0, 48), (3, "val", 0, 49)]
    assert len({*forward, *(_bytes(render(*other)) for other in others)}) == 9


def test_labels_are_the_mask_and_each_is_large_enough(many: list[Scene]) -> None:
    for scene in [*many, *(render(1, "tiny", index, 32) for index in range(20))]:
        size = scene.mask.shape[0]
        assert (scene.image.shape, scene.image.dtype) == ((size, size, 3), np.uint8)
        assert (scene.depth.shape, scene.depth.dtype) == ((size, size), np.float32)
        assert 0 <= scene.depth.min() < scene.depth.max() <= 1
        ids, counts = np.unique(scene.mask, return_counts=True)
        assert scene.labels == tuple(int(k) for k in ids if k)
        assert scene.labels
        assert max(scene.labels) <= len(CLASSES)
        assert counts.min() >= 0.008 * scene.mask.size


def test_classes_are_about_equally_common_and_the_light_is_normal(many: list[Scene]) -> None:
    drawn = np.array([sum(k in scene.labels for scene in many) for k in range(1, 7)])
    assert drawn.min() > 0.6 * drawn.mean()
    assert drawn.max() < 1.5 * drawn.mean()
    assert {len(scene.labels) for scene in many} == {1, 2, 3}
    luma = np.array([(scene.image @ np.array([0.299, 0.587, 0.114])).mean() for scene in many])
    assert 100 < luma.mean() < 140
    assert 70 < luma.min() < luma.max() < 190


def test_the_ground_comes_nearer_downwards_and_objects_are_nearer_than_it(
    many: list[Scene],
) -> None:
    for scene in many:
        ground = np.where(scene.mask == 0, scene.depth, np.nan)
        steps = np.diff(ground, axis=0)
        assert (steps[np.isfinite(steps)] > 0).all()
        rows = ~np.isnan(ground).all(1)
        level = np.nanmax(ground[rows], 1, keepdims=True)
        assert (level - np.nanmin(ground[rows], 1, keepdims=True)).max() < 1e-6
        assert (scene.depth[rows] > level)[scene.mask[rows] > 0].all()


def test_a_size_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="size is 31, expected 32 to 1024"):
        render(0, "train", 0, 31)
