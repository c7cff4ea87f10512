"""The benchmarks, each case in a process of its own, so that its peak memory is its own.

    python -m benchmarks.cases NAME CASE FOLDER [OPTION …]

The options are those of ``python -m benchmarks``. FOLDER is a temporary one, where records.json is
written. NAME ``draw`` makes the project folder there (`benchmarks.project`) that the others work
on.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, nullcontext, suppress
from dataclasses import replace
from functools import partial, wraps
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks.__main__ import parser
from benchmarks.measure import Timeline
from benchmarks.options import Options
from benchmarks.project import DARK, DEPTH, FEW, NORMAL, draw, first
from dgkd_core.data.pack import write_pack
from dgkd_core.data.pictures import encode_array, encode_depth
from dgkd_core.data.samples import Crops, Inputs, training_batches
from dgkd_core.data.store import Store, depth_batch, picture_batch
from dgkd_core.depth.maps import gradient
from dgkd_core.distill.denoiser import FeatureDenoiser
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.evaluation.inference import infer
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.lowlight.darkening import dark_picture
from dgkd_core.lowlight.fresh import fresh_night
from dgkd_core.models.network import Network, Segmenter
from dgkd_core.models.registry import ModelConfig, build, build_encoder, save_model
from dgkd_core.pseudo_labels.class_maps import class_maps
from dgkd_core.runtime.device import start
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import write_json
from dgkd_core.runtime.parallel import ordered_map
from dgkd_core.runtime.state import State
from dgkd_core.training.loop import half_precision

CPU = torch.device("cpu")
PARTS: list[tuple[str, Any, str]] = [  # of a training step: name, class, method
    ("student or teacher", Network, "forward"),
    ("PAMR", PAMR, "forward"),
    ("DIST and maps", DGKD, "forward"),
    ("denoisers", FeatureDenoiser, "denoise"),
    ("denoisers", FeatureDenoiser, "diffusion_loss"),
]
AROUND: list[tuple[str, Any, str]] = [  # the same, outside of what torch.compile compiles
    ("backward", Tensor, "backward"),
    ("optimizer", torch.optim.SGD, "step"),
    ("optimizer", torch.optim.AdamW, "step"),
]


class Found(NamedTuple):
    """What a benchmark measured: how many pictures of which size, computed in which type."""

    timeline: Timeline
    size: str
    pictures: int
    dtype: str = "float32"


class _EnoughError(Exception):
    """All steps are measured."""


def _timed(timeline: Timeline, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        name = part
        if isinstance(self, Network):
            name = "student" if self.training else "teacher"
        with timeline.part(name):
            return method(self, *args, **kwargs)

    return call


def step(
    options: Options, case: str, folder: Path, device: torch.device, split: bool = True
) -> Found:
    """The first steps of the distill stage, which runs as it is; the mask loss has set in.

    The stage is ended after them, before its curve gets a first row. Parts of a step are methods
    that note when they begin and end; with ``compile`` those that torch.compile sees are left
    alone.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
    from distill import distill

    given = options.params
    steps = max(given.distill.iterations, 100 * (options.calls + 1))
    section = given.distill.model_copy(update={"mask_warmup": 0, "iterations": steps})
    model = given.model.model_copy(update={"weights": None})
    params = given.model_copy(update={"distill": section, "model": model})
    timeline = Timeline(device)

    def batches(*args: Any, **kwargs: Any) -> Callable[[int], Iterator[dict[str, Tensor]]]:
        """The stage's batches; from asking for one to asking for the next is a call."""

        def feed(begin: int) -> Iterator[dict[str, Tensor]]:
            source = training_batches(*args, **kwargs)(begin)
            for _ in range(options.calls):
                with timeline.call():
                    with timeline.part("waiting for data") if split else nullcontext():
                        batch = next(source)
                    yield batch
            raise _EnoughError

        return feed

    parts = [] if not split else AROUND if options.params.compile else PARTS + AROUND
    with ExitStack() as stack:
        stack.enter_context(chdir(folder))
        stack.enter_context(patch("dgkd_core.training.fit.training_batches", batches))
        for part, owner, name in parts:
            method = _timed(timeline, part, getattr(owner, name))
            stack.enter_context(patch.object(owner, name, method))
        with suppress(_EnoughError):
            distill(params, State("distill", folder=folder / "state"))
    crop, batch = section.crop, section.batch
    size = f"{batch}x3x{crop}x{crop}, {model.backbone}"
    return Found(timeline, size, batch, _name(half_precision(device)))


def backbones(options: Options, case: str, folder: Path, device: torch.device) -> Found:
    """``train`` with another backbone in teacher and student, without depth where it takes none."""
    given = options.params
    model = given.model.model_copy(update={"backbone": case})
    encoder = build_encoder(case, model.output_stride)
    if not encoder.fusible:
        model = model.model_copy(update={"dgf2": "off"})
    changed = replace(options, params=given.model_copy(update={"model": model}))
    config = ModelConfig.of(model, "network", options.class_names, dgf2="off", exposure="none")
    save_model(folder / "artifacts/teacher", build(config), config)
    found = step(changed, "", folder, device, split=False)
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    strides = "+".join(map(str, encoder.strides))
    return found._replace(size=f"strides {strides}, {millions:.1f} M parameters")


def _name(half: torch.dtype | None) -> str:
    return str(half or torch.float32).removeprefix("torch.")


def student_of(options: Options, device: torch.device) -> Network:
    """The student with random weights, for inference."""
    model = options.params.model
    config = ModelConfig.of(
        model, "network", options.class_names, dgf2=model.dgf2, exposure=model.exposure
    )
    student = build(config)
    assert isinstance(student, Network)
    return student.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def cam(
    options: Options, case: str, folder: Path, device: torch.device, whole: bool = True
) -> Found:
    """A batch of the cam stage from packs to a pack; or its inference alone."""
    section, exposure = options.params.cam, options.params.model.exposure
    manifest, student = first(folder, section.batch), student_of(options, device)
    root, timeline, numbers = folder / "artifacts", Timeline(device), count()
    half = getattr(torch, options.dtype)

    def load() -> tuple[Tensor, Tensor | None]:
        entries, store = manifest.entries, Store()  # a new store decodes every picture anew
        image = store.pictures(entries, root / DARK, exposure, dark=True).to(device)
        if not student.uses_depth:
            return image, None
        return image, store.depths(entries, root / DEPTH).to(device)

    def network(image: Tensor, depth: Tensor | None) -> Tensor:
        enabled = half != torch.float32
        with torch.autocast(device.type, half if enabled else torch.bfloat16, enabled=enabled):
            return infer(student, image, depth, section.scales, section.flip)[0]

    def call() -> None:
        with timeline.part("pictures"):
            inputs = load()
        with timeline.part("network"):
            masks = network(*inputs).cpu()
        with timeline.part("class maps"):
            number = next(numbers)
            for entry, mask in zip(manifest.entries, masks, strict=True):
                maps = class_maps(mask, manifest.label_vector(entry))
                pack.add(f"{number}/{entry.id}.npy", encode_array(maps), compress=True)

    if whole:
        with write_pack(folder / "cam.zip") as pack:
            timeline.measure(call, options.calls)
    else:
        inputs = load()
        timeline.measure(lambda: network(*inputs), options.calls)
    shape = f"{section.batch}x3x{options.size}x{options.size}"
    size = f"{shape}, {_scales(section.scales, section.flip)}"
    return Found(timeline, size, section.batch, options.dtype)


def _scales(scales: Any, flip: bool) -> str:
    return f"scales {'+'.join(f'{scale:g}' for scale in scales)}{', flip' if flip else ''}"


def depth(options: Options, case: str, folder: Path, device: torch.device) -> Found:
    """A batch of the depth stage with the small DPT, which chooses its own type."""
    from dgkd_core.depth.dpt import estimate, half_precision, small_dpt, to_unit

    section, shape = options.params.depth, options.params.depth_model
    entries = first(folder, section.batch).entries
    model, processor = small_dpt(shape.size, shape.width)
    model.eval().to(device)
    dark, timeline, numbers = folder / "artifacts" / DARK, Timeline(device), count()
    store = Store()

    def call() -> None:
        with timeline.part("pictures"):
            night = store.pictures_8bit(entries, dark, section.exposure, dark=True)
        with timeline.part("network"):
            maps = estimate(model, processor, night, device)
        with timeline.part("maps"):
            number = next(numbers)
            for entry, found in zip(entries, maps, strict=True):
                pack.add(f"{number}/{entry.id}.png", encode_depth(to_unit(found)))

    with write_pack(folder / "maps.zip") as pack:
        timeline.measure(call, options.calls)
    size = f"{section.batch}x3x{options.size}x{options.size}, DPT at {shape.size}"
    return Found(timeline, size, section.batch, _name(half_precision(device)))


def darken(options: Options, case: str, folder: Path, device: torch.device) -> Found | None:
    """A few pictures here, or many in as many processes as threads; None if that is one."""
    if case and options.threads == 1:
        return None
    params, source = options.params, (folder / "artifacts" / NORMAL).parent
    given: Any = {"seed": params.seed, "settings": params.lowlight.model_dump()}
    entries = first(folder, FEW).entries * (8 if case else 1)
    make = partial(dark_picture, store=Store(), source=source, **given)
    processes = options.threads if case else 0

    def call() -> None:
        deque(ordered_map(make, entries, processes), maxlen=0)

    size = f"{len(entries)}x3x{options.size}x{options.size}, {params.lowlight.kind}"
    return Found(Timeline(CPU).measure(call, options.calls), size, len(entries), "float64")


def data(options: Options, case: str, folder: Path, device: torch.device) -> Found:
    """Batches of training pictures alone: decoded at their first visit, or kept decoded.

    The kept ones come from the training loop's loader and its workers (none on a CPU).
    """
    section, model = options.params.distill, options.params.model
    root, batch, seed = folder / "artifacts", section.batch, options.params.seed
    night = fresh_night(root / NORMAL, seed, options.params.lowlight.model_dump())
    inputs = Inputs(
        normal=root / NORMAL if section.distils else None,
        dark=root / DARK,
        depth=root / DEPTH if model.dgf2 != "off" else None,
        exposure=model.exposure,
        night=night if section.night == "fresh" else None,
    )
    manifest, numbers = first(folder, batch), count()

    crops = partial(Crops.of, manifest, inputs, section, seed)

    def fresh() -> object:
        new, number = crops(), next(numbers)
        return default_collate([new[number * batch + i, i] for i in range(batch)])

    source = training_batches(crops(), batch, options.calls + 1, device)(0)
    if case == "kept":
        next(source)
    call = (lambda: next(source)) if case == "kept" else fresh
    size = f"{batch} crops of {section.crop} from {options.size}x{options.size}"
    return Found(Timeline(CPU).measure(call, options.calls), size, batch)


def export(options: Options, case: str, folder: Path, device: torch.device) -> Found | None:
    """The segmenter on one whole picture in PyTorch, or as `dgkd export` writes it; None on a GPU,
    where the file does not run."""
    from dgkd_core.deploy import export as onnx
    from dgkd_core.deploy.folder import Settings

    if device.type != "cpu":
        return None
    model, size = options.params.model, options.size
    config = ModelConfig.of(
        model, "segmenter", options.class_names, dgf2=model.dgf2, exposure=model.exposure
    )
    segmenter = build(config).eval()
    assert isinstance(segmenter, Segmenter)
    depth = depth_batch([gradient(size, size)]) if model.dgf2 != "off" else None
    image = picture_batch(onnx.dark_pictures(1, size, size), config.exposure)
    settings = Settings.of(options.params, "off" if depth is None else "given")
    call: Callable[[], object]
    if case == "PyTorch":
        call = partial(infer, segmenter, image, depth, settings.scales, settings.flip)
    else:
        onnx.check_packages()
        network = onnx.run_onnx(onnx.as_onnx(onnx.segmenter_graph(segmenter, config, settings)))
        given = {"image": image, "depth": depth}
        inputs = {name: value.numpy() for name, value in given.items() if value is not None}
        call = partial(network, inputs)
    timeline = Timeline(device).measure(call, options.calls)
    return Found(timeline, f"1x3x{size}x{size}, {_scales(settings.scales, settings.flip)}", 1)


BENCHMARKS: dict[str, Callable[[Options, str, Path, torch.device], Found | None]] = {
    "step": step,
    "train": partial(step, split=False),
    "inference": partial(cam, whole=False),
    "cam": cam,
    "depth": depth,
    "darken": darken,
    "data": data,
    "export": export,
    "backbones": backbones,
}


def run(name: str, case: str, options: Options, folder: Path) -> list[dict[str, Any]]:
    """The records of one case in this process; none where the options do not fit it.

    Raises:
        InputError: the memory ran out.
    """
    device = start(options.params, "benchmarks")
    if name == "draw":
        draw(options, folder)
        return []
    try:
        found = BENCHMARKS[name](options, case, folder, device)
    except torch.OutOfMemoryError as error:
        raise InputError(f"{name}: out of memory on {device}, try a smaller size") from error
    if found is None:
        return []
    common = {
        "name": f"{name}, {case}" if case else name,
        "size": found.size,
        "pictures": found.pictures,
        "device": str(found.timeline.device),
        "dtype": found.dtype,
        "threads": options.threads,
        "warmup": options.warmup,
        "repeats": options.repeats,
    }
    return [{**common, **record} for record in found.timeline.records(options.warmup)]


def main() -> None:
    name, case, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    options = Options.of(parser().parse_args(sys.argv[4:]))
    answer: list[dict[str, Any]] | str
    try:
        answer = run(name, case, options, folder)
    except InputError as error:
        answer = str(error)
    write_json(folder / "records.json", answer)


if __name__ == "__main__":
    main()
