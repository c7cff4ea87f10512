"""The files of a depth model, which come from others: checked before transformers believes them.

transformers' own loaders do whatever a config.json says: run Python files (``auto_map``), fetch
further models and kernels (``backbone``, ``attn_implementation``), take any amount of memory. So
the files are read here, what they may say is listed, and transformers gets plain values only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from dgkd_core.runtime.checked_json import read_checked
from dgkd_core.runtime.checks import shown
from dgkd_core.runtime.errors import InputError, no_such_file, reason
from dgkd_core.runtime.tensors import read_tensors

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
FILES = f"{CONFIG}, {PROCESSOR} and {WEIGHTS}"
LARGEST_SIDE = 2048  # pixels of a network's input

# by the start of transformers' names
_MODELS = {"dpt": "DPT", "depth_anything": "DepthAnything", "zoedepth": "ZoeDepth"}
_BACKBONES = ("beit", "bit", "dinov2", "dinov2_with_registers", "swin", "swinv2")
_FETCHES = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "quantization_config")
_NOT_READ = ("auto_map", "name_or_path", "dtype", "torch_dtype", "backbone_kwargs")
_LAYERS = ("num_hidden_layers", "depths")
_MOST_LAYERS = 200
_MOST_PATCHES = 160  # along a side
_LARGEST = 100_000
# what published DPTs lack: layers that nothing is computed by
_UNUSED = "neck.fusion_stage.layers.0.residual_layer1."

_Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
_Colour = Annotated[float, Field(ge=-1000, le=1000)]
_Spread = Annotated[float, Field(ge=1e-6, le=1000)]


class _Size(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    height: _Side
    width: _Side


class _Processor(BaseModel):
    """What is read of preprocessor_config.json; a key that is missing has transformers' default."""

    model_config = ConfigDict(strict=True, extra="ignore")

    do_resize: Literal[True] = True
    size: _Size | _Side = 384
    keep_aspect_ratio: bool = False
    ensure_multiple_of: _Side = 1
    resample: Annotated[int, Field(ge=0, le=5)] = 3
    do_rescale: bool = True
    rescale_factor: Annotated[float, Field(gt=0, le=1000)] = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[_Colour, _Colour, _Colour] = (0.5, 0.5, 0.5)
    image_std: tuple[_Spread, _Spread, _Spread] = (0.5, 0.5, 0.5)
    do_pad: bool = False
    size_divisor: _Side | None = None


def fetch(hub_id: str, revision: str | None) -> Path:
    """The folder in the hub's cache with the three files of a model, fetched where it lacks them.

    Raises:
        InputError: the hub has no such model, not as safetensors, or cannot be reached.
    """
    from transformers.utils import cached_file

    try:
        config = Path(str(cached_file(hub_id, CONFIG, revision=revision or "main")))
        for name in (PROCESSOR, WEIGHTS):
            cached_file(hub_id, name, revision=config.parent.name)  # the same commit
    except Exception as error:  # the hub's library has a score of them
        raise InputError(f"cannot be fetched ({reason(error)})") from error
    return config.parent


def _clean(value: Any, path: Path, key: str = "the file") -> Any:
    """A config's value without what would run or fetch something; sizes are those of a network."""
    if isinstance(value, dict):
        for name in _FETCHES:
            if value.get(name):
                raise InputError(
                    f"{path}: {name} is {shown(value[name])}, which would be fetched from "
                    f"elsewhere; expected a backbone_config in its place, or nothing"
                )
        read = (name for name in value if not name.startswith("_") and name not in _NOT_READ)
        return {
            name: _clean(value[name], path, name) for name in read if "_implementation" not in name
        }
    if isinstance(value, list):
        if len(value) > _MOST_LAYERS:
            raise InputError(
                f"{path}: {shown(key)} has {len(value)} items, expected at most {_MOST_LAYERS}"
            )
        value = [_clean(item, path, key) for item in value]
    items = value if isinstance(value, list) else [value]
    numbers = [number for number in items if isinstance(number, (int, float))]
    if not all(-_LARGEST <= number <= _LARGEST for number in numbers):
        raise InputError(
            f"{path}: {shown(key)} is {shown(value)}, expected numbers up to {_LARGEST}"
        )
    if key in _LAYERS and sum(numbers) > _MOST_LAYERS:
        raise InputError(f"{path}: {key} is {shown(value)}, expected at most {_MOST_LAYERS} layers")
    return value


def read_config(path: Path) -> tuple[Any, Any]:
    """The config in a config.json and the class of its model.

    Raises:
        InputError: it is damaged, another kind of model, too large, or names what is elsewhere.
    """
    values = _clean(read_checked(path, dict[str, Any], FILES), path)
    kind = values.pop("model_type", None)
    if not isinstance(kind, str) or kind not in _MODELS:
        raise InputError(f"{path}: model_type is {shown(kind)}, expected {', '.join(_MODELS)}")
    if values.get("max_depth", 1) is None:  # in files of Depth Anything: transformers' default
        del values["max_depth"]
    inner = values.get("backbone_config")
    named = inner.get("model_type") if isinstance(inner, dict) else None
    bit_by_default = isinstance(inner, dict) and named is None  # as DPTConfig has it
    if inner is not None and not bit_by_default and named not in _BACKBONES:
        raise InputError(
            f"{path}: backbone_config has the model_type {shown(named)}, "
            f"expected {', '.join(_BACKBONES)}"
        )
    import transformers

    config_class = getattr(transformers, f"{_MODELS[kind]}Config")
    model_class = getattr(transformers, f"{_MODELS[kind]}ForDepthEstimation")
    try:
        config = config_class.from_dict(values)
    except Exception as error:  # every config checks its values in its own way
        said = f"not a {kind} that transformers knows ({reason(error)})"
        raise InputError(f"{path}: {said}") from error
    if sees_a_square(config):
        side = config.image_size
        if type(side) is not int or not 1 <= side <= LARGEST_SIDE:
            raise InputError(f"{path}: image_size is {shown(side)}, expected 1 to {LARGEST_SIDE}")
    return config, model_class


def is_metric(config: Any) -> bool:
    """Whether the network gives metres (far = large) instead of relative inverse depth."""
    metric_kind = getattr(config, "depth_estimation_type", None) == "metric"
    return config.model_type == "zoedepth" or metric_kind


def sees_a_square(config: Any) -> bool:
    """Whether only pictures of image_size x image_size come out right.

    transformers lays the patches of such a DPT (Intel/dpt-large, dpt-hybrid-midas) out as a square,
    whatever the picture was.
    """
    return config.model_type == "dpt" and (config.is_hybrid or config.backbone_config is None)


def check_patches(config: Any, processor: Any) -> None:
    """Check that one picture does not take hours.

    Raises:
        InputError: the input has more than 160 patches a side.
    """
    sizes = [getattr(part, "patch_size", None) for part in (config.backbone_config, config)]
    patch: Any = next((size for size in sizes if size), LARGEST_SIDE)
    patches = patch if isinstance(patch, (list, tuple)) else [patch]
    side = max(processor.size["height"], processor.size["width"])
    if not all(type(size) is int and side <= _MOST_PATCHES * size for size in patches):
        raise InputError(
            f"{CONFIG}: an input of {side} pixels and a patch_size of {shown(patch)}, expected at "
            f"most {_MOST_PATCHES} patches a side"
        )


def read_processor(path: Path) -> Any:
    """The image processor that a preprocessor_config.json describes.

    Raises:
        InputError: it is damaged or a value is out of range.
    """
    from transformers import DPTImageProcessor

    try:
        given = read_checked(path, dict[str, Any], FILES)
        given = {key: value for key, value in given.items() if value is not None}
        values = _Processor.model_validate_json(json.dumps(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path}: {key} is {shown(first['input'])}: {reason(ValueError(first['msg']))}"
        ) from error
    if values.size_divisor is None:  # ZoeDepth pads in a way of its own
        values.do_pad = False
    return DPTImageProcessor(**values.model_dump(exclude_unset=True))


def _check_room(path: Path, model_class: Any, config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a config whose network would take far more memory than the tensors do."""
    with torch.device("meta"):
        model = model_class(config)
    needed = sum(value.numel() for value in chain(model.parameters(), model.buffers()))
    held = sum(value.numel() for value in tensors.values())
    if needed > 2 * held + (1 << 20):
        raise InputError(
            f"{path}: describes a network of {needed} numbers, expected one of the {held} in "
            f"{WEIGHTS}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No table of the tensors that do not fit: what is wrong is reported in one line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def read_model(folder: Path, config: Any, model_class: Any) -> Any:
    """The network that a config describes with the weights of model.safetensors, float32.

    Raises:
        InputError: the weights are missing, damaged, not finite or not those of that network.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = sorted(file.name for file in folder.glob("*.bin"))
        beside = f" (beside {', '.join(pickled[:3])}, which is not unpickled)" if pickled else ""
        raise InputError(f"{path}: {no_such_file(path)}{beside}, expected weights as safetensors")
    tensors = read_tensors(path)
    try:
        _check_room(folder / CONFIG, model_class, config, tensors)
        with _quiet():
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except InputError:
        raise
    except Exception as error:  # a config of odd values can fail anywhere
        raise InputError(
            f"{folder}: {CONFIG} and {WEIGHTS} are not one network ({reason(error)})"
        ) from error
    lacking = sorted(name for name in report["missing_keys"] if not name.startswith(_UNUSED))
    if lacking:
        more = f" and {len(lacking) - 1} more" if lacking[1:] else ""
        raise InputError(
            f"{path}: lacks {shown(lacking[0])}{more}, expected all tensors of the network in "
            f"{CONFIG}"
        )
    for name, value in model.float().state_dict().items():
        if not value.isfinite().all():
            raise InputError(f"{path}: {name} holds NaN or infinity, expected finite numbers")
    return model
