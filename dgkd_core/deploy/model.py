"""A dark photograph in, a mask out: what the chain does with its val pictures, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dgkd_core.data.exposure import expose_8bit
from dgkd_core.data.pictures import depth_as_stored, to_photo, voc_palette
from dgkd_core.data.store import depth_batch, picture_batch
from dgkd_core.deploy.folder import DEPTH, STUDENT, Settings, read_settings
from dgkd_core.deploy.photographs import Photograph
from dgkd_core.depth.dpt import estimate, load_dpt, to_unit
from dgkd_core.depth.maps import fitted, gradient
from dgkd_core.evaluation.inference import InferenceSettings, decide, run_loaded
from dgkd_core.models.registry import ModelConfig, load_model
from dgkd_core.runtime.device import get_device
from dgkd_core.runtime.errors import InputError

LARGEST = 2048  # long side, pixels, of what the networks see where the settings name none
PIXELS = 1 << 24  # of the pictures that are in the networks at once, or a single larger one


@dataclass(frozen=True)
class Prediction:
    """What the networks see in a photograph of H x W pixels.

    Attributes:
        mask: (H, W) uint8 class ids; 0 is the background, the first class is 1.
        probabilities: (C,) float32, of each class to be there at all.
        depth: (H, W) float32 in [0, 1], near = 1; None where the networks fuse none.
    """

    mask: np.ndarray
    probabilities: np.ndarray
    depth: np.ndarray | None

    def enlarged(self, size: tuple[int, int]) -> Prediction:
        """The same for the photograph's own (width, height)."""
        if self.mask.shape[::-1] == size:
            return self
        depth = None if self.depth is None else fitted(self.depth, size, invert=False)
        return replace(self, mask=enlarged_mask(self.mask, size), depth=depth)


def enlarged_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) class ids as (H, W) for a photograph's own (width, height)."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


@dataclass(frozen=True, eq=False)
class Model:
    """A segmenter with what it needs to run on dark photographs; made by `load`.

    >>> model = load("artifacts/model")  # doctest: +SKIP
    >>> model(Image.open("night.jpg")).save("mask.png")  # doctest: +SKIP

    Attributes:
        folder: where it was loaded from.
        segmenter, config: the network, and its configuration as in model.json.
        settings: how photographs are run, as in inference.json.
        dpt: the depth network and its processor; None where depth is not estimated.
        device: what it computes on.
    """

    folder: Path
    segmenter: Any
    config: ModelConfig
    settings: Settings
    dpt: tuple[Any, Any] | None
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes 1, 2, …; 0 is the background."""
        return self.config.classes

    @property
    def has_student(self) -> bool:
        """Whether `class_maps` can be asked for."""
        return (self.folder / STUDENT).is_dir()

    @cached_property
    def student(self) -> tuple[Any, ModelConfig]:
        """The student and its config, loaded when first asked for.

        Raises:
            InputError: the folder holds none, or not one of this model.
        """
        place = self.folder / STUDENT
        if not self.has_student:
            raise InputError(
                f"{place}: no such folder, expected the student (package.student: true puts it in)"
            )
        student, config = load_model(place, self.device)
        fits = config.classes == self.classes and config.dgf2 == self.config.dgf2
        if config.kind != "network" or not fits:
            raise InputError(f"{place / 'model.json'}: not the student of the model beside it")
        return student, config

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The mask of a photograph as a picture of mode P, VOC's colours, upright, of its size.

        Raises:
            InputError: as `predict`.
        """
        mask = Image.fromarray(self.predict([picture])[0].mask, "L")
        mask.putpalette(voc_palette())
        return mask

    def predict(
        self, pictures: Sequence[Image.Image], depths: Sequence[np.ndarray] | None = None
    ) -> list[Prediction]:
        """What is in photographs of any sizes and modes.

        EXIF rotation is applied first: masks are those of the upright pictures.

        Args:
            depths: (h, w) float32 in [0, 1] each, for a model of measured depth (`given`) only.

        Raises:
            InputError: a picture cannot be used, or depth maps are missing or not wanted.
        """
        photographs = [self.prepare(picture) for picture in pictures]
        found = self.predict_prepared(photographs, depths)
        return [seen.enlarged(p.size) for seen, p in zip(found, photographs, strict=True)]

    def prepare(self, picture: Image.Image, name: str = "") -> Photograph:
        """A photograph as the networks see it: upright, RGB, not larger than the settings say.

        Raises:
            InputError: it is damaged, floating point or over 256 megapixels.
        """
        name = name or str(getattr(picture, "filename", "") or "the picture")
        rgb, size, notes = to_photo(picture, name, self.settings.long_side or LARGEST)
        return Photograph(np.asarray(rgb), size, notes)

    def predict_prepared(
        self, photographs: Sequence[Photograph], depths: Sequence[np.ndarray] | None = None
    ) -> list[Prediction]:
        """`predict` for what `prepare` made, at the size that the networks see."""
        self._check(photographs, depths)
        found: dict[int, Prediction] = {}
        for group in _groups(photographs, self.settings.batch):
            some = [photographs[i] for i in group]
            maps = self._depths(some, None if depths is None else [depths[i] for i in group])
            masks, scores = self._run(self.segmenter, self.config, some, maps)
            ids = decide(masks, scores, 0, 1).byte().numpy()
            for k, i in enumerate(group):
                found[i] = Prediction(ids[k], scores[k].numpy(), maps[k] if maps else None)
        return [found[i] for i in range(len(photographs))]

    def class_maps(self, picture: Image.Image, depth: np.ndarray | None = None) -> np.ndarray:
        """The student's class maps, (C, H, W) float32 in [0, 1], of a photograph of H x W pixels.

        With the background, which they leave, they sum to one.

        Raises:
            InputError: as `predict`, or the model was packaged without the student.
        """
        student, config = self.student
        photo, depths = self.prepare(picture), None if depth is None else [depth]
        self._check([photo], depths)
        masks, _ = self._run(student, config, [photo], self._depths([photo], depths))
        size = photo.size[::-1]
        own = F.interpolate(masks[:, 1:], size, mode="bilinear", align_corners=False)
        return own[0].numpy()

    def _check(
        self, photographs: Sequence[Photograph], depths: Sequence[np.ndarray] | None
    ) -> None:
        wanted = self.settings.depth == "given"
        if wanted and depths is None:
            raise InputError(f"{self.folder}: a model of measured depth, expected depth maps, too")
        if depths is not None and not wanted:
            kind = self.settings.depth
            raise InputError(f"{self.folder}: its depth is {kind}, expected no depth maps from you")
        if depths is not None and len(depths) != len(photographs):
            raise InputError(
                f"{len(depths)} depth maps for {len(photographs)} pictures, expected one each"
            )

    def _depths(
        self, some: Sequence[Photograph], given: Sequence[np.ndarray] | None
    ) -> list[np.ndarray] | None:
        """Depth maps (h, w) of photographs of one size, as coarse as the chain keeps them."""
        if self.settings.depth == "off":
            return None
        if given is not None:
            invert = self.settings.depth_invert
            pairs = zip(given, some, strict=True)
            maps = [fitted(depth, photo.rgb.shape[1::-1], invert) for depth, photo in pairs]
        elif self.dpt is None:
            maps = [gradient(*photo.rgb.shape[:2]) for photo in some]
        else:
            exposed = [expose_8bit(photo.rgb, self.settings.depth_exposure) for photo in some]
            maps = [to_unit(depth) for depth in estimate(*self.dpt, exposed, self.device)]
        return [depth_as_stored(depth) for depth in maps]

    def _run(
        self,
        network: Any,
        config: ModelConfig,
        some: Sequence[Photograph],
        maps: Sequence[np.ndarray] | None,
    ) -> tuple[Tensor, Tensor]:
        """Masks (N, C+1, h, w) and class probabilities (N, C) of photographs of one size."""
        image = picture_batch([photo.rgb for photo in some], config.exposure)
        depth = None if maps is None else depth_batch(maps)
        inference = InferenceSettings(self.settings.scales, self.settings.flip)
        return run_loaded(network, (image, depth), inference, self.device)


def _groups(photographs: Sequence[Photograph], most: int) -> list[list[int]]:
    """Indices of photographs of one size, in groups that fit into memory."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, photo in enumerate(photographs):
        by_shape.setdefault(photo.rgb.shape, []).append(i)
    groups = []
    for (height, width, _), same in by_shape.items():
        step = max(1, min(most, PIXELS // (height * width)))
        groups += [same[start : start + step] for start in range(0, len(same), step)]
    return groups


def load(folder: str | Path, device: str | None = None, batch: int | None = None) -> Model:
    """The model in a folder that the stage ``package`` has written.

    The folder may come from anybody: nothing in it is run, and what it says is checked first.

    Args:
        device: such as ``cpu`` or ``cuda:1``; else DGKD_DEVICE, else a GPU where there is one.
        batch: the most photographs of one size that are run at once, in place of the settings'.

    Raises:
        InputError: a file is missing, damaged or hostile, or there is no such device.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    settings = settings if batch is None else replace(settings, batch=batch)
    chosen = get_device(device)
    segmenter, config = load_model(folder, chosen)
    if config.kind != "segmenter":
        raise InputError(f"{folder / 'model.json'}: a {config.kind}, expected a segmenter")
    if segmenter.uses_depth != (settings.depth != "off"):
        uses = "fuses" if segmenter.uses_depth else "does not fuse"
        raise InputError(
            f"{folder / 'inference.json'}: depth is {settings.depth}, but the segmenter {uses} it"
        )
    dpt = load_dpt(folder / DEPTH, local=True) if settings.depth == "dpt" else None
    if dpt is not None:
        dpt[0].to(chosen)
    return Model(folder, segmenter, config, settings, dpt, chosen)
