"""One array out of a struct in a MATLAB file, read without trusting the file.

SciPy's reader crashes the process on some damaged files, so this one reads what is needed of
MathWorks' level 5 format itself and checks every length before it is used. Numbers have the byte
order that the header names:

    header:   116 bytes of text, 8 bytes, uint16 0x0100, "IM" (little endian) or "MI" (big endian)
    element:  uint32 type, uint32 length, data, padding to 8 bytes (none behind a compressed one)
              or, up to 4 bytes: uint16 type and uint16 length in one uint32, 4 bytes of data
    matrix:   elements: flags, dimensions (int32), name; then for numbers one element of them,
              column by column, and for a struct the length of a field's name, the fields' names
              and a matrix for each field

MATLAB stores numbers in the smallest type that holds them, whatever the class of the matrix.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from dgkd_core.runtime.errors import InputError

_HEADER = 128
_MOST_BYTES = 1 << 26  # of a decompressed variable; SBD's largest take less than 1 MB
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_COMPLEX, _LOGICAL = 0x800, 0x200
_CLASSES = (
    *("none", "cell", "struct", "object", "char", "sparse", "double", "single"),
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
)
_NUMBERS = _CLASSES[6:]
_TYPES = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}


class _Elements:
    """The elements in a run of bytes, one after the other; each lies within it or is refused."""

    def __init__(self, data: bytes, order: str, name: str) -> None:
        self.data = data
        self.order = order
        self.name = name
        self.place = 0

    def error(self, found: str, expected: str) -> InputError:
        return InputError(f"{self.name}: {found}, expected {expected}")

    def numbers(self, code: str, data: bytes) -> tuple[int, ...]:
        count = len(data) // struct.calcsize(code)
        return struct.unpack_from(f"{self.order}{count}{code}", data)

    def next(self, what: str) -> tuple[int, bytes]:
        """Type and data of the next element."""
        start = self.place
        tag = self.data[start : start + 8]
        if len(tag) < 8:
            raise self.error(f"the file ends where {what} should be", "a whole MATLAB file")
        kind, length = self.numbers("I", tag)
        if kind >> 16:
            kind, length, start, size = kind & 0xFFFF, kind >> 16, start + 4, 8
            left = 4
        else:
            start, size = start + 8, 8 + length
            size += 0 if kind == _COMPRESSED else -length % 8
            left = len(self.data) - start
        if length > left:
            raise self.error(f"{what} declares {length} bytes", f"at most the {left} that are left")
        self.place += size
        return kind, self.data[start : start + length]

    def expect(self, wanted: int, what: str) -> bytes:
        kind, data = self.next(what)
        if kind != wanted:
            raise self.error(f"{what} has the type {kind}", f"{wanted}")
        return data

    def inside(self, data: bytes) -> _Elements:
        return _Elements(data, self.order, self.name)


class _Matrix:
    """A matrix's class, dimensions and name; ``rest`` holds the elements behind them."""

    def __init__(self, rest: _Elements) -> None:
        flags = rest.numbers("I", rest.expect(_UINT32, "a matrix's flags"))
        if len(flags) != 2:
            raise rest.error(f"{len(flags)} words of flags", "2")
        number = flags[0] & 0xFF
        self.kind = _CLASSES[number] if number < len(_CLASSES) else f"number {number}"
        if flags[0] & (_COMPLEX | _LOGICAL):
            self.kind = "logical" if flags[0] & _LOGICAL else "complex"
        self.shape = rest.numbers("i", rest.expect(_INT32, "a matrix's dimensions"))
        self.name = rest.expect(_INT8, "a matrix's name")
        self.rest = rest

    def field(self, wanted: str) -> _Matrix:
        """A field of a struct of one element."""
        rest = self.rest
        if self.kind != "struct":
            raise rest.error(f"{self.name.decode('latin-1')} is of class {self.kind}", "struct")
        if math.prod(self.shape) != 1:
            raise rest.error(f"a struct of shape {self.shape}", "one of a single element")
        lengths = rest.numbers("i", rest.expect(_INT32, "the length of the fields' names"))
        if len(lengths) != 1 or lengths[0] < 1:
            raise rest.error(f"fields' names of length {lengths}", "one length of at least 1")
        names = rest.expect(_INT8, "the fields' names")
        for start in range(0, len(names), lengths[0]):
            data = rest.expect(_MATRIX, "a field")
            if names[start : start + lengths[0]].split(b"\0")[0] == wanted.encode():
                return _Matrix(rest.inside(data))
        raise rest.error(f"no field {wanted} in the struct", "one")

    def array(self, what: str) -> np.ndarray:
        """The numbers of a two-dimensional matrix, in the type that they are stored in."""
        rest = self.rest
        if self.kind not in _NUMBERS:
            raise rest.error(f"{what} is of class {self.kind}", "real numbers")
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise rest.error(f"{what} has the shape {self.shape}", "height and width from 1 up")
        kind, data = rest.next(what)
        if kind not in _TYPES:
            raise rest.error(f"{what} has the type {kind}", "one of numbers")
        dtype = np.dtype(rest.order + _TYPES[kind])
        if math.prod(self.shape) * dtype.itemsize != len(data):
            raise rest.error(
                f"{what} has {len(data)} bytes", f"{self.shape} numbers of {dtype.itemsize}"
            )
        return np.frombuffer(data, dtype).reshape(self.shape, order="F")


def _byte_order(content: bytes, name: str) -> str:
    """``<`` or ``>``; refuses what is not a level 5 file."""
    if content.startswith(b"MATLAB 7.3") or content[512:520] == b"\x89HDF\r\n\x1a\n":
        raise InputError(f"{name}: a MATLAB 7.3 (HDF5) file, expected one saved as version 5 to 7")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or struct.unpack_from(f"{order}H", content, 124) != (0x0100,):
        raise InputError(f"{name}: not a MATLAB file of version 5 to 7, expected its header")
    return order


def _variables(content: bytes, order: str, name: str) -> Iterator[_Matrix]:
    """The variables of a file, decompressed."""
    elements = _Elements(content[_HEADER:], order, name)
    while elements.place < len(elements.data):
        kind, data = elements.next("a variable")
        if kind == _COMPRESSED:
            stream = zlib.decompressobj()
            try:
                unpacked = stream.decompress(data, _MOST_BYTES)
            except zlib.error as error:
                raise elements.error(f"a damaged variable ({error})", "compressed data") from error
            if not stream.eof:
                at_most = f"a whole one of at most {_MOST_BYTES >> 20} MB"
                raise elements.error("a variable that is cut short or too large", at_most)
            data = elements.inside(unpacked).expect(_MATRIX, "a variable")
        elif kind != _MATRIX:
            raise elements.error(f"a variable has the type {kind}", f"{_MATRIX} or {_COMPRESSED}")
        yield _Matrix(elements.inside(data))


def read_mat_field(content: bytes, name: str, variable: str, field: str) -> np.ndarray:
    """The array ``field`` of the struct ``variable`` in a MATLAB file.

    Args:
        content: the bytes of a file of MATLAB's versions 5 to 7, compressed or not.
        name: what to call the file in errors.
        variable: the name of a struct of one element; other variables are passed over.
        field: a field that is a matrix of real numbers; other fields are passed over.

    Returns:
        (H, W), in the number type and byte order that the file stores; not writable.

    Raises:
        InputError: anything else.
    """
    for matrix in _variables(content, _byte_order(content, name), name):
        if matrix.name == variable.encode():
            return matrix.field(field).array(f"{variable}.{field}")
    raise InputError(f"{name}: no variable {variable} in it, expected one")
