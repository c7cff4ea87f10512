"""The folder that the stage ``package`` writes: all that a dark photograph needs to become a mask.

model.json, model.safetensors    the segmenter (dgkd_core.models.registry)
inference.json                   how a photograph is run through it: `Settings`
run.json                         where it comes from: `Run`
README.md                        the model card
depth/                           the DPT, in Hugging Face format, where depth is estimated
student/                         the student, for class maps, where package.student says so
examples/                        not written: photographs of yours, for the page of `dgkd serve`
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from safetensors import safe_open
from safetensors.torch import save_file

from dgkd_core.config.choices import MOST_CLASSES, Exposure
from dgkd_core.config.schema import DATA_ROOTS, Params, Scale, Sha256
from dgkd_core.deploy.version import __version__
from dgkd_core.depth.files import CONFIG, PROCESSOR, WEIGHTS
from dgkd_core.runtime.checked_json import read_checked
from dgkd_core.runtime.checks import holds_control_characters, shown
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import sha256, write_json
from dgkd_core.runtime.paths import resolve
from dgkd_core.runtime.tensors import read_tensors

INFERENCE, RUN, CARD, DEPTH, STUDENT = "inference.json", "run.json", "README.md", "depth", "student"
NETWORK_FILES = ("model.json", "model.safetensors")
DEPTH_FILES = (CONFIG, PROCESSOR, WEIGHTS)
LARGEST_HALF = torch.finfo(torch.float16).max

DepthKind = Literal["off", "dpt", "given", "gradient"]
Light = Literal["dark", "normal"]


def _printable(text: str) -> str:
    if holds_control_characters(text):
        raise ValueError("holds a control character, expected plain text")
    return text


Text = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Percent = Annotated[float, Field(ge=0, le=100)]


@dataclass(frozen=True)
class Settings:
    """How a photograph is run through the networks: as the chain ran its dark val pictures.

    ``depth`` is where the depth map comes from: ``off`` (the networks fuse none), ``dpt`` (the
    folder's own), ``given`` (the caller brings a measured one) or ``gradient`` (the control).
    ``depth_exposure`` is the photograph's before the DPT; ``depth_invert`` says that given maps are
    far = bright. Larger photographs are shrunk to ``long_side`` pixels. Masks are averaged over
    ``scales`` and, with ``flip``, over the mirrored picture.
    """

    depth: DepthKind
    depth_exposure: Exposure
    depth_invert: bool
    long_side: Annotated[int, Field(ge=32)] | None
    scales: Annotated[tuple[Scale, ...], Field(min_length=1, max_length=16)]
    flip: bool
    batch: Annotated[int, Field(ge=1, le=4096)]

    @classmethod
    def of(cls, params: Params, depth: DepthKind) -> Settings:
        """The settings that params.yaml asks for."""
        section = params.evaluate
        return cls(
            depth=depth,
            depth_exposure=params.depth.exposure,
            depth_invert=params.depth.invert,
            long_side=params.data.long_side,
            scales=tuple(section.scales),
            flip=section.flip,
            batch=section.batch,
        )


@dataclass(frozen=True)
class Score:
    """Percent; None where no mask shows the class, or no picture has a mask."""

    miou: Percent | None
    iou: Annotated[dict[Text, Percent | None], Field(max_length=MOST_CLASSES + 1)]


@dataclass(frozen=True)
class Run:
    """Where a model comes from, without a path, a date or a machine's name.

    Attributes:
        data, darkness: what it was trained on and how dark that was, in a few words.
        params: of params.yaml, what decides the weights.
        pictures: counts by split, as ``prepare`` made them: pictures, and those that hold a class.
        scores: the segmenter's on the val pictures, ``dark`` and, where there are any, ``normal``.
        versions: of the packages that computed it.
        sha256: of the weights, by their names in the folder.
        half: whether the weights are stored as float16.
    """

    data: Text
    darkness: Text
    params: dict[Text, Any]
    pictures: dict[Text, dict[Text, int]]
    scores: dict[Light, Score]
    versions: dict[Text, Text]
    sha256: dict[Text, Sha256]
    half: bool = False


def _place(value: str | None, hub_id: bool = False) -> str | None:
    """A path says nothing elsewhere: it is told as a local one.

    Args:
        hub_id: where it does not exist and does not look like a path, it is a hub id.
    """
    if value is None or (hub_id and value[:1] not in "/~." and not resolve(value).exists()):
        return value
    return "a local one"


def portable(params: Params) -> dict[str, Any]:
    """What of params.yaml decides the weights; files and folders are told by their pins alone."""
    values = params.model_dump(mode="json", by_alias=True)
    for key in DATA_ROOTS:
        del values["data"][key]
    del values["package"], values["evaluate"]["sets"], values["evaluate"]["sheet"]
    if params.model.weights != "imagenet":
        values["model"]["weights"] = _place(params.model.weights)
    values["teacher"]["model"] = _place(params.teacher.model)
    values["segment"]["teacher"] = _place(params.segment.teacher)
    if params.depth.model not in ("scenes", "given", "gradient"):
        values["depth"]["model"] = _place(params.depth.model, hub_id=True)
    return values


def versions() -> dict[str, str]:
    """Of this project and of the packages that its networks are computed with."""
    packages = ("torch", "torchvision", "timm", "transformers", "diffusers")
    return {"dgkd": __version__, **{name: version(name) for name in packages}}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of a model folder's weights files, as in `Run`."""
    files = (path for path in folder.rglob("*.safetensors") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def copy_files(source: Path, names: tuple[str, ...], target: Path) -> None:
    """Copy these files of one folder into another, which may be new."""
    target.mkdir(exist_ok=True)
    for name in names:
        # not shutil.copyfile: of a full disk it says the source's name
        with open(source / name, "rb") as read, open(target / name, "wb") as written:
            shutil.copyfileobj(read, written)


def halve(folder: Path) -> None:
    """Store the floating-point tensors of a model folder's weights files as float16.

    Raises:
        InputError: a number is too large for that, or not finite.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as opened:
            about = opened.metadata()
        tensors = read_tensors(path)
        for name, value in tensors.items():
            if not value.is_floating_point():
                continue
            tensors[name] = value.half()
            if not tensors[name].isfinite().all():
                raise InputError(
                    f"package.half is true: {path.relative_to(folder)}: {shown(name)} holds "
                    f"{value.abs().max().item():.3g}, float16 goes to {LARGEST_HALF:g}, "
                    f"expected package.half: false"
                )
        save_file(tensors, path, about)


def write_settings(folder: Path, settings: Settings) -> None:
    write_json(folder / INFERENCE, asdict(settings))


def write_run(folder: Path, run: Run) -> None:
    write_json(folder / RUN, asdict(run))


def read_settings(folder: Path) -> Settings:
    """How to run the model in ``folder``.

    Raises:
        InputError: it is no folder that ``package`` wrote, or inference.json is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one that the stage `package` wrote")
    return read_checked(folder / INFERENCE, Settings, "a folder that the stage `package` wrote")


def read_run(folder: Path) -> Run:
    """Where the model in ``folder`` comes from; checked as `read_settings` is."""
    return read_checked(folder / RUN, Run, "a folder that the stage `package` wrote")
