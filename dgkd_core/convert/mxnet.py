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
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from dgkd_core.convert.names import BLOCK_LAYERS
from dgkd_core.models.wide_resnet import WideResNet38
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import atomic_file, read_bytes
from dgkd_core.runtime.tensors import fitting

_LIST = 0x112
_V1, _V3 = 0xF993FAC8, 0xF993FACA
_TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")  # by the number in the file
_MOST_ARRAYS, _MOST_DIMENSIONS, _LONGEST_NAME = 100_000, 32, 1000

_NORM_VALUES = {
    "weight": ("gamma",),
    "bias": ("beta",),
    "running_mean": ("moving_mean", "mean"),
    "running_var": ("moving_var", "var"),
}


class _Reader:
    """A place in a file's bytes; reading beyond the end is an InputError, not a crash."""

    def __init__(self, path: Path) -> None:
        self.path, self.data = path, read_bytes(path)
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
        """The next array, a view of the file's bytes; an empty one where it has no value."""
        count = self.number("I", "the start of an array")
        version = count - _V1 + 1 if _V1 <= count <= _V3 else 0
        if version >= 2 and (storage := self.number("i", "a storage type")):
            raise self.error(f"storage type {storage}", "0 (dense): sparse arrays are not read")
        if version:
            count = self.number("i" if version == 3 else "I", "the number of dimensions")
        unknown = -1 if version == 3 else 0  # as a number of dimensions: no value
        if not unknown <= count <= _MOST_DIMENSIONS:
            raise self.error(f"{count} dimensions", f"{unknown} to {_MOST_DIMENSIONS}")
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
        self.last, dtype = self.place, np.dtype(_TYPES[flag])
        if math.prod(n or 1 for n in shape) * dtype.itemsize > self.left:  # numpy counts so, too
            raise self.error(
                f"an array {shape} of {dtype.name}", f"no more than the {self.left} bytes left"
            )
        size = math.prod(shape)
        start = self.skip(size * dtype.itemsize, "an array")
        return np.frombuffer(self.data, dtype, size, start).reshape(shape)

    def name(self) -> str:
        length, most = self.number("Q", "the length of a name"), min(self.left, _LONGEST_NAME)
        if length > most:
            raise self.error(f"a name of {length} bytes", f"at most {most}")
        start = self.skip(length, "a name")
        raw = self.data[start : self.place]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"the name {raw!r}", "UTF-8") from error


def read_params(path: str | Path) -> dict[str, np.ndarray]:
    """The named arrays of a file that ``mx.nd.save`` wrote, by the names stored in it.

    The arrays have the types and shapes of the file; they are views of its content and cannot be
    written to. One that was saved without a value comes as an empty one, shape (0,).

    Raises:
        InputError: the file is missing, damaged, or holds what this reader does not know (sparse
            arrays, arrays without names); the message names the byte, the finding and what was
            expected there.
    """
    reader = _Reader(Path(path))
    magic, reserved = reader.numbers("QQ", "the start of the file")
    if (magic, reserved) != (_LIST, 0):
        raise reader.error(
            f"{magic:#x} and {reserved:#x}",
            f"{_LIST:#x} and 0, the start of an MXNet list of arrays",
        )
    count = reader.number("Q", "the number of arrays")
    if count > _MOST_ARRAYS:
        raise reader.error(f"{count} arrays", f"at most {_MOST_ARRAYS}")
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
        kind, branch = BLOCK_LAYERS[part].split("_")
        layer = f"{'res' if kind == 'conv' else kind}{stage}{block}_{branch}"
    values = _NORM_VALUES.get(value, ()) if layer.startswith("bn") else ("weight",)
    return tuple(f"{kind}:{layer}_{value}" for value in values for kind in ("arg", "aux"))


def convert_mxnet(source: Path, out: Path) -> list[str]:
    """Write the MXNet weights in ``source`` as ``out``, a file that ``model.weights`` takes.

    Names in ``ilsvrc-cls_rna-a1_cls1000_ep-0001.params`` are those of model A1 in Wu et al.'s code:
    block ``2a`` and its followers ``2b1``, ``2b2`` … are our ``stage2.0``, ``stage2.1``,
    ``stage2.2`` …; the classifier ``linear1000`` and whatever else the file holds are left out.
    Model A, the variant that pools, has the same names and shapes and cannot be told apart here.
    Floats of any size become float32; batch norms' counters are zero.

    Returns:
        Lines to print: what was used, what was not, what to set.

    Raises:
        InputError: ``out`` has another ending, or ``source`` is damaged or for another network.
    """
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: expected a file name that ends in .safetensors")
    with torch.device("meta"):
        wanted = WideResNet38().state_dict()
    arrays = read_params(source)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    found, used = fitting(wanted, tensors, source, "WideResNet-38", _their_names)
    with atomic_file(out) as part:
        save_file({key: value.to(wanted[key].dtype) for key, value in found.items()}, part)
    return [
        f"{out}: {len(used)} of {len(arrays)} tensors of {source}",
        *(f"unused: {name!r}" for name in sorted(set(arrays) - used)),
        f"set model.backbone=wide_resnet38 model.weights={out}",
    ]
