"""This project's tensor names and those of the authors' release, as plain tables.

The tables pair modules; a tensor's own name (weight, bias, running_mean, …) is the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping

BLOCK_LAYERS = {  # of a residual block
    "norm1": "bn_branch2a",
    "conv1": "conv_branch2a",
    "norm2": "bn_branch2b1",
    "conv2": "conv_branch2b1",
    "norm3": "bn_branch2b2",  # the bottlenecks' only
    "conv3": "conv_branch2b2",
    "shortcut": "conv_branch1",
}


def _network() -> dict[str, str]:
    """Our modules of a WideResNet-38 `Network` to the authors'."""
    blocks = {"encoder.stage6": "backbone.b6", "encoder.stage7": "backbone.b7"}
    for stage, count in ((2, 3), (3, 3), (4, 6), (5, 3)):
        for k in range(count):
            blocks[f"encoder.stage{stage}.{k}"] = f"backbone.b{stage}" + (f"_{k}" if k else "")
    names = {"encoder.stem": "backbone.conv1a", "encoder.norm7": "backbone.bn7"}
    for ours, theirs in blocks.items():
        names |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in BLOCK_LAYERS.items()}

    names |= {f"prior.layers.{k}": f"backbone.CondNet.{k}" for k in range(0, 11, 2)}
    for place in range(3):
        for part in ("scale", "shift"):
            for layer in range(2):
                ours = f"fusion.{place}.{part}.{2 * layer}"
                names[ours] = f"backbone.sft{place + 1}.SFT_{part}_conv{layer}"

    for k in range(4):
        names[f"head.decoder.aspp.branches.{k}.0"] = f"classifier.aspp.aspp{k + 1}.atrous_conv"
        names[f"head.decoder.aspp.branches.{k}.1"] = f"classifier.aspp.aspp{k + 1}.bn"
    names |= {
        "head.decoder.aspp.pool.0": "classifier.aspp.global_avg_pool.1",
        "head.decoder.aspp.pool.1": "classifier.aspp.global_avg_pool.2",
        "head.decoder.aspp.project.0": "classifier.aspp.conv1",
        "head.decoder.aspp.project.1": "classifier.aspp.bn1",
    }
    pairs = {  # a convolution (0) and its norm (1)
        "head.decoder.skip": "classifier.fc8_skip",
        "head.decoder.join": "classifier.fc8_x",
        "head.cue.cue": "classifier.shallow_mask.fc_deep",
        "head.cue.shallow": "classifier.shallow_mask.fc_skip",
        "head.cue.out": "classifier.shallow_mask.fc_cls",
        "project_shallow": "classifier.feat",
        "project_deep": "classifier.feat2",
    }
    names |= {f"{ours}.{k}": f"{theirs}.{k}" for ours, theirs in pairs.items() for k in range(2)}
    classify = {"0.0": 0, "0.1": 1, "2.0": 4, "2.1": 5, "4": 8}
    names |= {f"head.classify.{a}": f"classifier.last_conv.{b}" for a, b in classify.items()}
    return names


def _denoiser() -> dict[str, str]:
    """Our modules of a `FeatureDenoiser` without a noise adapter to the authors'."""
    names = {"predict.time": "model.time_embedding"}
    for bottleneck in range(2):
        for k in (0, 1, 3, 4, 6, 7):
            ours = f"predict.layers.{bottleneck}.layers.{k}"
            names[ours] = f"model.pred.{bottleneck}.block.{k}"
    names |= {f"predict.layers.{k}": f"model.pred.{k}" for k in (2, 3)}
    return names | {f"project.{k}": f"proj.{k}" for k in range(2)}


NETWORK: Mapping[str, str] = _network()
DENOISER: Mapping[str, str] = _denoiser()

CLASS_LAYER = "classifier.last_conv.8.weight"
"""The tensor whose first dimension is C."""
TIME_TABLE = "model.time_embedding.weight"
"""The tensor (1280, channels) by which a denoiser is found."""
CONSTANTS = "classifier._aff."
"""PAMR's constant kernels, stored by the authors and needed by nobody."""
FUSION = ("backbone.CondNet.", "backbone.sft")
"""What only a student has: DGF2."""


def authors_name(key: str, table: Mapping[str, str] = NETWORK) -> str:
    """The authors' name of one of our tensors.

    Raises:
        ValueError: the authors' network has no such tensor.
    """
    module, _, tensor = key.rpartition(".")
    if module not in table:
        raise ValueError(f"{key!r} has no place in the authors' network")
    return f"{table[module]}.{tensor}"
