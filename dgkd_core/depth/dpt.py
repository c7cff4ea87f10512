"""Depth from a picture: transformers' DPT, and a small one trained on the built-in scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dgkd_core.depth.files import (
    CONFIG,
    PROCESSOR,
    check_patches,
    fetch,
    is_metric,
    read_config,
    read_model,
    read_processor,
    sees_a_square,
)
from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.files import check_pin

if TYPE_CHECKING:
    from transformers import DPTForDepthEstimation, DPTImageProcessor

MOST_ASPECT = 4  # a DPT's input is at most so many times as long as it is wide
LONGEST = 2048  # pixels that the long side of a stretched picture keeps


def small_dpt(size: int, width: int) -> tuple[DPTForDepthEstimation, DPTImageProcessor]:
    """A hybrid DPT (convolutional stem) that two CPU cores can train, with its image processor.

    A plain ViT of this size learns little more than the mean depth map from a few hundred steps;
    with a convolutional stem it learns to look at the picture.

    Args:
        size: side of the input, pixels, a multiple of 32.
        width: channels of the transformer, a multiple of 4.
    """
    from transformers import BitConfig, DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    stem = [32, 64, 128]
    convolutional: dict[str, Any] = {
        "embedding_size": 16,
        "hidden_sizes": stem,
        "depths": [1, 1, 2],
        "layer_type": "preactivation",
        "global_padding": "same",
        "num_groups": 8,
        "out_features": ["stage1", "stage2", "stage3"],
        "embedding_dynamic_padding": True,
    }
    config = DPTConfig(
        is_hybrid=True,
        backbone_config=BitConfig(**convolutional),
        backbone_featmap_shape=[1, stem[-1], size // 16, size // 16],
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=2 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_size=size,
        patch_size=16,
        backbone_out_indices=[0, 1, 1, 2],
        neck_hidden_sizes=[*stem[:2], 96, 96],
        neck_ignore_stages=[0, 1],
        reassemble_factors=[1, 1, 1, 0.5],
        fusion_hidden_size=32,
        readout_type="project",
        use_auxiliary_head=False,
    )
    side = {"height": size, "width": size}
    processor = DPTImageProcessor(
        size=side,
        do_resize=True,
        do_rescale=True,
        do_normalize=True,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return DPTForDepthEstimation(config), processor


def load_dpt(source: str | Path, local: bool, revision: str | None = None) -> tuple[Any, Any]:
    """A depth model and its image processor from a folder, or from the hub by id.

    The folder (of a hub id: the one in the hub's cache) holds config.json, preprocessor_config.json
    and model.safetensors. No code in it is run, and nothing that it names is fetched.

    Args:
        revision: pins the model: a commit or tag on the hub, or the SHA-256 of a local folder.

    Raises:
        InputError: there is no such model, it is not a depth model or not the pinned one, a file
            is damaged, or the network does not give a depth map of a plain picture.
    """
    if local:
        check_pin(source, revision, "depth.revision")
    _no_progress_bar()
    try:
        folder = Path(source) if local else fetch(str(source), revision)
        config, model_class = read_config(folder / CONFIG)
        processor = read_processor(folder / PROCESSOR)
        model = read_model(folder, config, model_class).eval()
        if sees_a_square(config):
            side = config.image_size
            processor.size = {"height": side, "width": side}
            processor.keep_aspect_ratio, processor.ensure_multiple_of = False, 1
        check_patches(config, processor)
        _try_out(model, processor)
    except InputError as error:
        raise InputError(f"depth.model is {str(source)!r}: {error}") from error
    return model, processor


def _no_progress_bar() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _try_out(model: Any, processor: Any) -> None:
    """Refuse a network that gives no depth map of a grey picture: its config can say anything."""
    try:
        (depth,) = predict(model, processor, [np.full((48, 64, 3), 90, np.uint8)], model.device)
    except Exception as error:  # every layer fails in its own way
        raise InputError(f"the network cannot be run ({reason(error)})") from error
    if depth.ndim != 2 or not depth.isfinite().all():
        raise InputError(
            f"the network gives {tuple(depth.shape)} numbers that are not all finite, or no map; "
            f"expected (height, width) finite ones"
        )


def save_dpt(model: Any, processor: Any, folder: Path) -> None:
    """Save both in Hugging Face format."""
    _no_progress_bar()
    model.save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)


def gradient_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute error of (N, H, W) depth plus that of its horizontal and vertical steps."""
    error = predicted - truth
    dx, dy = error.diff(dim=-1).abs().mean(), error.diff(dim=-2).abs().mean()
    return error.abs().mean() + dx + dy


def without_extremes(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, stretched to 1:4 where it is longer than that, else as it is.

    A processor that keeps the aspect ratio (Depth-Anything) would scale 3 x 500 pixels to a height
    that it rounds to 0 patches, and a strip as high as the network's input to thousands of them.
    """
    height, width = picture.shape[:2]
    long = min(max(height, width), LONGEST)
    short = -(-long // MOST_ASPECT)
    if max(height, width) <= MOST_ASPECT * min(height, width):
        return picture
    size = (long, short) if width > height else (short, long)
    return np.array(Image.fromarray(picture, "RGB").resize(size, Image.Resampling.BILINEAR))


def network_inputs(processor: Any, pictures: Sequence[np.ndarray]) -> list[Tensor]:
    """Pictures of any sizes, (H, W, 3) uint8 each, as the network's input, (3, h, w) float each."""
    # the layout is named: of 3 x 500 x 3 numbers the processor would take the first for the colours
    inputs = processor(
        images=[without_extremes(picture) for picture in pictures],
        input_data_format="channels_last",
    )
    return [torch.as_tensor(pixels) for pixels in inputs["pixel_values"]]


def half_precision(device: torch.device) -> torch.dtype | None:
    """float16 on a GPU, None (float32) elsewhere.

    bfloat16 would leave 128 steps of depth between two powers of two, float16 leaves 1,024.
    """
    return torch.float16 if device.type == "cuda" else None


def nearness(model: Any, pixels: Tensor) -> Tensor:
    """(N, 3, h, w) to (N, h, w), larger = nearer: relative inverse depth, or the negative metres of
    a metric model."""
    depth: Tensor = model(pixel_values=pixels).predicted_depth
    return -depth if is_metric(model.config) else depth


def _forward(model: Any, pixels: Tensor) -> Tensor:
    """`nearness` in half precision where that is enough, as float32."""
    half = half_precision(pixels.device)
    if half is not None:
        with torch.autocast(pixels.device.type, half):
            depth = nearness(model, pixels).float()
        if depth.isfinite().all():  # float16 ends at 65,504
            return depth
    return nearness(model, pixels).float()


@torch.inference_mode()
def predict(
    model: Any, processor: Any, pictures: Sequence[np.ndarray], device: torch.device
) -> list[Tensor]:
    """Depth at the network's own resolution; pictures of one shape run as a batch.

    Args:
        pictures: (H, W, 3) uint8 each, of any sizes.

    Returns:
        (h, w) float32 on the device each, larger = nearer, not normalised.
    """
    inputs = network_inputs(processor, pictures)
    maps: dict[int, Tensor] = {}
    for shape in dict.fromkeys(pixels.shape for pixels in inputs):
        same = [i for i, pixels in enumerate(inputs) if pixels.shape == shape]
        batch = torch.stack([inputs[i] for i in same]).to(device)
        maps.update(zip(same, _forward(model, batch), strict=True))
    return [maps[i] for i in range(len(inputs))]


@torch.inference_mode()
def estimate(
    model: Any, processor: Any, pictures: Sequence[np.ndarray], device: torch.device
) -> list[np.ndarray]:
    """Depth of pictures of any sizes.

    Args:
        pictures: (H, W, 3) uint8 each.

    Returns:
        (H, W) float32 each, larger = nearer, not normalised.
    """
    maps = predict(model, processor, pictures, device)
    found = []
    for depth, picture in zip(maps, pictures, strict=True):
        size = picture.shape[:2]
        full = F.interpolate(depth[None, None], size, mode="bicubic", align_corners=False)
        found.append(full[0, 0].cpu().numpy())
    return found


def to_unit(depth: np.ndarray) -> np.ndarray:
    """(H, W) of any range to [0, 1], smallest 0 and largest 1; a flat map becomes 0."""
    low, high = float(depth.min()), float(depth.max())
    if high - low < 1e-12:
        return np.zeros(depth.shape, np.float32)
    return ((depth - low) / (high - low)).astype(np.float32)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two depth maps of one shape, -1 to 1; 0 where one is flat.

    It asks for the order of near and far only: no scale, shift or curve of the depth changes it.
    """
    from scipy.stats import spearmanr

    if min(np.ptp(a), np.ptp(b)) == 0:
        return 0.0
    return float(spearmanr(a, b, axis=None).statistic)


def depth_errors(guess: np.ndarray, exact: np.ndarray, mean_map: np.ndarray) -> dict[str, float]:
    """How well depth is known, and how much better than without looking at the picture.

    Args:
        guess, exact: (N, H, W) depth.
        mean_map: (H, W), mean depth of the training pictures, the guess of who sees nothing.

    Returns:
        mean absolute errors of ``guess`` and of the mean map, in percent of the range, and the
        correlation, in percent, of what guess and truth have beyond the mean map.
    """
    beyond, true_beyond = (guess - mean_map).ravel(), (exact - mean_map).ravel()
    correlation = 0.0
    if beyond.std() > 0 and true_beyond.std() > 0:
        correlation = float(np.corrcoef(beyond, true_beyond)[0, 1])
    return {
        "mae": 100 * float(np.abs(guess - exact).mean()),
        "mae_of_mean_map": 100 * float(np.abs(mean_map - exact).mean()),
        "correlation_beyond_mean_map": 100 * correlation,
    }
