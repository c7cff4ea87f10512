"""A tiny depth network of another kind than the project's own."""

from __future__ import annotations

from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config


def tiny_depth_anything(side: int) -> DepthAnythingForDepthEstimation:
    """A Depth-Anything for pictures of ``side`` pixels, a multiple of 14."""
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=side,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    return DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=16,
            neck_hidden_sizes=[8, 8, 8, 8],
            fusion_hidden_size=8,
            head_hidden_size=4,
            patch_size=14,
        )
    )
