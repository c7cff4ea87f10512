"""Draw docs/figures from a finished run: what docs/how-it-works.md shows of the method.

    python tools/figures.py [FOLDER [NAME …]]

FOLDER is the project that ran (default: this one): its params.yaml and artifacts/ are read. NAME is
one of docs/figures, without .png (default: all). Every figure shows the same val picture: of those
that hold two classes or more, the one with the median mIoU, so neither a good nor a bad one. The
denoisers are not among the artifacts, since nothing after `distill` uses them: that stage runs
again in a temporary folder, which takes its time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "stages")]

from distill import distill  # noqa: E402

from dgkd_core.config.params import load_params  # noqa: E402
from dgkd_core.data.exposure import expose, expose_8bit  # noqa: E402
from dgkd_core.data.manifest import Entry, read_manifest  # noqa: E402
from dgkd_core.data.store import Store  # noqa: E402
from dgkd_core.distill.dgkd import DGKD  # noqa: E402
from dgkd_core.distill.dist import dist_loss  # noqa: E402
from dgkd_core.evaluation.figures import colour_heat, colour_mask  # noqa: E402
from dgkd_core.evaluation.inference import (  # noqa: E402
    InferenceSettings,
    View,
    load_group,
    run_loaded,
)
from dgkd_core.evaluation.networks import picture_mious  # noqa: E402
from dgkd_core.imaging.pamr import PAMR  # noqa: E402
from dgkd_core.models.network import Network  # noqa: E402
from dgkd_core.models.registry import load_model  # noqa: E402
from dgkd_core.pseudo_labels.class_maps import class_maps, label_map  # noqa: E402
from dgkd_core.pseudo_labels.refinement import sharpen_by_pamr  # noqa: E402
from dgkd_core.runtime.errors import InputError  # noqa: E402
from dgkd_core.runtime.files import atomic_file, read_json  # noqa: E402
from dgkd_core.runtime.state import State  # noqa: E402

Tile = tuple[str, np.ndarray]  # a title and an (H, W, 3) uint8 picture
BATCH = 8  # pictures that the denoisers' batch norms see together, as in training
CPU = torch.device("cpu")


class Run:
    """A finished run and the picture that is shown of it: ``entry``, its packs' members ``name``.

    Args:
        folder: the project that ran.

    Raises:
        InputError: no val picture has two classes and a mask.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.params = folder / "artifacts", load_params(folder / "params.yaml")
        self.manifest, self.store = read_manifest(self.root / "prepare"), Store()
        self.images, self.truth = (
            self.root / "prepare" / name for name in ("images.zip", "masks_val.zip")
        )
        self.dark, self.depth = self.root / "darken/dark.zip", self.root / "depth/depth.zip"
        self.predictions = self.root / "evaluate/predictions.zip"
        self.entry = self._median_picture()
        self.name = f"{self.entry.id}.png"

    def _median_picture(self) -> Entry:
        """Of the val pictures with two classes or more, the one with the median mIoU."""
        several = {e.id: e for e in self.manifest.split("val") if len(e.labels) > 1}
        part = replace(self.manifest, entries=tuple(several.values()))
        ranking = list(picture_mious(part, self.store, self.truth, self.predictions))
        if not ranking:
            raise InputError(
                f"{self.root}: no val picture has two classes and a mask, expected one at least"
            )
        return several[ranking[(len(ranking) - 1) // 2]]

    def day(self) -> View:
        return View(self.store, self.images, None, False, "none")

    def night(self, exposure: str) -> View:
        return View(self.store, self.dark, self.depth, True, exposure)

    def network(self, name: str) -> Network:
        return load_model(self.root / name)[0]


def draw(path: Path, rows: Sequence[Sequence[Tile]], side: float = 1.45) -> None:
    """A grid of tiles as PNG, on white, so that it can be read on a dark page too."""
    shape = len(rows), max(len(row) for row in rows)
    size = shape[1] * side, shape[0] * (side + 0.35)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, picture) in zip(line, row, strict=False):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=7)
    with atomic_file(path) as part:
        figure.savefig(
            part, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None}
        )
    plt.close(figure)


def heat(values: np.ndarray, top: float = 1.0) -> np.ndarray:
    return colour_heat(values / max(top, 1e-8))


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat((255 * values).astype(np.uint8)[..., None], 3, 2)


def scene(run: Run) -> list[list[Tile]]:
    """(a) the picture by day, in the dark, brightened, and its depth."""
    dark, depth = run.store.rgb(run.dark, run.name), run.store.depth(run.depth, run.name)
    day = run.store.rgb(run.images, run.entry.image)
    return [
        [
            (f"by day, mean {day.mean():.0f} of 255", day),
            (f"dark, mean {dark.mean():.0f}", dark),
            ("dark, brightened (gain)", expose_8bit(dark, "gain")),
            ("depth, near = bright", grey(depth)),
        ]
    ]


def class_map_tiles(run: Run) -> list[list[Tile]]:
    """(b) the best class map of teacher and student, by day and in the dark."""
    teacher, student = run.network("teacher"), run.network("student")
    exposure, section = run.params.model.exposure, run.params.cam
    settings, tiles = InferenceSettings(tuple(section.scales), section.flip), []
    for title, model, view in (
        ("teacher, by day", teacher, run.day()),
        ("teacher, dark as it is", teacher, run.night("none")),
        (f"teacher, dark, {exposure}", teacher, run.night(exposure)),
        (f"student, dark, {exposure}", student, run.night(exposure)),
    ):
        inputs = load_group([run.entry], view, model.uses_depth)
        masks, _ = run_loaded(model, inputs, settings, CPU)
        maps = class_maps(masks[0], run.manifest.label_vector(run.entry))
        tiles.append((title, heat(maps.max(0) / 255)))
    return [[*tiles, ("truth", colour_mask(run.store.mask(run.truth, run.name)))]]


def distilled(run: Run) -> tuple[Network, DGKD]:
    """The student and the denoisers, as `distill` has them at its end."""
    with TemporaryDirectory() as place:
        artifacts, state = Path(place, "artifacts"), State("distill", folder=Path(place, "state"))
        artifacts.mkdir()
        for name in ("prepare", "darken", "depth", "teacher"):
            (artifacts / name).symlink_to(run.root / name)
        with chdir(place):
            distill(run.params, state)
        content = state.load("training")
        state.close(succeeded=True)
        student, config = load_model(artifacts / "student")
    dgkd = DGKD.of(run.params.distill, len(run.manifest.classes), config.width, student.encoder)
    if dgkd is None or content is None or not dgkd.denoisers:
        raise InputError("distill.denoiser: no denoisers in this run, expected diffusion")
    dgkd.load_state_dict(content["module_1"])
    return student, dgkd


def colours(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """(C, h, w) tensors to (h, w, 3) uint8 by their three common principal components."""
    values = torch.cat([x.flatten(1).T for x in tensors])
    mean = values.mean(0)
    _, _, basis = torch.linalg.svd(values - mean, full_matrices=False)
    found = [((x.flatten(1).T - mean) @ basis[:3].T).reshape(*x.shape[1:], 3) for x in tensors]
    ends = torch.quantile(torch.cat([x.flatten() for x in found]), torch.tensor([0.02, 0.98]))
    return [(255 * ((x - ends[0]) / (ends[1] - ends[0])).clamp(0, 1)).byte().numpy() for x in found]


def denoiser(run: Run) -> list[list[Tile]]:
    """(c) the student's tensors through the DDIM steps, and their distance from the teacher's.

    The denoisers are in training mode: their norms use the statistics of these eight pictures, as
    they do when the student learns through them.
    """
    student, dgkd = distilled(run)
    with torch.no_grad():
        return denoising(run, student, dgkd.train())


def denoising(run: Run, student: Network, dgkd: DGKD) -> list[list[Tile]]:
    """A row for each pair: the tensors on their way, and their mean distance over the batch."""
    others = [e for e in run.manifest.split("val") if e != run.entry and e.image]
    same = [e for e in others if (e.width, e.height) == (run.entry.width, run.entry.height)]
    group = [run.entry, *same][:BATCH]
    image, depth = load_group(group, run.night(run.params.model.exposure), student.uses_depth)
    day, _ = load_group(group, run.day(), False)
    labels = torch.from_numpy(np.stack([run.manifest.label_vector(e) for e in group]))
    mine, theirs = student(image, depth, raw=dgkd.raw), run.network("teacher")(day, raw=dgkd.raw)
    rows = []
    for pair in dgkd.denoisers:
        x, wanted = dgkd.tensors(pair, mine, theirs, labels, image.shape[-2:])
        if pair in dgkd.latents:
            x, wanted, _ = dgkd.latents[pair](x, wanted)
        part: Any = dgkd.denoisers[pair]
        samples = part.samples(dgkd.denoiser_input(pair, x))
        projected = part.project(samples[-1])
        titles = [f"{pair}: student", *(f"after t = {t}" for t in part.timesteps), "projected"]
        shown = colours([x[0] for x in [*samples, projected, wanted]])
        distances = [float(dist_loss(x, wanted)) for x in [*samples, projected]]
        tiles = [
            (f"{title}\nDIST {distance:.2f}", picture)
            for title, distance, picture in zip(titles, distances, shown, strict=False)
        ]
        rows.append([*tiles, ("teacher\n", shown[-1])])
    return rows


@torch.no_grad()
def fusion(run: Run) -> list[list[Tile]]:
    """(d) the energy of the student's features before and after DGF2, at its three places."""
    student = run.network("student")
    exposure = run.params.model.exposure
    image, depth = load_group([run.entry], run.night(exposure), student.uses_depth)
    seen: list[tuple[Tensor, Tensor]] = []
    for module in student.fusion:
        module.register_forward_hook(lambda _, given, out: seen.append((given[0][0], out[0])))
    student(image, depth, features=False)
    if depth is None or not seen:
        raise InputError("model.dgf2: is off in this run, expected paper or gated")
    rows = []
    for place, (before, after) in enumerate(seen, 1):
        energy = [x.square().mean(0).sqrt().numpy() for x in (before, after, after - before)]
        top = float(max(energy[0].max(), energy[1].max()))
        share = float((after - before).norm() / before.norm())
        rows.append(
            [
                ("depth", grey(depth[0, 0].numpy())),
                (f"level {place}, before", heat(energy[0], top)),
                ("after", heat(energy[1], top)),
                (f"change, {100 * share:.0f} % of before", heat(energy[2], energy[2].max())),
            ]
        )
    return rows


def pseudo_label(run: Run) -> list[list[Tile]]:
    """(e) from class maps to the pseudo label, and what the segmenter learns from many of them."""
    section, exposure = run.params.refine, run.params.model.exposure
    maps = run.store.maps(run.root / "cam/val.zip", run.entry.id)
    dark = run.store.rgb(run.dark, run.name)
    pamr = PAMR(section.iterations, section.dilations)
    sharp = sharpen_by_pamr(maps, expose(dark, exposure), pamr)
    threshold = read_json(run.root / "cam/threshold.json")["threshold"]
    cut = label_map(maps, run.manifest.label_vector(run.entry), threshold)
    packs = {
        "pseudo label": run.root / "refine/val.zip",
        "prediction": run.predictions,
        "truth": run.truth,
    }
    masks = [(title, colour_mask(run.store.mask(packs[title], run.name))) for title in packs]
    return [
        [
            (f"dark, {exposure}", expose_8bit(dark, exposure)),
            ("class map", heat(maps.max(0) / 255)),
            (f"cut at {threshold}", colour_mask(cut)),
            ("after PAMR", heat(sharp.max(0))),
            *masks,
        ]
    ]


FIGURES = {
    "day-and-night": scene,
    "class-maps": class_map_tiles,
    "dgf2": fusion,
    "pseudo-label": pseudo_label,
    "denoiser": denoiser,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figures; unusable input ends with one line and status 1."""
    folder, *names = (sys.argv[1:] if arguments is None else arguments) or [str(ROOT)]
    try:
        if unknown := sorted(set(names) - set(FIGURES)):
            raise InputError(f"{unknown[0]}: no such figure, expected {', '.join(FIGURES)}")
        run = Run(Path(folder).resolve())
        for name in names or FIGURES:
            draw(ROOT / "docs" / "figures" / f"{name}.png", FIGURES[name](run))
            print(f"figures: docs/figures/{name}.png", flush=True)
    except InputError as error:
        sys.exit(f"figures: {error}")


if __name__ == "__main__":
    main()
