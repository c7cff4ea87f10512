"""Multi-scale, flipped inference with fake networks whose answers are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dgkd_core.data.manifest import Entry, Manifest, by_size
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_depth, encode_mask, encode_rgb
from dgkd_core.data.samples import Store
from dgkd_core.evaluation.inference import Protocol, View, decide, infer, predict, run_group, score
from dgkd_core.models.network import Output

CPU = torch.device("cpu")


class Fake:
    """Two classes by fixed random weights at half resolution, not symmetric under a flip."""

    uses_depth = False

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


class Known:
    """Answers by the picture's height alone: masks and scores are given."""

    uses_depth = False

    def __init__(self, answers: dict[int, tuple[list[float], list[float]]]) -> None:
        self.answers = answers

    def __call__(self, image: Tensor, features: bool = True) -> Output:
        masks, scores = self.answers[image.shape[-2]]
        n, _, h, w = image.shape
        mask = torch.tensor(masks)[None, :, None, None].expand(n, -1, h, w)
        return Output(mask.log(), mask, torch.logit(torch.tensor(scores)).expand(n, -1))


def _image(n: int = 2, height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_one_scale_without_a_flip_is_the_network_itself() -> None:
    image, model = _image(), Fake()
    masks, probabilities = infer(model, image, None, [1.0], False)
    output = model(image, features=False)
    expected = F.interpolate(output.masks, (32, 48), mode="bilinear", align_corners=True)
    assert torch.equal(masks, expected)
    assert torch.equal(probabilities, output.scores.sigmoid())


@pytest.mark.parametrize("scales", [[1.0], [0.5, 1.0, 1.5]])
def test_with_flips_a_mirrored_picture_gives_mirrored_masks(scales: list[float]) -> None:
    image = _image()
    depth = image.mean(1, keepdim=True)
    first = infer(Fake(True), image, depth, scales, True)
    second = infer(Fake(True), image.flip(-1), depth.flip(-1), scales, True)
    assert torch.allclose(first[0], second[0].flip(-1), atol=1e-5)
    assert torch.allclose(first[1], second[1], atol=1e-5)
    without = infer(Fake(True), image.flip(-1), depth.flip(-1), scales, False)
    plain = infer(Fake(True), image, depth, scales, False)
    assert not torch.allclose(plain[0], without[0].flip(-1), atol=1e-2)


def test_masks_are_the_mean_and_probabilities_the_best_of_scales_and_flips() -> None:
    image, model = _image(), Fake()
    views = []
    for scale in (0.5, 1.0, 1.5):
        for turn in (False, True):
            x = image.flip(-1) if turn else image
            mask, probability = infer(model, x, None, [scale], False)
            views.append((mask.flip(-1) if turn else mask, probability))
    masks, probabilities = infer(model, image, None, [0.5, 1.0, 1.5], True)
    assert torch.allclose(masks, torch.stack([m for m, _ in views]).mean(0), atol=1e-5)
    assert torch.allclose(probabilities, torch.stack([p for _, p in views]).amax(0), atol=1e-6)
    assert torch.allclose(masks.sum(1), torch.ones(2, 32, 48), atol=1e-5)


def test_a_known_mean() -> None:
    model = Known({32: ([0.6, 0.3, 0.1], [0.2, 0.7]), 16: ([0.2, 0.3, 0.5], [0.5, 0.1])})
    masks, probabilities = infer(model, _image(1), None, [1.0, 0.5], True)
    assert torch.allclose(masks[0, :, 5, 5], torch.tensor([0.4, 0.3, 0.3]))
    assert torch.allclose(probabilities, torch.tensor([[0.5, 0.7]]))


def test_scaled_sizes_and_the_smallest_one() -> None:
    model = Fake()
    infer(model, _image(1, 32, 48), None, [1.0, 0.75, 0.1], True)
    assert model.sizes == [(2, 3, 32, 48), (2, 3, 24, 36), (2, 3, 16, 16)]
    with pytest.raises(ValueError, match="scales must hold at least one scale"):
        infer(model, _image(1), None, [], False)


def test_inference_keeps_no_gradient() -> None:
    masks, _ = infer(Fake(), _image().requires_grad_(), None, [1.0], False)
    assert not masks.requires_grad


def test_dropped_classes_never_win() -> None:
    masks = torch.tensor([0.2, 0.5, 0.3])[None, :, None, None].expand(1, 3, 2, 2)
    before = masks.clone()
    for probabilities, winner in (
        ([0.9, 0.9], 1),
        ([0.09, 0.9], 2),
        ([0.1, 0.9], 1),
        ([0.0, 0.0], 0),
    ):
        ids = decide(masks, torch.tensor([probabilities]), 0.1, 1.0)
        assert ids.shape == (1, 2, 2)
        assert (ids == winner).all()
    assert torch.equal(masks, before)


def test_each_picture_drops_its_own_classes() -> None:
    masks = torch.tensor([0.2, 0.5, 0.3])[None, :, None, None].expand(2, 3, 1, 1)
    ids = decide(masks, torch.tensor([[0.9, 0.9], [0.0, 0.9]]), 0.1, 1.0)
    assert ids.flatten().tolist() == [1, 2]


def test_the_background_power_weakens_the_background() -> None:
    masks = torch.tensor([0.6, 0.3, 0.1])[None, :, None, None]
    probabilities = torch.ones(1, 2)
    assert decide(masks, probabilities, 0.1, 1.0).item() == 0
    assert decide(masks, probabilities, 0.1, 3.0).item() == 1  # 0.6 ** 3 = 0.216
    assert decide(masks, probabilities, 0.1, 2.0).item() == 0  # 0.6 ** 2 = 0.36


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, dict[str, Path]]:
    """Five val pictures of two sizes and one training picture."""
    folder, rng = tmp_path_factory.mktemp("val"), np.random.default_rng(0)
    sizes = {"a": (32, 24), "b": (24, 32), "c": (32, 24), "d": (32, 24), "e": (24, 32)}
    entries = [Entry("t", "train", ("cat",), 32, 24, "t.jpg")]
    with (
        write_pack(folder / "images.zip") as images,
        write_pack(folder / "dark.zip") as dark,
        write_pack(folder / "depth.zip") as depth,
        write_pack(folder / "masks.zip") as masks,
    ):
        for name, (w, h) in sizes.items():
            labels = ("cat",) if name in "ab" else ("dog",)
            entries.append(Entry(name, "val", labels, w, h, f"{name}.x.png"))
            picture = rng.integers(0, 256, (h, w, 3)).astype(np.uint8)
            images.add(f"{name}.x.png", encode_rgb(picture))
            dark.add(f"{name}.png", encode_rgb(picture // 8))
            depth.add(f"{name}.png", encode_depth(rng.random((h, w))))
            masks.add(f"{name}.png", encode_mask(rng.choice([0, 1, 2, 255], (h, w))))
    return Manifest(("cat", "dog"), tuple(entries)), {p.stem: p for p in folder.iterdir()}


def _view(packs: dict[str, Path], **options: Any) -> View:
    keep: dict[str, Any] = {
        "pictures": packs["dark"],
        "depth": packs["depth"],
        "dark": True,
        "exposure": "gain",
    }
    return View(Store(), **(keep | options))


@pytest.mark.parametrize("uses_depth", [True, False])
def test_the_batch_size_does_not_change_the_answer(
    uses_depth: bool, val: tuple[Manifest, dict[str, Path]]
) -> None:
    manifest, packs = val
    entries = manifest.split("val")
    answers = []
    for batch in (1, 2, 8):
        protocol, model = Protocol((1.0, 0.5), True, batch=batch), Fake(uses_depth)
        found = {}
        for group in by_size(entries, batch):
            masks, probabilities = run_group(model, group, _view(packs), protocol, CPU)
            for entry, mask, probability in zip(group, masks, probabilities, strict=True):
                assert mask.shape == (3, entry.height, entry.width)
                found[entry.id] = (mask, probability)
        assert max(size[0] for size in model.sizes) <= 2 * batch
        answers.append(found)
    assert set(answers[0]) == set("abcde")
    for other in answers[1:]:
        for name in "abcde":
            assert torch.allclose(answers[0][name][0], other[name][0], atol=1e-5)
            assert torch.allclose(answers[0][name][1], other[name][1], atol=1e-5)


def test_depth_reaches_only_a_network_that_uses_it(val: tuple[Manifest, dict[str, Path]]) -> None:
    manifest, packs = val
    entries = manifest.split("val")

    def answer(model: Fake, **options: Any) -> Tensor:
        view = _view(packs, **options)
        return run_group(model, by_size(entries, 8)[0], view, Protocol(), CPU)[0]

    with_depth, without = answer(Fake(True)), answer(Fake(False))
    assert not torch.allclose(with_depth, without, atol=1e-3)
    assert torch.equal(answer(Fake(True), depth=None), without)


def test_scoring_compares_val_with_its_truth(val: tuple[Manifest, dict[str, Path]]) -> None:
    manifest, packs = val
    protocol, view = Protocol(drop=0.2, background_power=2.0, batch=3), _view(packs)
    result = score(Fake(), manifest, packs["masks"], view, protocol, CPU, "test")
    predictions = {
        entry.id: ids
        for entry, ids, _ in predict(Fake(), manifest.split("val"), view, protocol, CPU, "test")
    }
    assert set(result.predictions) == set("abcde")
    known = right = 0
    for name, ids in predictions.items():
        assert ids.dtype == np.uint8
        assert np.array_equal(ids, result.predictions[name])
        truth = view.store.mask(packs["masks"], f"{name}.png")
        known += int((truth != 255).sum())
        right += int((truth == ids).sum())
    assert result.confusion.matrix.sum() == known
    assert np.trace(result.confusion.matrix) == right
    metrics = result.metrics(manifest.classes)
    assert set(metrics) == {"miou", "classification_map", "iou"}
    assert set(metrics["iou"]) == {"background", "cat", "dog"}
    assert 0 <= metrics["classification_map"] <= 100
    assert metrics["miou"] == pytest.approx(np.nanmean(list(metrics["iou"].values())))


def test_normal_pictures_go_by_their_own_names(val: tuple[Manifest, dict[str, Path]]) -> None:
    manifest, packs = val
    view = _view(packs, pictures=packs["images"], dark=False, exposure="none")
    found = [e.id for e, _, _ in predict(Fake(), manifest.split("val"), view, Protocol(), CPU, "")]
    assert sorted(found) == list("abcde")
