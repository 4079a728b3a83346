"""Arrays of numbers in MATLAB files of version 5 to 7 (specs/files.md, DOOR-3).

Read here and not by SciPy, whose reader ends the process at some damaged bytes.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.containers.mat5_structures import STRUCTURE, ElementStream, arrays_within
from ptycho_data.files.containers.npy import native
from ptycho_data.files.containers.zipped import LARGEST_RATIO, RATIO_FREE_BYTES
from ptycho_data.free_memory import require_memory
from ptycho_data.input_files import checked_file

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_HEAD_BYTES = 2048
"""Tag, flags, dimensions, name and the tag of the values of one array fit into this."""
_MOST_VARIABLES = 10_000
_VALUES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types in which values are stored; small ones stand for those of the class."""
_BROKEN = (struct.error, zlib.error, ValueError, OverflowError, UnicodeDecodeError, EOFError)
# MATLAB's classes of plain numbers; cells, objects and functions are not read.
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX_FLAG, _LOGICAL_FLAG = 0x0800, 0x0200


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    place: int
    is_packed: bool
    stored_bytes: int
    declared_bytes: int
    is_complex: bool = False
    is_structure: bool = False
    part: slice | None = None
    """Of a field of a packed structure: its element, in what is unpacked."""

    @property
    def body_bytes(self) -> int:
        """Of its own element."""
        return self.declared_bytes if self.part is None else self.part.stop - self.part.start


def is_mat5(path: Path) -> bool:
    """Whether the file has the header of MATLAB 5 to 7 (7.3 is HDF5)."""
    with path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
    return len(head) == _HEADER_BYTES and head[124:128] in (b"\x00\x01IM", b"\x01\x00MI") and head[:4] != b"\0\0\0\0"


class MatFile:
    """Variables of numbers in a MATLAB file of version 5 to 7.

    Raises:
        MissingFileError: no such file.
        ContractError: a damaged file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = checked_file(path)
        with self.path.open("rb") as stream:
            self._order = "<" if stream.read(_HEADER_BYTES)[126:128] == b"IM" else ">"
            try:
                self._variables = self._scanned(stream, self._order)
            except _BROKEN as error:
                raise self._damaged(error) from error

    def listed(self) -> list[tuple[str, tuple[int, ...], np.dtype[Any] | None, None]]:
        """Name, shape and dtype of each variable; no dtype for what holds no plain numbers."""
        return [(one.name, one.shape, one.dtype, None) for one in self._variables.values()]

    def array(self, key: str) -> NDArray[Any] | None:
        """One variable; its axes are those of MATLAB, where vectors have two.

        Raises:
            ContractError: no plain numbers, a decompression bomb, too little memory, or damage.
        """
        variable = self._variables.get(key)
        if variable is None:
            return None
        self._check(variable)
        try:
            return native(self._values(variable))
        except _BROKEN as error:
            raise self._damaged(error) from error

    def _values(self, variable: _Variable) -> NDArray[Any]:
        """The values of a checked variable; MATLAB stores the first axis fastest."""
        with self.path.open("rb") as stream:
            stream.seek(variable.place)
            content = memoryview(stream.read(variable.stored_bytes))
        if variable.is_packed:
            unpacker = zlib.decompressobj()
            content = memoryview(unpacker.decompress(content, variable.declared_bytes + 8))[8:]
            if len(content) != variable.declared_bytes or not _ends(unpacker):
                raise ValueError("packed data of another size than declared")
            content = content if variable.part is None else content[variable.part]
        place = 16
        for _ in ("dimensions", "name"):
            _, place = _element(content, place, self._order)
        parts = []
        for _ in range(2 if variable.is_complex else 1):
            (kind, payload), place = _element(content, place, self._order)
            if kind not in _VALUES:
                raise ValueError(f"values of type {kind}")
            parts.append(np.frombuffer(payload, np.dtype(self._order + _VALUES[kind])))
        assert variable.dtype is not None
        with np.errstate(all="ignore"):
            values = parts[0].astype(variable.dtype)
            if variable.is_complex:
                values = values + variable.dtype.type(1j) * parts[1]
        if values.size != math.prod(variable.shape):
            raise ValueError(f"{values.size} values for {variable.shape}")
        return values.astype(variable.dtype).reshape(variable.shape, order="F")

    def _scanned(self, stream: IO[bytes], order: str) -> dict[str, _Variable]:
        """Headers of all variables; of compressed ones only the first bytes are unpacked."""
        end = self.path.stat().st_size
        place = _HEADER_BYTES
        variables: dict[str, _Variable] = {}
        while place + 8 <= end and len(variables) < _MOST_VARIABLES:
            stream.seek(place)
            kind, stored = struct.unpack(order + "II", stream.read(8))
            if place + 8 + stored > end:
                raise ValueError(f"an element of {stored} bytes at byte {place}, beyond the end")
            head = stream.read(min(stored, _HEAD_BYTES))
            packed = kind == _COMPRESSED
            if packed:
                head = zlib.decompressobj().decompress(head, _HEAD_BYTES)
                kind, declared = struct.unpack(order + "II", head[:8])
                head = head[8:]
            else:
                declared = stored
            if kind == _MATRIX:
                variable = _variable(head, order, place + 8, packed, stored, declared)
                stream.seek(place + 8)
                within = _fields(stream, order, variable) if variable.is_structure else {}
                variables |= within or {variable.name: variable}
            place += 8 + stored
        return variables

    def _check(self, variable: _Variable) -> None:
        where = f"{self.path}: {variable.name}"
        if variable.dtype is None:
            raise ContractError(
                Problem(
                    where,
                    "mat.class",
                    "an array of numbers",
                    "a cell, text, object, or several structures",
                    "save the array as a variable of its own, or with -v7.3",
                )
            )
        elements = math.prod(variable.shape)
        needed = elements * variable.dtype.itemsize
        unpacked = max(needed, variable.declared_bytes)
        # The values take at least a byte each in the element.
        if elements > variable.body_bytes or (
            unpacked > RATIO_FREE_BYTES and unpacked > 8 * LARGEST_RATIO * max(variable.stored_bytes, 1)
        ):
            raise ContractError(
                Problem(
                    where,
                    "mat.bomb",
                    f"at most {8 * LARGEST_RATIO} times its stored size",
                    f"{variable.stored_bytes} bytes that claim to unpack to {unpacked}",
                    "refused as a decompression bomb; if it is genuine, save it with -v7.3",
                )
            )
        needed += variable.declared_bytes + variable.stored_bytes
        if needed > RATIO_FREE_BYTES:  # thousands of frames are asked once, for all of them
            require_memory(needed, where=where, remedy="use a machine with more memory or split the scan")

    def _damaged(self, error: BaseException) -> ContractError:
        return ContractError(
            Problem(
                str(self.path),
                "mat.damaged",
                "an intact MATLAB file",
                f"{type(error).__name__}: {error}".split("\n")[0][:200],
                "the file is truncated or altered; copy or write it again",
            )
        )


def _variable(head: bytes, order: str, start: int, packed: bool, stored: int, declared: int) -> _Variable:
    """Flags, dimensions and name of one array element, and that its values fit into it."""
    kind, size, flags = struct.unpack(order + "III", head[:12])
    if (kind, size) != (6, 8):
        raise ValueError("no array flags")
    (kind, payload), place = _element(head, 16, order)
    if kind != 5 or len(payload) % 4:
        raise ValueError("no dimensions")
    shape = struct.unpack(order + f"{len(payload) // 4}i", payload)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"dimensions {shape}")
    (kind, name), place = _element(head, place, order)
    numbers, is_complex = _numbers(flags), bool(flags & _COMPLEX_FLAG)
    if numbers is None:
        is_structure = flags & 0xFF == STRUCTURE
        return _Variable(
            name.decode("latin-1"), shape, None, start, packed, stored, declared, is_structure=is_structure
        )
    kind, size = struct.unpack(order + "II", head[place : place + 8])
    if not kind >> 16 and size > declared:
        raise ValueError(f"values of {size} bytes in an element of {declared}")
    return _Variable(name.decode("latin-1"), shape, numbers, start, packed, stored, declared, is_complex)


def _numbers(flags: int) -> np.dtype[Any] | None:
    """The dtype of an array by its flags; None for no plain numbers."""
    dtype = _CLASSES.get(flags & 0xFF)
    if dtype is None:
        return None
    numbers = np.dtype(dtype)
    if flags & _COMPLEX_FLAG:
        return np.dtype("c16" if numbers.itemsize > 4 or numbers.kind != "f" else "c8")
    return np.dtype(bool) if flags & _LOGICAL_FLAG else numbers


def _fields(stream: IO[bytes], order: str, whole: _Variable) -> dict[str, _Variable]:
    """Arrays in a structure, as variables; the stream is at its stored bytes."""
    found: dict[str, _Variable] = {}
    content = ElementStream(stream, whole.stored_bytes, is_packed=whole.is_packed)
    for field in arrays_within(content, order, whole.name, whole.declared_bytes):
        numbers = _numbers(field.flags)
        if numbers is None or len(found) >= _MOST_VARIABLES:
            continue
        is_complex = bool(field.flags & _COMPLEX_FLAG)
        if whole.is_packed:
            place, stored, declared = whole.place, whole.stored_bytes, whole.declared_bytes
            part: slice | None = slice(field.start, field.start + field.size)
        else:
            place, stored, declared, part = whole.place + field.start, field.size, field.size, None
        found[field.path] = _Variable(
            field.path, field.shape, numbers, place, whole.is_packed, stored, declared, is_complex, part=part
        )
    return found


def _ends(unpacker: Any) -> bool:
    """Whether nothing more comes out of what is left."""
    return unpacker.eof or not unpacker.decompress(unpacker.unconsumed_tail, 1)


def _element(head: Any, place: int, order: str) -> tuple[tuple[int, Any], int]:
    """One small element and the place behind it; short ones stand within their own tag."""
    kind, size = struct.unpack(order + "II", head[place : place + 8])
    if kind >> 16:
        size, kind = kind >> 16, kind & 0xFFFF
        return (kind, head[place + 4 : place + 4 + size]), place + 8
    if place + 8 + size > len(head):
        raise ValueError(f"an element of {size} bytes")
    return (kind, head[place + 8 : place + 8 + size]), place + 8 + -(-size // 8) * 8
