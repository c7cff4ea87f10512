"""The networks of a model folder as files that need no dgkd: ONNX, or torch.export's .pt2.

The segmenter's graph does all that `dgkd_core.evaluation.inference` does with a picture that is
exposed and the map that the DPT's graph gives: scales, flips, masks and class ids. What is left to
do around the graphs is in the example that is written beside them.
"""

from __future__ import annotations

import io
import json
import math
import operator
import shlex
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dgkd_core.data.exposure import expose_8bit
from dgkd_core.data.pictures import MOST_PIXELS, voc_palette
from dgkd_core.data.store import depth_batch, picture_batch
from dgkd_core.deploy.folder import DEPTH, Settings
from dgkd_core.deploy.model import LARGEST, Model, load
from dgkd_core.deploy.photographs import Photograph
from dgkd_core.depth.dpt import nearness, network_inputs
from dgkd_core.depth.maps import gradient
from dgkd_core.evaluation.inference import InferenceSettings, infer, run_loaded
from dgkd_core.lowlight.synthesis import darken_physical, picture_rng
from dgkd_core.models.network import Segmenter
from dgkd_core.models.registry import ModelConfig
from dgkd_core.runtime.checks import RAW_SUFFIXES, holds_control_characters
from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.files import atomic_file, read_bytes, write_text
from dgkd_core.runtime.templates import fill
from dgkd_core.scenes.drawing import render

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
OPSET = 18  # the first whose Resize has antialias
LEAST_SIDE, LARGEST_SIDE, MOST_PICTURES = 16, 4096, 64
SIZES = ((1, 96, 128), (2, 131, 77))  # (N, H, W) that a graph is compared at
# how far a graph may be from PyTorch: a probability, and the share of pixels with another class
TOLERANCE, MOST_OTHERS = 1e-2, 1e-3
METADATA = "dgkd"  # the key, in a file, of what it holds besides its graph, as JSON
OUTPUTS = {  # of the segmenter's graph: axes of any size
    "ids": {0: "batch", 1: "height", 2: "width"},
    "masks": {0: "batch", 1: "channels", 2: "height", 3: "width"},
    "scores": {0: "batch"},
}

Run = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]


class SegmenterGraph(nn.Module):
    """Exposed pictures and depth to ``ids``, ``masks`` and ``scores``, as `Model` finds them.

    Args:
        raw_depth: the map is a DPT's, of any range and size; else it is in [0, 1], of the
            picture's size.
    """

    def __init__(
        self, model: nn.Module, scales: Sequence[float], flip: bool, raw_depth: bool
    ) -> None:
        super().__init__()
        self.model, self.scales, self.flip, self.raw_depth = model, scales, flip, raw_depth

    def forward(self, image: Tensor, depth: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Run on pictures.

        Args:
            image: (N, 3, H, W) RGB in [0, 1], exposed.
            depth: (N, 1, h, w), larger = nearer.

        Returns:
            ids (N, H, W) uint8, masks (N, C+1, H, W) and class probabilities (N, C).
        """
        if depth is not None:
            depth = _coarse(_unit(depth, image.shape[-2:]) if self.raw_depth else depth)
        masks, scores = infer(self.model, image, depth, self.scales, self.flip)
        return masks.argmax(1).to(torch.uint8), masks, scores


class DepthGraph(nn.Module):
    """A DPT: normalised pictures (N, 3, S, S) to depth (N, 1, s, s), larger = nearer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return nearness(self.model, pixels)[:, None]


def _unit(depth: Tensor, size: Sequence[int]) -> Tensor:
    """What `estimate` and `to_unit` make of the DPT's map: of the picture's size, in [0, 1]."""
    full = F.interpolate(depth, tuple(size), mode="bicubic", align_corners=False)
    low, high = full.amin((-2, -1), keepdim=True), full.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(span < 1e-12, torch.zeros_like(full), (full - low) / span.clamp(min=1e-12))


def _coarse(depth: Tensor) -> Tensor:
    """Depth in [0, 1] as `depth_as_stored` and `depth_batch` leave it."""
    return ((depth * 65535).round() / 65535).half().float()


@dataclass(frozen=True)
class Graph:
    """A network to be traced.

    Attributes:
        inputs: an example of each, by name; ``axes`` of them may have other sizes.
        outputs: names, each with those of its axes that may have other sizes.
        about: what is told of the network in the file.
    """

    network: nn.Module
    inputs: Mapping[str, Tensor]
    axes: Sequence[Mapping[int, Dim]]
    outputs: Mapping[str, Mapping[int, str]]
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Parity:
    """How far graphs are from PyTorch: the largest difference, the share of other class ids."""

    difference: float
    others: float

    def __str__(self) -> str:
        same = f"{100 * (1 - self.others):.3f} % of pixels of the same class"
        return f"probabilities within {self.difference:.1e}, {same}"


def _exported(graph: Graph) -> ExportedProgram:
    """What a network computes, without a word of the sources that it came from."""
    with torch.no_grad():
        program = torch.export.export(
            graph.network.eval(),
            tuple(graph.inputs.values()),
            dynamic_shapes=tuple(graph.axes),
            prefer_deferred_runtime_asserts_over_guards=True,  # some hold, but are not proven
        )
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
                node.meta.pop(key, None)
    program.example_inputs = None
    return program


def segmenter_graph(segmenter: Segmenter, config: ModelConfig, settings: Settings) -> Graph:
    """The segmenter's graph, whose axes N, H and W are free.

    The least side has two of the coarsest features at every scale: torch.export takes an axis of
    one for a constant.
    """
    height, width = 96, 80
    raw = settings.depth == "dpt"
    count = Dim("batch", min=1, max=MOST_PICTURES)
    most = max(LARGEST_SIDE, settings.long_side or LARGEST)
    coarsest = max(*segmenter.encoder.strides, config.output_stride)
    least = max(LEAST_SIDE, int(coarsest / min(settings.scales)) + 1)
    sides = [Dim(name, min=least, max=most) for name in ("height", "width")]
    inputs = {"image": torch.rand(2, 3, height, width)}
    axes = [{0: count, 2: sides[0], 3: sides[1]}]
    if settings.depth != "off":
        own = [Dim(f"depth_{side.__name__}", min=2, max=LARGEST_SIDE) for side in sides]
        inputs["depth"] = torch.rand(2, 1, *((64, 48) if raw else (height, width)))
        axes.append(dict(zip((0, 2, 3), (count, *(own if raw else sides)), strict=True)))
    about = {
        "classes": ["background", *config.classes],
        "depth": settings.depth,
        "exposure": config.exposure,
        "flip": settings.flip,
        "invert": settings.depth_invert,
        "least_side": least,
        "long_side": settings.long_side or LARGEST,
        "scales": list(settings.scales),
    }
    network = SegmenterGraph(segmenter, settings.scales, settings.flip, raw)
    return Graph(network, inputs, axes, OUTPUTS, about)


def depth_graph(model: Model) -> Graph | None:
    """The DPT's graph with what a picture goes through before it; None where there is no DPT.

    Raises:
        InputError: its input is not of one size.
    """
    if model.dpt is None:
        return None
    network, processor = model.dpt
    if processor.keep_aspect_ratio or processor.do_pad:
        raise InputError(
            f"{model.folder / DEPTH}: its input keeps the picture's aspect ratio, expected a depth "
            f"model of one input size, since that is fixed in the exported graph"
        )
    height, width = processor.size["height"], processor.size["width"]
    about = {
        "exposure": model.settings.depth_exposure,
        "height": height,
        "width": width,
        "resample": int(processor.resample),
        "scale": processor.rescale_factor if processor.do_rescale else 1.0,
        "mean": list(processor.image_mean) if processor.do_normalize else [0.0] * 3,
        "std": list(processor.image_std) if processor.do_normalize else [1.0] * 3,
    }
    inputs = {"pixels": torch.rand(2, 3, height, width)}
    axes = {0: Dim("batch", min=1, max=MOST_PICTURES)}
    outputs = {"depth": {0: "batch", 2: "rows", 3: "columns"}}
    return Graph(DepthGraph(network), inputs, [axes], outputs, about)


def as_onnx(graph: Graph) -> bytes:
    """An ONNX file's content.

    By PyTorch's former exporter, which records one run, and in it the sizes as tensors: it takes
    seconds, and any network. The newer one takes minutes to reason about the sizes of a
    transformer, and does not get done with windows.
    """
    import onnx
    from torch.onnx import register_custom_op_symbolic

    for mode in ("linear", "cubic"):
        register_custom_op_symbolic(f"aten::_upsample_bi{mode}2d_aa", _resize(mode), OPSET)
    axes = [{axis: dim.__name__ for axis, dim in axes.items()} for axes in graph.axes]
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of what a trace cannot see
        torch.onnx.export(
            graph.network.eval(),
            tuple(graph.inputs.values()),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=dict(zip(graph.inputs, axes, strict=True)) | dict(graph.outputs),
        )
    proto = onnx.load_from_string(buffer.getvalue())
    _strip(proto)
    proto.metadata_props.add(key=METADATA, value=json.dumps(graph.about))
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _resize(mode: str) -> Callable[..., Any]:
    """F.interpolate with antialias in ONNX's words, which the exporter lacks."""
    from torch.onnx import symbolic_helper

    def constant(g: Any, values: Sequence[int], dtype: torch.dtype) -> Any:
        return g.op("Constant", value_t=torch.tensor(values, dtype=dtype))

    @symbolic_helper.parse_args("v", "v", "b", "v")
    def resize(g: Any, x: Any, size: Any, align_corners: bool, factors: Any) -> Any:
        start, end = (constant(g, [i], torch.int64) for i in (0, 2))
        sizes = g.op("Concat", g.op("Slice", g.op("Shape", x), start, end), size, axis_i=0)
        none = constant(g, [], torch.float32)
        return g.op(
            "Resize",
            *(x, none, none, sizes),
            mode_s=mode,
            coordinate_transformation_mode_s="half_pixel",
            cubic_coeff_a_f=-0.5,
            exclude_outside_i=1,
            antialias_i=1,
        )

    return resize


def _strip(proto: Any) -> None:
    """Take out what tells of the machine and the sources."""
    del proto.graph.value_info[:], proto.metadata_props[:], proto.graph.metadata_props[:]
    parts = (*proto.graph.input, *proto.graph.output, *proto.graph.initializer, *proto.graph.node)
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""


def _spell_out(program: ExportedProgram) -> None:
    """Say ceil and round of a size, which torch does not write to a file, in operations it does."""
    graph = program.graph_module.graph

    def emit(operation: Callable[..., Any], *operands: Any) -> torch.fx.Node:
        node = graph.call_function(operation, operands)
        values = (o.meta["val"] if isinstance(o, torch.fx.Node) else o for o in operands)
        node.meta["val"] = operation(*values)
        return node

    for node in [node for node in graph.nodes if node.target in (math.ceil, round)]:
        number = node.args[0]
        with graph.inserting_before(node):
            if node.target is math.ceil:
                down = emit(torch.sym_int, number)
                above = emit(operator.lt, down, number)
                found = emit(torch.sym_ite, above, emit(operator.add, down, 1), down)
            else:  # half to even, as Python's
                half = emit(operator.add, number, 0.5)
                up = emit(torch.sym_int, half)
                odd = emit(operator.eq, emit(operator.mod, up, 2), 1)
                tie = emit(operator.and_, emit(operator.eq, half, up), odd)
                found = emit(torch.sym_ite, tie, emit(operator.sub, up, 1), up)
        node.replace_all_uses_with(found)
        graph.erase_node(node)
    program.graph_module.recompile()


def as_torch(graph: Graph) -> bytes:
    """A .pt2 file's content."""
    program = _exported(graph)
    _spell_out(program)
    buffer, about = io.BytesIO(), json.dumps(graph.about)
    with warnings.catch_warnings(action="ignore"):  # of its own archive's making
        torch.export.save(program, buffer, extra_files={METADATA: about})
    return buffer.getvalue()


def run_onnx(content: bytes) -> Run:
    """An ONNX file's graph as a function of NumPy arrays by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))


def run_torch(content: bytes) -> Run:
    """A .pt2 file's graph as a function of NumPy arrays by name."""
    module = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            found = module(*map(torch.from_numpy, inputs.values()))
        return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]

    return run


def dark_pictures(count: int, height: int, width: int) -> list[np.ndarray]:
    """Drawn night scenes, (height, width, 3) uint8 each."""
    size = max(height, width, 32)
    scenes = [render(0, "val", i, size).image[:height, :width] for i in range(count)]
    rngs = [picture_rng(0, str(i)) for i in range(count)]
    return [
        darken_physical(scene, rng, ratio=(20.0, 20.0), shot=(3e-4, 3e-4)).image
        for scene, rng in zip(scenes, rngs, strict=True)
    ]


def compare(model: Model, segmenter: Run, depth: Run | None) -> Parity:
    """The whole way from dark pictures to masks, by the graphs and by the model itself."""
    settings, difference, others, pixels = model.settings, 0.0, 0, 0
    inference = InferenceSettings(settings.scales, settings.flip)
    for count, height, width in SIZES:
        pictures = dark_pictures(count, height, width)
        given = [gradient(height, width)] * count if settings.depth == "given" else None
        photos = [Photograph(picture, (width, height), ()) for picture in pictures]
        seen = model.predict_prepared(photos, given)
        maps = [s.depth for s in seen if s.depth is not None]
        image = picture_batch(pictures, model.config.exposure)
        stored = depth_batch(maps) if maps else None
        expected, _ = run_loaded(model.segmenter, (image, stored), inference, model.device)
        inputs = {"image": image.numpy()}
        if depth is not None:
            assert model.dpt is not None
            exposed = [expose_8bit(picture, settings.depth_exposure) for picture in pictures]
            seen_by_dpt = torch.stack(network_inputs(model.dpt[1], exposed)).numpy()
            inputs["depth"] = depth({"pixels": seen_by_dpt})[0]
        elif stored is not None:
            inputs["depth"] = stored.numpy()
        ids, masks, _ = segmenter(inputs)
        difference = max(difference, float(np.abs(masks - expected.numpy()).max()))
        others += int((ids != np.stack([s.mask for s in seen])).sum())
        pixels += ids.size
    return Parity(difference, others / pixels)


def _example(out: Path, graph: Graph, depth: Graph | None, depth_name: str) -> str:
    """A script that runs the files on a photograph."""
    return fill(
        Path(__file__).with_name("example.py.jinja"),
        onnx=out.suffix == ".onnx",
        file=out.name,
        script=shlex.quote(f"{out.name}.example.py"),
        depth_file=depth_name,
        model=graph.about,
        dpt=depth.about if depth else None,
        raw=RAW_SUFFIXES,
        most_pixels=MOST_PIXELS // 2,  # Pillow refuses twice that
        palette=voc_palette()[: 3 * len(graph.about["classes"])],
    )


def _check_out(paths: Collection[Path], script: Path, text: str) -> None:
    """Refuse to overwrite a script that was changed, or files that no export wrote."""
    if not script.exists():
        if there := [path for path in paths if path.exists()]:
            raise InputError(
                f"{there[0]}: is there already and not of an earlier `dgkd export`, expected "
                f"another --out"
            )
    elif not script.is_file() or read_bytes(script) != text.encode():
        raise InputError(
            f"{script}: is there already and differs from what would be written (was it changed?), "
            f"expected another --out"
        )


def check_packages() -> None:
    """Raise InputError where a package that writes, checks or runs ONNX is not installed."""
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise InputError(f"{package} is not installed: pip install 'dgkd[export]'")


def export(folder: str | Path, out: Path, form: str) -> list[str]:
    """Write a model's networks as ``out`` and, of a DPT, NAME.depth beside it, with an example.

    Args:
        form: ``onnx`` for a .onnx file, ``torch`` for a .pt2 file.

    Returns:
        lines that say what was written and how near it is to the model.

    Raises:
        InputError: the model cannot be exported, or its graphs compute something else.
    """
    if out.suffix != FORMATS[form]:
        raise InputError(f"--out is {out}, expected a name that ends in {FORMATS[form]} for {form}")
    if set(out.name) & set("\"'\\") or holds_control_characters(out.name):
        raise InputError(
            f"--out is {out!r}, expected a name without quotation marks, backslashes and control "
            f"characters: a script will hold it"
        )
    if form == "onnx":
        check_packages()
    model = load(folder, "cpu")
    parts, slow = model.segmenter.encoder.modules(), ("window_size", "rope")
    if form == "torch" and any(hasattr(part, name) for part in parts for name in slow):
        raise InputError(
            f"{folder}: {model.config.backbone} has windows or rotary positions, which "
            f"torch.export does not get done with, expected --format onnx"
        )
    torch.manual_seed(0)
    write, run = (as_onnx, run_onnx) if form == "onnx" else (as_torch, run_torch)
    depth_out = out.with_name(f"{out.stem}.depth{out.suffix}")
    try:
        graph = segmenter_graph(model.segmenter, model.config, model.settings)
        depth = depth_graph(model)
        script = out.with_name(f"{out.name}.example.py")
        text = _example(out, graph, depth, depth_out.name)
        _check_out([out, depth_out] if depth else [out], script, text)
        contents = {out: write(graph)} | ({depth_out: write(depth)} if depth else {})
        runs = [run(content) for content in contents.values()]
    except InputError:
        raise
    except Exception as error:  # torch and onnx have a score of them
        raise InputError(f"{folder}: cannot be exported to {form} ({reason(error)})") from error
    parity = compare(model, runs[0], runs[1] if depth else None)
    if parity.difference > TOLERANCE or parity.others > MOST_OTHERS:
        raise InputError(
            f"{folder}: exported to {form} it computes something else ({parity}), expected within "
            f"{TOLERANCE:g} and {100 * (1 - MOST_OTHERS):g} %; nothing was written"
        )
    for path, content in contents.items():
        with atomic_file(path) as part:
            part.write_bytes(content)
    write_text(script, text)
    sizes = [f"{path}: {len(content) / 1e6:.1f} MB" for path, content in contents.items()]
    return [
        *sizes,
        f"{script}: python {shlex.quote(script.name)} PHOTO OUT.png",
        f"as PyTorch: {parity}",
    ]
