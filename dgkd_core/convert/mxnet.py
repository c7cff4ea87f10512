"""ImageNet weights of WideResNet-38 from MXNet's file, read without MXNet.

The format is what ``NDArray::Save`` and ``NDArray::Load`` in Apache MXNet's src/ndarray/ndarray.cc
and ``TShape`` in include/mxnet/tuple.h write and read; all numbers are little endian:

    uint64 0x112, uint64 0, uint64 count, arrays, uint64 count, names (uint64 length, UTF-8 bytes)
    array: version, [int32 storage type], shape, int32 device, int32 its number, int32 type, data

======== ============ ============ ============================= ==========================
version  first word   storage type shape                         without a value
======== ============ ============ ============================= ==========================
first    (none)                    uint32 count, uint32 each     no dimension
V1       0xf993fac8                uint32 count, int64 each      no dimension
V2       0xf993fac9   yes          uint32 count, int64 each      no dimension
V3       0xf993faca   yes          int32 count, int64 each       count or a dimension is -1
======== ============ ============ ============================= ==========================

An array without a value ends after its shape. In the first version the count of dimensions is the
array's first word itself.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from dgkd_core.models.wide_resnet import WideResNet38
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import atomic_file

_LIST = 0x112
_V1, _V3 = 0xF993FAC8, 0xF993FACA
_TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")
_MOST_ARRAYS, _MOST_DIMENSIONS, _LONGEST_NAME = 100_000, 32, 1000

_LAYERS = {
    "norm1": "bn{}_branch2a",
    "conv1": "res{}_branch2a",
    "norm2": "bn{}_branch2b1",
    "conv2": "res{}_branch2b1",
    "norm3": "bn{}_branch2b2",
    "conv3": "res{}_branch2b2",
    "shortcut": "res{}_branch1",
}
_NORM_VALUES = {
    "weight": ("gamma",),
    "bias": ("beta",),
    "running_mean": ("moving_mean", "mean"),
    "running_var": ("moving_var", "var"),
}


class _Reader:
    """A place in a memory-mapped file; reading beyond the end is an InputError, not a crash."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected an MXNet .params file")
        try:  # copied on writing: the arrays may be changed, the file does not
            self.data = np.memmap(path, np.uint8, "c").data if path.stat().st_size else b""
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        self.path = path
        self.place = self.last = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.place

    def error(self, found: str, expected: str) -> InputError:
        """What is wrong with what was read last."""
        return InputError(f"{self.path}: byte {self.last}: {found}, expected {expected}")

    def skip(self, size: int, what: str) -> int:
        """Step over ``size`` bytes, if that many are there; returns where they start."""
        self.last = self.place
        if size > self.left:
            raise self.error(f"{self.left} bytes are left", f"{size} for {what}")
        self.place += size
        return self.last

    def numbers(self, code: str, what: str) -> tuple[int, ...]:
        layout = struct.Struct(f"<{code}")
        return layout.unpack_from(self.data, self.skip(layout.size, what))

    def number(self, code: str, what: str) -> int:
        return self.numbers(code, what)[0]

    def array(self) -> np.ndarray:
        """The next array, a view of the mapped file; an empty one where it has no value."""
        first = self.number("I", "the start of an array")
        version = first - _V1 + 1 if _V1 <= first <= _V3 else 0
        if version >= 2 and (storage := self.number("i", "a storage type")):
            raise self.error(f"storage type {storage}", "0 (dense): sparse arrays are not read")
        unknown = -1 if version == 3 else 0  # as a number of dimensions: no value
        if version:
            count = self.number("i" if version == 3 else "I", "the number of dimensions")
            found, words = f"{count} dimensions", ""
        else:
            count, found = first, f"{first:#x} at the start of an array"
            words = f"{_V1:#x} to {_V3:#x} or "
        if not unknown <= count <= _MOST_DIMENSIONS:
            raise self.error(found, f"{words}{unknown} to {_MOST_DIMENSIONS} dimensions")
        if count == unknown:
            return np.empty(0, np.float32)
        shape = self.numbers(f"{count}{'q' if version else 'I'}", "the dimensions")
        least = min(shape, default=0)
        if least < unknown:
            raise self.error(f"dimensions {shape}", "none that is negative")
        if least < 0:
            return np.empty(0, np.float32)
        self.skip(8, "a device")
        flag = self.number("i", "a type")
        if not 0 <= flag < len(_TYPES):
            raise self.error(f"type {flag}", f"0 to {len(_TYPES) - 1} (float32 … int64)")
        return self.values(shape, np.dtype(_TYPES[flag]))

    def values(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The data of an array; its size is checked before anything is made of it."""
        self.last = self.place
        size = math.prod(shape) * dtype.itemsize
        extent = math.prod(n or 1 for n in shape) * dtype.itemsize  # numpy's limit, empty or not
        if size > self.left or extent > sys.maxsize:
            raise self.error(
                f"an array {shape} of {dtype.name}", f"no more than the {self.left} bytes left"
            )
        start = self.skip(size, "an array")
        return np.frombuffer(self.data, dtype, math.prod(shape), start).reshape(shape)

    def name(self) -> str:
        length, most = self.number("Q", "the length of a name"), min(self.left, _LONGEST_NAME)
        if length > most:
            raise self.error(f"a name of {length} bytes", f"at most {most}")
        start = self.skip(length, "a name")
        raw = bytes(self.data[start : self.place])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"the name {raw!r}", "UTF-8") from error


def read_params(path: str | Path) -> dict[str, np.ndarray]:
    """The named arrays of a file that ``mx.nd.save`` wrote, by the names stored in it.

    The arrays have the types and shapes of the file and are views of its memory map, so that
    nothing is read before it is used; writing to one changes memory only. An array that was saved
    without a value comes as an empty one, shape (0,).

    Raises:
        InputError: the file is missing, damaged, or holds what this reader does not know (sparse
            arrays, arrays without names); the message names the byte, the finding and what was
            expected there.
    """
    reader = _Reader(Path(path))
    if (magic := reader.number("Q", "the magic number")) != _LIST:
        raise reader.error(f"{magic:#x}", f"{_LIST:#x}, the start of an MXNet list of arrays")
    if reserved := reader.number("Q", "a reserved word"):
        raise reader.error(f"{reserved:#x} in a reserved word", "0")
    count = reader.number("Q", "the number of arrays")
    most = min(_MOST_ARRAYS, max(reader.left - 8, 0) // (4 + 8))  # a first word and a name's length
    if count > most:
        raise reader.error(f"{count} arrays", f"at most {most} in a file of this size")
    arrays = [reader.array() for _ in range(count)]
    names = reader.number("Q", "the number of names")
    if names != count:
        raise reader.error(
            f"{names} names for {count} arrays",
            "one each" if names else "names: save a dict, not a list",
        )
    found: dict[str, np.ndarray] = {}
    for array in arrays:
        name = reader.name()
        if name in found:
            raise reader.error(f"the name {name!r} a second time", "names that differ")
        found[name] = array
    if reader.left:
        reader.last = reader.place
        raise reader.error(f"{reader.left} bytes after the last name", "the end of the file")
    return found


def _their_names(key: str) -> tuple[str, ...]:
    """What the tensor ``key`` of our WideResNet38 may be called in the MXNet file."""
    module, value = key.rsplit(".", 1)
    if module == "stem":
        layer = "conv1a"
    elif module == "norm7":
        layer = "bn7"
    else:
        stage, *place, part = module.removeprefix("stage").split(".")
        block = f"b{place[0]}" if place and place[0] != "0" else "a"
        layer = _LAYERS[part].format(stage + block)
    values = _NORM_VALUES[value] if layer.startswith("bn") else ("weight",)
    return tuple(f"{kind}:{layer}_{value}" for value in values for kind in ("arg", "aux"))


def _sources(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """For each tensor of our WideResNet38, counters left out, the name of its source."""
    with torch.device("meta"):
        state = WideResNet38().state_dict()
    sources: dict[str, str] = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        names = _their_names(key)
        present = [name for name in names if name in arrays]
        shape = tuple(value.shape)
        if not present:
            raise InputError(f"no {' or '.join(names)}, expected one of shape {shape}")
        if len(present) > 1:
            raise InputError(f"both {present[0]} and {present[1]}, expected one of them")
        array = arrays[present[0]]
        if array.shape != shape or array.dtype.kind != "f":
            raise InputError(
                f"{present[0]} is {array.shape} of {array.dtype.name}, "
                f"WideResNet-38 expects {shape} of a float type"
            )
        sources[key] = present[0]
    return sources


def wide_resnet38_weights(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The state dict of our WideResNet38 from ``ilsvrc-cls_rna-a1_cls1000_ep-0001.params``.

    Names there are those of model A1 in Wu et al.'s code: block ``2a`` and its followers ``2b1``,
    ``2b2`` … are our ``stage2.0``, ``stage2.1``, ``stage2.2`` …; the classifier ``linear1000`` and
    whatever else the file holds are left out. Model A, the variant that pools, has the same names
    and shapes and cannot be told apart here.

    Args:
        arrays: what ``read_params`` gave; a convolution is (outputs, inputs, height, width).

    Returns:
        float32 tensors, which share memory with ``arrays`` where those are float32 already, and
        the batch norms' counters, zero.

    Raises:
        InputError: a tensor is missing, stored twice, of another shape or type or not finite.
    """
    weights: dict[str, Tensor] = {}
    for key, name in _sources(arrays).items():
        with np.errstate(over="ignore"):  # float64 beyond float32 is infinite, and so refused
            array = np.require(arrays[name], np.float32, ("C", "ALIGNED", "WRITEABLE"))
        if not np.isfinite(array).all():
            raise InputError(f"{name} holds values that are not finite in float32")
        weights[key] = torch.from_numpy(array)
        if key.endswith("running_var"):
            counter = key.removesuffix("running_var") + "num_batches_tracked"
            weights[counter] = torch.zeros((), dtype=torch.int64)
    return weights


def convert_mxnet(source: Path, out: Path) -> list[str]:
    """Write the MXNet weights in ``source`` as a file that ``model.weights`` takes.

    Args:
        source: the MXNet file.
        out: a .safetensors file, written whole or not at all.

    Returns:
        Lines to print: what was used, what was not, what to set.

    Raises:
        InputError: ``out`` has another ending, or ``source`` is damaged or for another network.
    """
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: expected a file name that ends in .safetensors")
    arrays = read_params(source)
    try:
        weights = wide_resnet38_weights(arrays)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    with atomic_file(out) as part:
        save_file(weights, part)
    used = set(_sources(arrays).values())
    unused = sorted(set(arrays) - used)
    return [
        f"{out}: {len(used)} of {len(arrays)} tensors of {source}",
        *(f"unused: {name!r}" for name in unused),
        f"set model.backbone=wide_resnet38 model.weights={out}",
    ]
