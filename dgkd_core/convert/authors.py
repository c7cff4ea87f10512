"""The authors' released student, teacher and denoisers as networks of this project, and back.

Names and shapes are those of the released files. Nothing but tensors and plain containers is ever
unpickled, so a checkpoint cannot run code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dgkd_core.convert.names import (
    CLASS_LAYER,
    CONSTANTS,
    DENOISER,
    FUSION,
    TIME_TABLE,
    authors_name,
)
from dgkd_core.datasets.names import LIS as LIS_CLASSES
from dgkd_core.datasets.names import VOC as VOC_CLASSES
from dgkd_core.distill.denoiser import FeatureDenoiser
from dgkd_core.models.head import initialise
from dgkd_core.models.network import Network
from dgkd_core.models.registry import ModelConfig, save_model
from dgkd_core.models.wide_resnet import WideResNet38
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.tensors import first_names, fitting, read_weights, unwrapped

Role = Literal["student", "teacher"]
Source = Mapping[str, Any] | str | Path
"""A state dict, bare or wrapped, or the path of one."""

_WIDTH = 256
_RATES = (12, 24, 36)
_TABLE = 1280
_FOCAL: dict[Role, float] = {"student": 0.3, "teacher": 0.01}
_PROJECTIONS = ("project_deep", "project_shallow")
_SEED = 0


def read_state(source: Source) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """A checkpoint's tensors.

    Returns:
        what to call the source in a message; then as `dgkd_core.runtime.tensors.unwrapped`.

    Raises:
        InputError: the source is unreadable or holds no state dict of tensors with plain names.
    """
    if isinstance(source, (str, Path)):
        return str(source), *unwrapped(read_weights(Path(source)), source)
    return "state dict", *unwrapped(source, "state dict")


def _report(
    tensors: Mapping[str, Tensor], loaded: Collection[str], what: str, random: Sequence[str]
) -> Iterator[str]:
    """What became of a checkpoint's tensors; every one that is not used is named.

    Args:
        loaded: the tensors that are in the network now, by the file's names.
        what: what the checkpoint is.
        random: modules of ours for which the checkpoint has nothing.
    """
    rest = [name for name in tensors if name not in loaded]
    constants = [name for name in rest if name.startswith(CONSTANTS)]
    unused = [name for name in rest if not name.startswith(CONSTANTS)]
    denoisers = [name.removesuffix(TIME_TABLE) for name in rest if name.endswith(TIME_TABLE)]
    yield f"{len(loaded)} of {len(tensors)} tensors used: {what}"
    if random:
        yield f"not in the checkpoint, left random: {', '.join(random)}"
    if constants:
        yield f"not needed (PAMR's constant kernels): {', '.join(constants)}"
    groups: dict[str, list[str]] = {}  # by denoiser or first part, which is taken off
    for name in unused:
        first = name.split(".")[0] + "." if "." in name else ""
        prefix = next((p for p in filter(None, denoisers) if name.startswith(p)), first)
        groups.setdefault(prefix, []).append(name.removeprefix(prefix))
    for prefix, names in groups.items():
        yield f"not used, {len(names)} under {prefix!r}: {', '.join(names)}"
    yield from (f"a denoiser is under {prefix!r}" for prefix in denoisers)


def _classes(tensors: Mapping[str, Tensor], where: str) -> int:
    if CLASS_LAYER not in tensors:
        raise InputError(
            f"{where}: holds no {CLASS_LAYER!r}, expected a student or teacher of the authors"
        )
    shape = tuple(tensors[CLASS_LAYER].shape)
    if len(shape) != 4 or shape[1:] != (_WIDTH, 1, 1) or shape[0] < 1:
        raise InputError(f"{where}: {CLASS_LAYER!r} is {shape}, expected (classes, {_WIDTH}, 1, 1)")
    return shape[0]


def _initialise(network: Network) -> None:
    """Give the projections their random start from a fixed seed; the caller's RNG stays."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)  # torch.manual_seed would reach every device
        for name in _PROJECTIONS:
            for layer in network.get_submodule(name).to_empty(device="cpu").children():
                if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
                    layer.reset_parameters()
            initialise(network.get_submodule(name))


def convert_checkpoint(
    source: Source, role: Role | None = None
) -> tuple[Network, Role, int, list[str]]:
    """Like `load_authors_checkpoint`; also its role, its number of classes, and a report in lines.

    Without ``role``, a checkpoint that holds ``backbone.CondNet`` is a student, any other a
    teacher.

    Raises:
        InputError: as for `load_authors_checkpoint`.
    """
    if role not in (None, "student", "teacher"):
        raise ValueError(f"role must be student or teacher, got {role!r}")
    where, tensors, beside = read_state(source)
    fusion = [name for name in tensors if name.startswith(FUSION)]
    role = role or ("student" if fusion else "teacher")
    if role == "teacher" and fusion:
        raise InputError(
            f"{where}: holds {fusion[0]!r}, which a teacher does not have; expected role student"
        )
    classes, dgf2 = _classes(tensors, where), "paper" if role == "student" else "off"
    with torch.device("meta"):
        network = Network(WideResNet38(), classes, _WIDTH, dgf2, _RATES, focal=_FOCAL[role])
    wanted = network.state_dict()
    projections = {key for key in wanted if key.split(".")[0] in _PROJECTIONS}
    absent = role == "teacher" and not any(authors_name(key) in tensors for key in projections)
    if absent:
        _initialise(network)
        wanted = {key: value for key, value in wanted.items() if key not in projections}
    found, loaded = fitting(wanted, tensors, where, f"a {role}", lambda key: (authors_name(key),))
    state = {
        key: value.detach().to(
            "cpu", wanted[key].dtype, copy=True, memory_format=torch.contiguous_format
        )
        for key, value in found.items()
    }
    network.load_state_dict(state, strict=not absent, assign=True)
    if role == "teacher":
        network.encoder.freeze()
        network.head.decoder.aspp.frozen = True
    what, random = f"a {role}, {classes} classes", _PROJECTIONS if absent else ()
    report = list(_report(tensors, loaded, what, random))
    if beside:
        report.append(f"beside the state dict, not read: {', '.join(beside)}")
    return network.eval(), role, classes, report


def load_authors_checkpoint(source: Source, role: Role = "student") -> Network:
    """A released student or teacher: WideResNet-38, width 256, ASPP rates 12, 24 and 36.

    C is read from the last layer. A student fuses depth as published, a teacher does not. As in the
    release, a teacher's stem and backbone norms are frozen, its ASPP's norms keep their statistics
    (scales and shifts are trained), and its class scores have the constant .01; a student trains
    everything. Denoisers and PAMR's kernels in the file are passed over.

    The teacher's checkpoint lacks the two projections (``feat`` and ``feat2``), and the
    release leaves them random. Where a teacher's file has neither, they are random here too: drawn
    from a fixed seed, so the same in every call, with batch norms that are the identity. The
    caller's random generators are not touched. A teacher's file that has them is loaded whole.

    Args:
        source: a state dict, or the path of one (.pth, or .safetensors); it may lie under
            ``model`` or ``state_dict``, and names may start with ``module.`` (DataParallel). The
            tensors are copied, half precision becomes float32.
        role: student or teacher.

    Returns:
        A network on the CPU in evaluation mode.

    Raises:
        InputError: the file is unreadable or holds code, or a tensor is missing, has another shape
            or holds values that are not finite.
    """
    return convert_checkpoint(source, role)[0]


def load_authors_denoiser(source: Source, prefix: str = "ddim.") -> FeatureDenoiser:
    """A denoiser of the release or of DiffKD; its channels are read from the tensors.

    Args:
        source: as for `load_authors_checkpoint`; tensors elsewhere than under ``prefix`` are
            passed over.
        prefix: what the names start with; `dgkd convert authors` tells a checkpoint's.

    Returns:
        A denoiser on the CPU in evaluation mode, with the five steps of the paper. The caller's
        random generators are not touched.

    Raises:
        InputError: as for `load_authors_checkpoint`, or there are more layers under ``prefix``
            than our denoiser has (a noise adapter or an autoencoder, say).
    """
    where, tensors, _ = read_state(source)
    table = prefix + TIME_TABLE
    if table not in tensors:
        found = [n.removesuffix(TIME_TABLE) for n in tensors if n.endswith(TIME_TABLE)]
        raise InputError(
            f"{where}: holds no {table!r}; prefixes with a denoiser: {first_names(found) or 'none'}"
        )
    shape = tuple(tensors[table].shape)
    if len(shape) != 2 or shape[0] != _TABLE or shape[1] < 1:
        raise InputError(f"{where}: {table!r} is {shape}, expected ({_TABLE}, channels)")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        denoiser = FeatureDenoiser(shape[1])
    state, loaded = fitting(
        denoiser.state_dict(),
        tensors,
        where,
        "a denoiser",
        lambda key: (prefix + authors_name(key, DENOISER),),
    )
    foreign = sorted(n for n in tensors if n.startswith(prefix) and n not in loaded)
    if foreign:
        raise InputError(f"{where}: holds {first_names(foreign)}, which our denoiser does not have")
    denoiser.load_state_dict(state)
    return denoiser.eval()


def export_authors_checkpoint(network: Network) -> dict[str, Tensor]:
    """A WideResNet-38 network's tensors under the authors' names, sharing its memory.

    PAMR's constant kernels (``classifier._aff.*``), which the authors' file holds too, are left
    out: loading it in their code needs ``strict=False``.

    Raises:
        ValueError: the network has a layer that the authors' has not (another backbone, another
            width than 256, gated DGF2, a tone curve).
    """
    return {authors_name(key): value.detach() for key, value in network.state_dict().items()}


def _class_names(count: int, given: Sequence[str] | None) -> tuple[str, ...]:
    if given is None:
        known = {len(names): names for names in (VOC_CLASSES, LIS_CLASSES)}
        if count not in known:
            raise InputError(
                f"--classes is missing: the checkpoint has {count} classes, neither VOC's 20 nor "
                f"LIS's 8; expected {count} names, separated by commas"
            )
        return known[count]
    if len(given) != count or len(set(given)) != count or not all(given):
        raise InputError(
            f"--classes is {','.join(given)!r}, expected {count} different names, as many as the "
            f"checkpoint has classes"
        )
    return tuple(given)


def convert_authors(
    source: Path, out: Path, role: Role | None = None, classes: Sequence[str] | None = None
) -> list[str]:
    """Write a released checkpoint as a model folder of this project.

    Args:
        source: the authors' file.
        out: the folder; an earlier model folder there is replaced, anything else is not.
        role: student or teacher; deduced where None.
        classes: the C names in the order of their ids; VOC's for 20 and LIS's for 8 where None.

    Returns:
        Lines that tell what was done.

    Raises:
        InputError: the checkpoint or the names are not usable, or ``out`` is something else.
    """
    target = out.resolve()
    if target.exists() and not (target / "model.json").is_file():
        raise InputError(f"{out}: exists and is no model folder, expected a new folder or one")
    if source.resolve().is_relative_to(target):
        raise InputError(f"{out}: holds the checkpoint itself, expected another folder")
    network, found, count, report = convert_checkpoint(source, role)
    names = _class_names(count, classes)
    config = ModelConfig(
        kind="network",
        classes=names,
        backbone="wide_resnet38",
        output_stride=8,
        width=_WIDTH,
        aspp_rates=_RATES,
        dgf2="paper" if found == "student" else "off",
        exposure="none",
        frozen=found == "teacher",
        focal=_FOCAL[found],
    )
    save_model(target, network, config)
    why = "holds" if found == "student" else "holds no"
    deduced = [] if role else [f"{why} backbone.CondNet: taken for a {found}"]
    return [
        *(f"{source}: {line}" for line in deduced + report),
        f"{out}: written; classes {', '.join(names)}",
    ]
