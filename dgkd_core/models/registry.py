"""Networks built from a config, and saved to and loaded from a folder.

A model folder holds ``model.safetensors`` and ``model.json``; the JSON says how to rebuild the
network and how to prepare its input. A folder may come from anybody: its JSON is checked before
anything is built, and the tensors must be exactly those of the network.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import nn

from dgkd_core.config.choices import (
    BACKBONE,
    MEAN,
    MOST_CLASSES,
    STD,
    ClassName,
    Exposure,
    Fusion,
    Rate,
)
from dgkd_core.models.encoder import Encoder
from dgkd_core.models.network import Network, Segmenter
from dgkd_core.models.timm_encoder import TimmEncoder, Triple, statistics
from dgkd_core.models.wide_resnet import WideResNet38
from dgkd_core.runtime.checked_json import read_checked
from dgkd_core.runtime.checks import shown
from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.files import atomic_folder, check_pin, write_json
from dgkd_core.runtime.paths import resolve
from dgkd_core.runtime.tensors import first_names, fitting, read_tensors

Positive = Annotated[float, Field(gt=0)]
ARCHITECTURE = ("backbone", "output_stride", "width", "aspp_rates", "global_context")


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to rebuild a network and to prepare its input.

    ``kind`` is network or segmenter; ``classes`` are the names; ``exposure`` is the brightening of
    a dark picture; ``frozen``: the backbone's first convolution and norms are not trained;
    ``focal`` is that of `class_scores`; ``mean`` and ``std`` normalise the input as the backbone's
    weights expect; ``global_context`` is that of `Head`.
    """

    kind: Literal["network", "segmenter"]
    classes: Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=MOST_CLASSES)]
    backbone: Annotated[str, Field(pattern=BACKBONE)]
    output_stride: Literal[8, 16, 32]
    width: Annotated[int, Field(ge=1, le=1024)]
    aspp_rates: tuple[Rate, Rate, Rate]
    dgf2: Fusion
    exposure: Exposure
    frozen: bool
    focal: Annotated[float, Field(gt=0, le=1)] = 0.3
    mean: Triple = MEAN
    std: tuple[Positive, Positive, Positive] = STD
    global_context: bool = True

    @classmethod
    def of(
        cls,
        section: Any,
        kind: Any,
        classes: tuple[str, ...],
        *,
        dgf2: Any,
        exposure: Any,
        norms: str = "trained",
        focal: float = 0.3,
        parent: ModelConfig | None = None,
    ) -> ModelConfig:
        """The config that the ``model`` section of params.yaml asks for.

        Args:
            parent: of the network whose weights it starts from, if it does.

        Raises:
            InputError: the parent has another architecture.
        """
        known = None
        if parent is None and section.weights is not None:
            known = statistics(section.backbone.removeprefix("timm:"))
        mean, std = (parent.mean, parent.std) if parent else known or (MEAN, STD)
        config = cls(
            kind,
            classes,
            section.backbone,
            section.output_stride,
            section.width,
            tuple(section.aspp_rates),
            dgf2,
            exposure,
            frozen=norms == "frozen" and section.weights is not None,
            focal=focal,
            mean=mean,
            std=std,
            global_context=section.global_context,
        )
        for key in ARCHITECTURE if parent else ():
            wanted, found = getattr(config, key), getattr(parent, key)
            if wanted != found:
                raise InputError(
                    f"model.{key} is {wanted}, expected {found} as in the network whose weights "
                    f"are taken over, or init: weights"
                )
        return config


def build_encoder(backbone: str, output_stride: int = 8, pretrained: bool = False) -> Encoder:
    """A backbone by name: wide_resnet38, resnet18/34/50/101 (timm's) or timm:NAME.

    NAME is an architecture that timm knows, never hf-hub:… or a path. ``pretrained`` lets timm
    fetch its default ImageNet weights (needs the network once); otherwise nothing is fetched.

    Raises:
        InputError: there is no such backbone, not with this stride, or its weights cannot be had.
    """
    if backbone == "wide_resnet38":
        if output_stride != 8:
            raise InputError(f"model.output_stride is {output_stride}: wide_resnet38 has 8 only")
        if pretrained:
            raise InputError(
                "model.weights is imagenet: no library hands out WideResNet-38 weights, "
                "expected a local file"
            )
        return WideResNet38()
    if not re.fullmatch(BACKBONE, backbone):
        raise InputError(
            f"model.backbone is {shown(backbone)}, expected wide_resnet38, resnet18/34/50/101 or "
            f"timm:NAME, NAME being one of timm's architectures (no hub id, no path)"
        )
    try:
        return TimmEncoder(backbone.removeprefix("timm:"), output_stride, pretrained)
    except Exception as error:  # AssertionError, KeyError …: as many as timm has architectures
        raise InputError(
            f"model.backbone is {shown(backbone)}: it cannot be built with output stride "
            f"{output_stride} ({reason(error)}), docs/backbones.md lists some that can"
        ) from error


def load_backbone(encoder: Encoder, path: Path, digest: str | None = None) -> list[str]:
    """Load a backbone's weights from a published file; returns the unused tensors.

    Raises:
        InputError: the file is not the one pinned by ``digest``, a tensor of the backbone is
            missing there, has another shape or is not finite, or the file holds layers that the
            backbone lacks.
    """
    if path.is_file():
        check_pin(path, digest, "model.weights_sha256")
    source = read_tensors(path)

    def names(key: str) -> tuple[str, ...]:
        """timm's features_only makes stages_0 of stages.0, or puts a prefix in front."""
        return key, key.replace("_", ".", 1), key.removeprefix("model.")

    state, used = fitting(encoder.backbone.state_dict(), source, path, "this backbone", names)
    unused = sorted(set(source) - used)
    parts = {name.split(".")[0] for name in used}
    foreign = [name for name in unused if name.split(".")[0] in parts]
    if foreign:
        raise InputError(f"{path}: holds {shown(foreign[0])}, which this backbone does not have")
    encoder.backbone.load_state_dict(state)
    return unused


def build(config: ModelConfig, initialisation: str = "pytorch") -> Network | Segmenter:
    """A network with random weights, its head's drawn as params' model.initialisation says.

    Raises:
        InputError: depth cannot be fused into this backbone.
    """
    encoder = build_encoder(config.backbone, config.output_stride)
    curve = config.exposure == "curve"
    size = (config.width, config.dgf2, config.aspp_rates)
    common = (encoder, len(config.classes), *size, curve, config.global_context)
    if config.dgf2 != "off" and not encoder.fusible:
        raise InputError(
            f"model.dgf2 is {config.dgf2}: depth cannot be fused into the levels of "
            f"{config.backbone}, expected off"
        )
    model = Network(*common, config.focal) if config.kind == "network" else Segmenter(*common)
    model.mean, model.std = config.mean, config.std
    if initialisation == "kaiming":
        model.initialise()
    if config.frozen:
        encoder.freeze()
    return model


def first_weights(
    model: Network | Segmenter, config: ModelConfig, section: Any
) -> list[nn.Parameter]:
    """Load the backbone's weights as ``model.weights`` says: a file, ``imagenet`` or none.

    Returns:
        the parameters that are pretrained now.

    Raises:
        InputError: the file is missing, not the pinned one or not for this backbone, or ImageNet
            weights cannot be fetched.
    """
    if section.weights is None:
        return []
    if section.weights == "imagenet":
        try:
            fetched = build_encoder(config.backbone, config.output_stride, pretrained=True)
        except InputError as error:
            if error.__cause__ is None:  # there are none for this backbone
                raise
            raise InputError(
                f"model.weights is imagenet: those of {config.backbone} cannot be fetched "
                f"({reason(error.__cause__)}), expected a network connection, or a local file"
            ) from error
        model.encoder.backbone.load_state_dict(fetched.backbone.state_dict())
    else:
        path = resolve(section.weights)
        unused = load_backbone(model.encoder, path, section.weights_sha256)
        others = f", {len(unused)} not ({shown(unused[0])} …)" if unused else ""
        print(f"{path}: {len(model.encoder.backbone.state_dict())} tensors used{others}")
    return list(model.encoder.backbone.parameters())


def inherit(model: nn.Module, parent: nn.Module) -> list[nn.Parameter]:
    """Copy every tensor of ``parent`` that fits by name and shape; returns these parameters."""
    own = model.state_dict()
    shared = {
        key: value
        for key, value in parent.state_dict().items()
        if key in own and own[key].shape == value.shape
    }
    model.load_state_dict(shared, strict=False)
    return [parameter for name, parameter in model.named_parameters() if name in shared]


def save_model(folder: str | Path, model: nn.Module, config: ModelConfig) -> None:
    """Write a model folder, atomically."""
    with atomic_folder(folder) as part:
        state = {
            key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()
        }
        save_file(state, part / "model.safetensors")
        write_json(part / "model.json", asdict(config))


def read_model_config(folder: str | Path) -> ModelConfig:
    """The config in a model folder.

    Raises:
        InputError: model.json is missing or does not describe a network.
    """
    return read_checked(Path(folder) / "model.json", ModelConfig, "a model folder's description")


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Any, ModelConfig]:
    """A network from its folder, in evaluation mode, and its config.

    Raises:
        InputError: model.json or model.safetensors is missing, damaged or hostile, or one does not
            fit the other, or a weight is not finite.
    """
    config = read_model_config(folder)
    try:
        with torch.device("meta"):  # shapes alone: no memory is taken for what does not fit
            wanted = build(config).state_dict()
    except (InputError, ValueError, RuntimeError) as error:
        raise InputError(f"{Path(folder) / 'model.json'}: {reason(error)}") from error
    path = Path(folder) / "model.safetensors"
    tensors = read_tensors(path)
    what = "the network that model.json describes"
    state, used = fitting(wanted, tensors, path, what)
    for others, verb in ((wanted.keys() - used, "lacks"), (tensors.keys() - used, "holds")):
        if others:
            names = first_names(sorted(others))
            raise InputError(
                f"{path}: {verb} {names}, expected the {len(wanted)} tensors of {what}"
            )
    model = build(config)
    model.load_state_dict(state)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval(), config


def load_given(
    key: str, folder: Path, pin: str | None, kind: str, classes: tuple[str, ...], depth: bool
) -> tuple[Any, ModelConfig]:
    """A model that params name under ``key``, on the CPU, and its config.

    Args:
        pin: SHA-256 of the folder; None: any content.
        kind, classes: what it must be.
        depth: whether there are depth maps for it to fuse.

    Raises:
        InputError: it is not the pinned one, another kind, for other classes, fuses depth that
            there is not, or cannot be loaded.
    """
    check_pin(folder, pin, f"{key}_sha256")
    model, config = load_model(folder)
    if config.kind != kind or config.classes != classes:
        raise InputError(
            f"{folder}: a {config.kind} for {', '.join(config.classes)}, {key} expects a {kind} "
            f"for {', '.join(classes)}"
        )
    if config.dgf2 != "off" and not depth:
        raise InputError(f"{folder}: it fuses depth, {key} expects a {kind} that does not")
    return model, config
