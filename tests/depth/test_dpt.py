"""The depth model: the small DPT, its way to a folder and back, and how its error is told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import one_line
from transformers import (
    BeitConfig,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
    Swinv2Config,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
)

from dgkd_core.depth import dpt as depth_module
from dgkd_core.depth.dpt import (
    depth_errors,
    estimate,
    gradient_loss,
    load_dpt,
    nearness,
    network_inputs,
    predict,
    rank_correlation,
    save_dpt,
    small_dpt,
    to_unit,
    without_extremes,
)
from dgkd_core.depth.files import sees_a_square
from dgkd_core.runtime.files import sha256

CPU = torch.device("cpu")
STANDIN = Path(__file__).resolve().parents[3] / "shared/weights/dpt-standin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dpt")
    save_dpt(*small_dpt(32, 16), path)
    return path


TRANSFORMER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 64,
    "patch_size": 16,
}
STAGES = {"out_features": [f"stage{i}" for i in range(1, 5)], "reshape_hidden_states": False}
NECK: dict[str, Any] = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}


def _depth_anything(**more: Any) -> DepthAnythingForDepthEstimation:
    patches = {"patch_size": 14, "image_size": 70}
    backbone = Dinov2Config(**{**TRANSFORMER, **STAGES, **patches})
    return DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=16,
            head_hidden_size=4,
            patch_size=14,
            **NECK,
            **more,
        )
    )


def _made(kind: str) -> Any:
    """A tiny network of a published kind: hybrid, plain (Intel/dpt-large), Swin, …"""
    if kind == "hybrid":
        return small_dpt(32, 16)[0]
    if kind == "plain":
        shape = {**TRANSFORMER, **NECK, "backbone_out_indices": [0, 1, 2, 3]}
        return DPTForDepthEstimation(DPTConfig(**shape, use_auxiliary_head=False))
    if kind == "swin":
        depths: Any = {"depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "embed_dim": 8}
        names = STAGES["out_features"]
        swin = Swinv2Config(
            image_size=64, patch_size=4, window_size=2, out_features=names, **depths
        )
        neck = {**NECK, "neck_hidden_sizes": [8, 16, 32, 64], "reassemble_factors": [1, 1, 1, 1]}
        config = DPTConfig(backbone_config=swin, **neck, use_auxiliary_head=False)
        return DPTForDepthEstimation(config)
    if kind == "zoedepth":
        beit = BeitConfig(**TRANSFORMER, **STAGES, use_relative_position_bias=True)
        bins = {"bottleneck_features": 8, "bin_embedding_dim": 8}
        return ZoeDepthForDepthEstimation(ZoeDepthConfig(backbone_config=beit, **NECK, **bins))
    return _depth_anything()


@pytest.fixture(scope="module", params=["hybrid", "plain", "swin", "depth-anything", "zoedepth"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model and a processor that keeps the aspect ratio, by way of a folder."""
    torch.manual_seed(0)
    side, multiple = (70, 14) if request.param == "depth-anything" else (64, 32)
    processor = DPTImageProcessor(
        size={"height": side, "width": side}, keep_aspect_ratio=True, ensure_multiple_of=multiple
    )
    path = tmp_path_factory.mktemp(request.param)
    save_dpt(_made(request.param), processor, path)
    return load_dpt(path, local=True)


ODD = [(1, 1), (1, 500), (500, 1), (3, 3), (3000, 10), (64, 255), (40, 57), (5000, 1000)]


def _random(*size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.filterwarnings("error")
def test_pictures_of_all_shapes_at_once(kind: tuple[Any, Any]) -> None:
    pictures = [_random(*size) for size in ODD]
    maps = estimate(*kind, pictures, CPU)
    assert [depth.shape for depth in maps] == ODD
    assert all(np.isfinite(depth).all() and depth.dtype == np.float32 for depth in maps)
    alone = estimate(*kind, pictures[3:4], CPU)[0]
    np.testing.assert_allclose(alone, maps[3], atol=1e-5)


def test_a_network_that_can_keeps_the_aspect_ratio_and_others_get_their_square(
    kind: tuple[Any, Any],
) -> None:
    model, processor = kind
    wide, square = network_inputs(processor, [_random(100, 200), _random(50, 50)])
    if not sees_a_square(model.config):
        side = processor.size["height"]
        assert (wide.shape, square.shape) == ((3, side, 2 * side), (3, side, side))
    else:
        side = model.config.image_size
        assert wide.shape == square.shape == (3, side, side)
    with torch.inference_mode():
        exact = nearness(model, square[None])[0]
    assert exact.dtype == torch.float32
    assert torch.equal(predict(model, processor, [_random(50, 50)], CPU)[0], exact)


def test_near_is_large_of_a_metric_model_too(tmp_path: Path) -> None:
    """Whose config.json says that it gives metres; `max_depth: null` is as good as none."""
    processor = DPTImageProcessor(size={"height": 70, "width": 70})
    pictures = [_random(60, 60)]
    for metric in (False, True):
        torch.manual_seed(0)
        kind = "metric" if metric else "relative"
        save_dpt(_depth_anything(depth_estimation_type=kind, max_depth=1), processor, tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"max_depth": None}))
        model, read = load_dpt(tmp_path, local=True)
        (found,) = predict(model, read, pictures, CPU)
        pixels = network_inputs(read, pictures)[0][None]
        with torch.no_grad():
            given = model(pixel_values=pixels).predicted_depth[0]
        assert torch.equal(found, -given if metric else given)
    assert given.min() > 0


def test_three_rows_are_not_three_colours(kind: tuple[Any, Any]) -> None:
    """A 3 x 3 picture of one colour is a picture of one colour."""
    colour = np.broadcast_to(np.array([250, 5, 5], np.uint8), (3, 3, 3)).copy()
    small, large = network_inputs(kind[1], [colour, np.tile(colour, (20, 20, 1))])
    torch.testing.assert_close(small, large)
    assert small[0].min() > small[1].max()


def test_only_what_is_longer_than_1_to_4_is_stretched() -> None:
    """And then to no more than a network sees."""
    sizes = {(1, 4): (1, 4), (4000, 1000): (4000, 1000), (3, 500): (125, 500)}
    for size, expected in {**sizes, (4000, 900): (2048, 512)}.items():
        picture = np.broadcast_to(_random(1, size[1]), (*size, 3))
        stretched = without_extremes(picture)
        assert stretched.shape == (*expected, 3)
        assert (stretched is picture) == (size == expected)
        if size[1] == expected[1] > 3:
            assert np.array_equal(stretched[0], picture[0]), "columns keep their colours"


def test_half_precision_is_close_and_gives_way_where_it_overflows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CPU stands in for the GPU."""
    assert depth_module.half_precision(torch.device("cuda")) == torch.float16
    torch.manual_seed(0)
    weight = torch.randn(1, 3, 1, 1)

    def model(scale: float) -> Any:
        def forward(pixel_values: torch.Tensor) -> SimpleNamespace:
            product = torch.nn.functional.conv2d(pixel_values, weight * scale)
            return SimpleNamespace(predicted_depth=product[:, 0])

        forward.config = DPTConfig()  # type: ignore[attr-defined]
        return forward

    processor = DPTImageProcessor(size={"height": 8, "width": 8})
    pictures = [_random(8, 8)]
    exact = {scale: predict(model(scale), processor, pictures, CPU)[0] for scale in (1.0, 1e5)}
    monkeypatch.setattr(depth_module, "half_precision", lambda device: torch.float16)
    half = predict(model(1.0), processor, pictures, CPU)[0]
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact[1.0])
    torch.testing.assert_close(half, exact[1.0], rtol=1e-2, atol=1e-2)
    assert torch.equal(predict(model(1e5), processor, pictures, CPU)[0], exact[1e5])


def test_saved_and_loaded_it_is_the_same(folder: Path, tmp_path: Path) -> None:
    """A pin, the folder's SHA-256, is checked."""
    save_dpt(*load_dpt(folder, local=True), tmp_path)
    for name in ("model.safetensors", "preprocessor_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    load_dpt(folder, local=True, revision=sha256(folder))
    one_line(lambda: load_dpt(folder, local=True, revision="0" * 64), "depth.revision expects 0000")


def test_gradient_loss_against_loops() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 2, 4, 5))
    e = a - b
    dx = [abs(e[n, y, x + 1] - e[n, y, x]) for n in range(2) for y in range(4) for x in range(4)]
    dy = [abs(e[n, y + 1, x] - e[n, y, x]) for n in range(2) for y in range(3) for x in range(5)]
    expected = np.abs(e).mean() + np.mean(dx) + np.mean(dy)
    found = gradient_loss(torch.from_numpy(a), torch.from_numpy(b))
    assert float(found) == pytest.approx(expected)


def test_to_unit() -> None:
    depth = to_unit(np.array([[3.0, 5.0], [4.0, 7.0]]))
    np.testing.assert_allclose(depth, [[0, 0.5], [0.25, 1]])
    assert to_unit(np.full((2, 2), 8.0)).max() == 0


def test_rank_correlation_asks_for_the_order_alone() -> None:
    a = np.random.default_rng(3).integers(0, 9, (6, 7)).astype(float)
    assert rank_correlation(a, np.exp(3 * a)) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, np.full((6, 7), 2.0)) == 0


def test_depth_errors_tell_looking_from_guessing() -> None:
    rng = np.random.default_rng(2)
    mean = np.linspace(0, 1, 12).reshape(3, 4)
    exact = mean + rng.normal(0, 0.1, (5, 3, 4))
    blind = depth_errors(np.repeat(mean[None], 5, 0), exact, mean)
    assert blind["mae"] == blind["mae_of_mean_map"] > 0
    assert blind["correlation_beyond_mean_map"] == 0
    assert depth_errors(exact, exact, mean)["mae"] == 0
    for guess, correlation in ((exact, 100), (2 * mean - exact, -100)):
        found = depth_errors(guess, exact, mean)["correlation_beyond_mean_map"]
        assert found == pytest.approx(correlation)


@pytest.mark.skipif(not STANDIN.is_dir(), reason="../shared/weights/dpt-standin is not here")
def test_the_standin_of_shared_loads() -> None:
    model, processor = load_dpt(STANDIN, local=True)
    depth = estimate(model, processor, [np.full((60, 80, 3), 120, np.uint8)], CPU)[0]
    assert depth.shape == (60, 80)
    assert depth[-10:].mean() > depth[:10].mean()  # it says: lower is nearer
