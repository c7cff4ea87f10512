"""What is measured: params.yaml with the options of the command line laid over it.

Torch is not imported here, so that --help and --compare answer at once.
"""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from dgkd_core.config.params import load_params, validate
from dgkd_core.config.schema import Params
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.parallel import cores
from dgkd_core.scenes.drawing import CLASSES, MAX_SIZE, MIN_SIZE

DTYPES = ("float32", "bfloat16", "float16")
CASES: dict[str, tuple[str, ...]] = {  # of each benchmark; every case has a process of its own
    "step": ("",),
    "train": ("",),
    "inference": ("",),
    "cam": ("",),
    "depth": ("",),
    "darken": ("", "in processes"),
    "data": ("first visit", "kept"),
    "export": ("PyTorch", "onnxruntime"),
    "backbones": (
        "resnet18",
        "resnet50",
        "wide_resnet38",
        "timm:tf_efficientnet_lite0",
        "timm:convnext_atto",
        "timm:convnext_tiny",
        "timm:swin_tiny_patch4_window7_224",
        "timm:swinv2_tiny_window8_256",
        "timm:pvt_v2_b0",
        "timm:hrnet_w18_small",
        "timm:vit_tiny_patch16_224",
        "timm:vit_small_patch14_dinov2",
        "timm:vit_small_patch14_reg4_dinov2",
        "timm:vit_small_patch16_dinov3",
        "timm:vit_base_patch16_clip_224",
    ),
}
USUAL = [name for name in CASES if name != "backbones"]  # those that run where none is named
# an option and the keys of params.yaml that it stands for
KEYS = {
    "backbone": ("model.backbone",),
    "width": ("model.width",),
    "crop": ("distill.crop",),
    "batch": ("distill.batch", "cam.batch", "depth.batch", "evaluate.batch"),
    "threads": ("threads",),
    "compile": ("compile",),
}


@dataclass(frozen=True)
class Options:
    """Sizes and settings of every benchmark.

    Attributes:
        params: sizes and settings of the chain.
        device: cpu, cuda or cuda:N; None: that of the stages.
        dtype: one of `DTYPES`, of inference and cam.
        size: side of a picture, pixels.
        classes: number of foreground classes.
    """

    params: Params
    device: str | None
    dtype: str
    warmup: int
    repeats: int
    size: int
    classes: int

    @classmethod
    def of(cls, args: Namespace) -> Options:
        """From the command line and params.yaml.

        Raises:
            InputError: a value is out of its range.
        """
        values = load_params().model_dump(by_alias=True, mode="json")
        for option, keys in KEYS.items():
            for key in keys if getattr(args, option) is not None else ():
                *section, name = key.split(".")
                (values[section[0]] if section else values)[name] = getattr(args, option)
        try:
            params = validate(values, "options")
        except InputError as error:
            raise InputError(str(error).splitlines()[0]) from error
        for name, low in (("warmup", 0), ("repeats", 1), ("classes", 1)):
            if (value := getattr(args, name)) < low:
                raise InputError(f"--{name} is {value}, expected at least {low}")
        if args.device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", args.device):
            raise InputError(f"--device is {args.device!r}, expected cpu, cuda or cuda:N")
        usual = min(MAX_SIZE, max(MIN_SIZE, round(params.distill.crop * 4 / 3)))
        size = usual if args.size is None else args.size
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise InputError(f"--size is {size}, expected {MIN_SIZE} to {MAX_SIZE} pixels")
        return cls(params, args.device, args.dtype, args.warmup, args.repeats, size, args.classes)

    @property
    def threads(self) -> int:
        return self.params.threads or cores()

    @property
    def calls(self) -> int:
        return self.warmup + self.repeats

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the scenes, and invented ones where more are wanted."""
        more = (f"class {i + 1}" for i in range(len(CLASSES), self.classes))
        return (*CLASSES, *more)[: self.classes]

    def summary(self) -> dict[str, Any]:
        """The options for the report."""
        params, section = self.params, self.params.distill
        return {
            "device": self.device,
            "dtype": self.dtype,
            "warmup": self.warmup,
            "repeats": self.repeats,
            "size": self.size,
            "classes": self.classes,
            "backbone": params.model.backbone,
            "width": params.model.width,
            "crop": section.crop,
            "batch": section.batch,
            "threads": self.threads,
            "compile": params.compile,
            "deterministic": params.deterministic,
        }
