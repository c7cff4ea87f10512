"""A writer of MXNet's .params format, apart from the reader under test."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
OLD, V1, V2, V3 = 0, 0xF993FAC8, 0xF993FAC9, 0xF993FACA
VERSIONS = [OLD, V1, V2, V3]
FLAGS = {"<f4": 0, "<f8": 1, "<f2": 2, "u1": 3, "<i4": 4, "i1": 5, "<i8": 6}
CPU = struct.pack("<ii", 1, 0)
GPU = struct.pack("<ii", 2, 3)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def head(version: int, *shape: int, count: int | None = None) -> bytes:
    """An array up to its shape; ``count`` is a number of dimensions that lies."""
    count = len(shape) if count is None else count
    if version == OLD:
        return struct.pack(f"<I{len(shape)}I", count, *shape)
    start = struct.pack("<I", version) + (b"" if version == V1 else struct.pack("<i", 0))
    return start + struct.pack(f"<{'i' if version == V3 else 'I'}{len(shape)}q", count, *shape)


def array_bytes(version: int, array: np.ndarray, device: bytes = CPU) -> bytes:
    flag = next(FLAGS[code] for code in FLAGS if np.dtype(code) == array.dtype)
    return head(version, *array.shape) + device + struct.pack("<i", flag) + array.tobytes()


def names_bytes(*names: str) -> bytes:
    raw = [name.encode("utf-8", "surrogateescape") for name in names]
    return u64(len(raw)) + b"".join(u64(len(name)) + name for name in raw)


def list_bytes(*arrays: bytes, names: Iterable[str] | None = None) -> bytes:
    names = [f"a{i}" for i in range(len(arrays))] if names is None else names
    return u64(0x112, 0, len(arrays)) + b"".join(arrays) + names_bytes(*names)


def save(path: Path, tensors: Mapping[str, np.ndarray], version: int = OLD) -> Path:
    path.write_bytes(
        list_bytes(*(array_bytes(version, a) for a in tensors.values()), names=tensors)
    )
    return path


def values(shape: tuple[int, ...], code: str = "<f4") -> np.ndarray:
    return (np.arange(prod(shape)) % 120).reshape(shape).astype(code)
