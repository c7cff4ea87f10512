"""Pictures one pixel wide or very long through everything that runs on whole pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from dgkd_core.data.manifest import Entry, Manifest, by_size
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_depth, encode_mask, encode_rgb
from dgkd_core.data.samples import Store
from dgkd_core.evaluation.figures import colour_heat, colour_mask, sheet
from dgkd_core.evaluation.inference import Protocol, View, run_group, score
from dgkd_core.imaging.dense_crf import DenseCRF
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.registry import ModelConfig, build
from dgkd_core.pseudo_labels.class_maps import class_maps, label_map
from dgkd_core.pseudo_labels.refinement import pseudo_label, sharpen_by_crf, sharpen_by_pamr

CPU = torch.device("cpu")
SIZES = ((1, 1), (1, 40), (40, 1), (3, 500), (500, 3), (20, 30))
CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, dict[str, Path]]:
    """Two val pictures of each size in SIZES, with random content and no, one or two classes."""
    folder, rng = tmp_path_factory.mktemp("odd"), np.random.default_rng(0)
    entries = []
    with (
        write_pack(folder / "dark.zip") as dark,
        write_pack(folder / "depth.zip") as depth,
        write_pack(folder / "masks.zip") as masks,
    ):
        for i, (h, w) in enumerate(SIZES * 2):
            entries.append(Entry(f"p{i}", "val", CLASSES[1 : 1 + i % 3], w, h, f"p{i}.jpg"))
            dark.add(f"p{i}.png", encode_rgb(rng.integers(0, 20, (h, w, 3)).astype(np.uint8)))
            depth.add(f"p{i}.png", encode_depth(rng.random((h, w))))
            masks.add(f"p{i}.png", encode_mask(rng.choice([0, 1, 2, 3, 255], (h, w))))
    return Manifest(CLASSES, tuple(entries)), {p.stem: p for p in folder.iterdir()}


def _spec(kind: Literal["network", "segmenter"], backbone: str) -> ModelConfig:
    return ModelConfig(kind, CLASSES, backbone, 8, 16, (2, 4, 6), "gated", "gain", frozen=False)


def _view(packs: dict[str, Path]) -> View:
    return View(Store(), packs["dark"], packs["depth"], True, "gain")


@pytest.mark.full
@pytest.mark.parametrize("kind", ["network", "segmenter"])
@pytest.mark.parametrize("backbone", ["timm:test_resnet", "resnet18"])
def test_networks_take_pictures_of_any_shape(
    odd: tuple[Manifest, dict[str, Path]], kind: Literal["network", "segmenter"], backbone: str
) -> None:
    (manifest, packs), protocol = odd, Protocol((0.5, 1.0, 1.5), flip=True, batch=4)
    torch.manual_seed(0)
    model = build(_spec(kind, backbone)).eval()
    seen = set()
    for group in by_size(manifest.entries, 4):
        masks, scores = run_group(model, group, _view(packs), protocol, CPU)
        assert len({(e.height, e.width) for e in group}) == 1
        assert masks.shape == (len(group), 4, group[0].height, group[0].width)
        assert torch.allclose(masks.sum(1), torch.tensor(1.0), atol=1e-5)
        assert scores.shape == (len(group), 3)
        assert ((scores >= 0) & (scores <= 1)).all()
        seen |= {entry.id for entry in group}
    assert seen == {entry.id for entry in manifest.entries}
    result = score(model, manifest, packs["masks"], _view(packs), protocol, CPU, "test")
    for entry in manifest.entries:
        assert result.predictions[entry.id].shape == (entry.height, entry.width)
        assert set(np.unique(result.predictions[entry.id])) <= {0, 1, 2, 3}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("present", [(), (1,), (0, 2)])
def test_class_maps_become_pseudo_labels_for_pictures_of_any_shape(
    size: tuple[int, int], present: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(4, *size, generator=generator).mul(3).softmax(0)
    labels = np.isin(np.arange(3), present).astype(np.float32)
    maps = class_maps(masks, labels)
    assert maps.shape == (len(present), *size)
    own = {0, *(c + 1 for c in present)}
    assert set(np.unique(label_map(maps, labels, 0.3))) <= own
    guide = np.random.default_rng(0).random((*size, 3), np.float32)
    four = np.concatenate([guide, guide[..., :1]], 2)
    pamr = PAMR(3, (1, 2, 4, 8, 12, 24))
    for sharp in (
        sharpen_by_pamr(maps, guide, pamr),
        sharpen_by_pamr(maps, four, pamr),
        sharpen_by_crf(maps, guide, DenseCRF(3)),
    ):
        assert sharp.shape == maps.shape
        assert ((sharp >= 0) & (sharp <= 1 + 1e-5)).all()
        pseudo = pseudo_label(sharp, labels, 0.4, 0.2)
        assert pseudo.shape == size
        assert set(np.unique(pseudo)) <= own | {255}


def test_a_single_pixel_keeps_its_class_maps() -> None:
    """All neighbours of PAMR are the pixel itself; so are all of the CRF's, which agree with it."""
    maps = np.array([[[150]], [[50]]], np.uint8)
    guide = np.full((1, 1, 3), 0.3, np.float32)
    kept = sharpen_by_pamr(maps, guide, PAMR(10, (1, 24)))
    assert np.allclose(kept.ravel(), [150 / 255, 50 / 255], atol=1e-5)
    more = sharpen_by_crf(maps, guide, DenseCRF(10))
    assert more[0, 0, 0] > 150 / 255
    assert more[1, 0, 0] < 50 / 255


def test_the_sheet_takes_pictures_of_any_shape() -> None:
    rows = []
    for height, width in SIZES:
        photo = np.full((height, width, 3), 90, np.uint8)
        rows.append(
            {
                "photo": photo,
                "CAM": colour_heat(np.full((height, width), 0.5)),
                "truth": colour_mask(np.full((height, width), 2)),
            }
        )
    content = sheet(rows, ["x"] * len(rows), (), side=60)
    picture = np.asarray(Image.open(io.BytesIO(content)))
    assert picture.shape == (22 + len(rows) * (60 + 18 + 6) + 28, 3 * (60 + 6) + 6, 3)
    for i, (height, width) in enumerate(SIZES):
        top = 22 + i * (60 + 18 + 6)
        tile = picture[top : top + 60, 6:66]
        shown = (tile == 90).all(2)
        scale = 60 / max(height, width)
        assert shown.sum() == max(1, round(height * scale)) * max(1, round(width * scale))
