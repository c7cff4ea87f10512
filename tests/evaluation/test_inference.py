"""Multi-scale, flipped inference with a fake network, and real ones on pictures of any shape."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import CONFIG
from torch import Tensor

from dgkd_core.data.manifest import Entry, Manifest, by_size
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import decode_mask, encode_depth, encode_mask, encode_rgb
from dgkd_core.data.store import Store
from dgkd_core.evaluation.inference import (
    InferenceSettings,
    Result,
    View,
    decide,
    infer,
    load_group,
    run_loaded,
    score,
)
from dgkd_core.models.network import Output
from dgkd_core.models.registry import build
from dgkd_core.runtime.result_cache import ResultCache

CPU = torch.device("cpu")
SIZES = ((1, 1), (1, 40), (40, 1), (3, 500), (500, 3), (20, 30))
CLASSES = ("ant", "bee")
Val = tuple[Manifest, dict[str, Path]]


class Fake:
    """Two classes by fixed random weights at half resolution, not symmetric under a flip."""

    def __init__(self, depth: bool = False) -> None:
        self.uses_depth = depth
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(3, 4, 3, 3, generator=generator)
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, image: Tensor, depth: Tensor | None = None, features: bool = True) -> Output:
        assert not features
        self.sizes.append(tuple(image.shape))
        if depth is None:
            depth = torch.zeros_like(image[:, :1])
        assert depth.shape[-2:] == image.shape[-2:]
        logits = F.conv2d(torch.cat([image, depth], 1), self.weight, stride=2, padding=1)
        return Output(logits, logits.softmax(1), logits[:, 1:].amax((-2, -1)) - 1)


def _resized(x: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)


def _image(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("uses_depth", [False, True])
def test_masks_are_the_mean_and_probabilities_the_best_of_scales_and_flips(
    uses_depth: bool,
) -> None:
    image, model = _image().requires_grad_(), Fake()
    depth = image.mean(1, keepdim=True) if uses_depth else None
    found, best = [], []
    for scale in (0.5, 1.0, 1.5):
        for turn in (False, True):
            x = [
                None if each is None else each.flip(-1) if turn else each for each in (image, depth)
            ]
            size = [round(side * scale) for side in (32, 48)]
            if scale != 1:
                x = [None if each is None else _resized(each, size) for each in x]
            output = model(*x, features=False)
            mask = F.interpolate(output.masks, (32, 48), mode="bilinear", align_corners=True)
            found.append(mask.flip(-1) if turn else mask)
            best.append(output.scores.sigmoid())
    assert not torch.allclose(found[2], found[3], atol=1e-2), "a flip changes something"
    masks, probabilities = infer(model, image, depth, [0.5, 1.0, 1.5], True)
    assert torch.allclose(masks, torch.stack(found).mean(0), atol=1e-5)
    assert torch.allclose(probabilities, torch.stack(best).amax(0), atol=1e-6)
    assert not masks.requires_grad
    plain, _ = infer(model, image, depth, [1.0], False)
    assert torch.equal(plain, found[2])


def test_scaled_sizes_and_the_smallest_one() -> None:
    model = Fake()
    infer(model, _image(1), None, [1.0, 0.75, 0.1], True)
    assert model.sizes == [(2, 3, 32, 48), (2, 3, 24, 36), (2, 3, 16, 16)]
    with pytest.raises(ValueError, match="scales must hold at least one scale"):
        infer(model, _image(1), None, [], False)


@pytest.mark.parametrize(
    ("masks", "probabilities", "power", "winners"),
    [
        ([0.2, 0.5, 0.3], [[0.9, 0.9], [0.09, 0.9], [0.1, 0.9], [0, 0]], 1, [1, 2, 1, 0]),
        ([0.6, 0.3, 0.1], [[1, 1]], 2, [0]),  # 0.6² = 0.36
        ([0.6, 0.3, 0.1], [[1, 1]], 3, [1]),  # 0.6³ = 0.216
    ],
)
def test_each_picture_drops_its_own_classes_and_the_power_weakens_the_background(
    masks: list[float], probabilities: list[list[float]], power: float, winners: list[int]
) -> None:
    given = torch.tensor(masks)[None, :, None, None].repeat(len(winners), 1, 2, 2)
    before = given.clone()
    ids = decide(given, torch.tensor(probabilities), 0.1, power)
    assert (ids == torch.tensor(winners)[:, None, None]).all()
    assert torch.equal(given, before)


# --- pictures in packs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Val:
    """Two val pictures of each of SIZES and one training picture."""
    folder, rng = tmp_path_factory.mktemp("val"), np.random.default_rng(0)
    entries = [Entry("t", "train", ("ant",), 32, 24, "t.jpg")]
    with (
        write_pack(folder / "images.zip") as images,
        write_pack(folder / "dark.zip") as dark,
        write_pack(folder / "depth.zip") as depth,
        write_pack(folder / "masks.zip") as masks,
    ):
        for i, (h, w) in enumerate(SIZES * 2):
            entries.append(Entry(f"p{i}", "val", CLASSES[: i % 3], w, h, f"p{i}.x.png"))
            picture = rng.integers(0, 256, (h, w, 3)).astype(np.uint8)
            images.add(f"p{i}.x.png", encode_rgb(picture))
            dark.add(f"p{i}.png", encode_rgb(picture // 8))
            depth.add(f"p{i}.png", encode_depth(rng.random((h, w))))
            masks.add(f"p{i}.png", encode_mask(rng.choice([0, 1, 2, 255], (h, w))))
    return Manifest(CLASSES, tuple(entries)), {p.stem: p for p in folder.iterdir()}


def _view(packs: dict[str, Path], dark: bool = True) -> View:
    if dark:
        return View(Store(), packs["dark"], packs["depth"], True, "gain")
    return View(Store(), packs["images"], None, False, "none")


def _score(model: Any, val: Val, settings: InferenceSettings, dark: bool = True) -> Result:
    cache = ResultCache(None)
    return score(model, val[0], val[1]["masks"], _view(val[1], dark), settings, CPU, "x", cache)


@pytest.mark.parametrize("uses_depth", [True, False])
def test_the_batch_size_does_not_change_the_answer(uses_depth: bool, val: Val) -> None:
    answers = []
    for batch in (1, 8):
        settings, model = InferenceSettings((1.0, 0.5), True, batch=batch), Fake(uses_depth)
        found: dict[str, Tensor] = {}
        for group in by_size(val[0].split("val"), batch):
            inputs = load_group(group, _view(val[1]), uses_depth)
            masks, _ = run_loaded(model, inputs, settings, CPU)
            found |= zip([entry.id for entry in group], masks, strict=True)
        assert max(size[0] for size in model.sizes) == 2 * min(batch, 2)
        answers.append(found)
    assert len(answers[0]) == 2 * len(SIZES)
    for name, mask in answers[0].items():
        assert torch.allclose(mask, answers[1][name], atol=1e-5)


def test_scoring_compares_val_with_its_truth(val: Val) -> None:
    manifest, packs = val
    result = _score(Fake(), val, InferenceSettings(drop=0.2, background_power=2.0, batch=3))
    assert set(result.predictions) == {entry.id for entry in manifest.split("val")}
    known = right = 0
    for name, content in result.predictions.items():
        truth, ids = Store().mask(packs["masks"], f"{name}.png"), decode_mask(content, name)
        known += int((truth != 255).sum())
        right += int((truth == ids).sum())
    assert result.confusion.matrix.sum() == known
    assert np.trace(result.confusion.matrix) == right
    metrics = result.metrics(CLASSES)
    assert set(metrics["iou"]) == {"background", *CLASSES}
    assert 0 <= metrics["classification_map"] <= 100
    assert metrics["miou"] == pytest.approx(np.nanmean(list(metrics["iou"].values())))


def test_depth_and_light_reach_a_network_that_is_to_have_them(val: Val) -> None:
    """Normal pictures go by their own names."""
    runs = [(Fake(), True), (Fake(True), True), (Fake(True), False)]
    found = [_score(model, val, InferenceSettings(), dark).predictions for model, dark in runs]
    assert len({tuple(p.values()) for p in found}) == 3


@pytest.mark.full
@pytest.mark.parametrize("kind", ["network", "segmenter"])
def test_networks_take_pictures_of_any_shape(val: Val, kind: Any) -> None:
    torch.manual_seed(0)
    settings = InferenceSettings((0.5, 1.0, 1.5), flip=True, batch=4)
    network = build(replace(CONFIG, kind=kind, classes=CLASSES)).eval()
    result = _score(network, val, settings)
    for entry in val[0].split("val"):
        found = decode_mask(result.predictions[entry.id], entry.id)
        assert found.shape == (entry.height, entry.width)
        assert set(np.unique(found)) <= {0, 1, 2}
