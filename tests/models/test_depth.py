"""The depth model: the small DPT, its way to a folder and back, and how its error is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dgkd_core.errors import InputError
from dgkd_core.files import sha256
from dgkd_core.models.depth import (
    depth_errors,
    estimate,
    gradient_loss,
    load_dpt,
    save_dpt,
    small_dpt,
    to_unit,
)

CPU = torch.device("cpu")
STANDIN = Path(__file__).resolve().parents[3] / "shared/weights/dpt-standin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dpt")
    save_dpt(*small_dpt(32, 16), path)
    return path


@pytest.mark.parametrize("size", [(40, 57), (32, 32), (9, 90)])
def test_a_map_has_its_pictures_size(folder: Path, size: tuple[int, int]) -> None:
    model, processor = load_dpt(folder, local=True)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(2)]
    maps = estimate(model, processor, pictures, CPU)
    assert [depth.shape for depth in maps] == [size, size]
    assert all(np.isfinite(depth).all() for depth in maps)
    alone = estimate(model, processor, pictures[1:], CPU)[0]
    np.testing.assert_allclose(alone, maps[1], atol=1e-5)


def test_saved_and_loaded_it_is_the_same(folder: Path, tmp_path: Path) -> None:
    model, processor = load_dpt(folder, local=True)
    save_dpt(model, processor, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    picture = np.full((32, 48, 3), 90, np.uint8)
    again = load_dpt(tmp_path, local=True)
    np.testing.assert_array_equal(
        estimate(*again, [picture], CPU)[0], estimate(model, processor, [picture], CPU)[0]
    )


def test_every_weight_of_the_small_dpt_that_is_used_gets_a_finite_gradient() -> None:
    torch.manual_seed(0)
    model, _ = small_dpt(32, 16)
    model.train()
    predicted = model(pixel_values=torch.rand(2, 3, 32, 32)).predicted_depth
    gradient_loss(predicted, torch.rand_like(predicted)).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert sum(bool(grad.abs().max() > 0) for grad in grads) > 0.8 * len(grads)


def test_a_pinned_folder_is_checked(folder: Path) -> None:
    load_dpt(folder, local=True, revision=sha256(folder))
    with pytest.raises(InputError, match=r"depth\.revision expects 0000") as caught:
        load_dpt(folder, local=True, revision="0" * 64)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_depth_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError) as caught:
            load_dpt(path, local=True)
        assert "\n" not in str(caught.value)
        assert "depth.model" in str(caught.value)


def test_gradient_loss_against_loops() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 4, 5)), rng.random((2, 4, 5))
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


def test_depth_errors_tell_looking_from_guessing() -> None:
    rng = np.random.default_rng(2)
    mean = np.linspace(0, 1, 12).reshape(3, 4)
    exact = mean + rng.normal(0, 0.1, (5, 3, 4))
    blind = depth_errors(np.repeat(mean[None], 5, 0), exact, mean)
    assert blind["mae"] == blind["mae_of_mean_map"] > 0
    assert blind["correlation_beyond_mean_map"] == 0
    perfect = depth_errors(exact, exact, mean)
    assert perfect["mae"] == 0
    assert perfect["correlation_beyond_mean_map"] == pytest.approx(100)
    opposite = depth_errors(2 * mean - exact, exact, mean)
    assert opposite["correlation_beyond_mean_map"] == pytest.approx(-100)


@pytest.mark.skipif(not STANDIN.is_dir(), reason="../shared/weights/dpt-standin is not here")
def test_the_standin_of_shared_loads() -> None:
    model, processor = load_dpt(STANDIN, local=True)
    depth = estimate(model, processor, [np.full((60, 80, 3), 120, np.uint8)], CPU)[0]
    assert depth.shape == (60, 80)
    assert depth[-10:].mean() > depth[:10].mean()  # it says: lower is nearer
