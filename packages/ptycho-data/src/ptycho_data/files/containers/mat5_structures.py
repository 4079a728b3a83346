"""Arrays of numbers within structures of MATLAB 5 to 7 files (specs/files.md, DOOR-3)."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

STRUCTURE = 2
"""MATLAB's class of structures."""
_MATRIX = 14
_DEEPEST = 8
_LARGEST_HEAD = 1 << 16
"""Bytes of dimensions, a name, or the names of all fields."""
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Field:
    """One array: its path, where its element lies in the content of the structure's, and its flags."""

    path: str
    shape: tuple[int, ...]
    flags: int
    start: int
    size: int


class ElementStream:
    """The content of one element, forwards; a packed one is unpacked piece by piece and never held as a whole.

    Args:
        file: At the first stored byte.
        stored_bytes: Of the element.
        is_packed: Whether they are deflated; the tag of the element that they hold is then skipped.
    """

    def __init__(self, file: IO[bytes], stored_bytes: int, *, is_packed: bool) -> None:
        self._file, self._left = file, stored_bytes
        self._unpacker = zlib.decompressobj() if is_packed else None
        self.place = 0
        if is_packed:
            self.skip(8)
            self.place = 0

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            ValueError: too many for a header, or the element ends before.
        """
        if count > _LARGEST_HEAD:
            raise ValueError(f"a header of {count} bytes")
        return b"".join(self._pieces(count))

    def skip(self, count: int) -> None:
        """Go on by some bytes."""
        for _ in self._pieces(count):
            pass

    def _pieces(self, count: int) -> Iterator[bytes]:
        while count:
            piece = self._some(min(count, _CHUNK_BYTES))
            if not piece:
                raise ValueError("an element that ends early")
            self.place += len(piece)
            count -= len(piece)
            yield piece

    def _some(self, most: int) -> bytes:
        """At most so many bytes; none at the end."""
        if self._unpacker is None:
            piece = self._file.read(min(most, self._left))
            self._left -= len(piece)
            return piece
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._file.read(min(_CHUNK_BYTES, self._left))
            if not self._unpacker.unconsumed_tail:
                self._left -= len(packed)
            piece = self._unpacker.decompress(packed, most)
            if piece or not packed:
                return piece
        return b""


def arrays_within(stream: ElementStream, order: str, name: str, size: int) -> Iterator[Field]:
    """All arrays in a structure and in those within it, by paths such as ``scan/positions``; arrays of structures,
    cells and objects are passed over.

    Args:
        stream: At the start of the structure's element.
        order: Byte order.
        name: Of the structure.
        size: Bytes of its element.

    Raises:
        ValueError, struct.error, zlib.error: a damaged element.
    """
    yield from _within(stream, order, name, size, depth=0)


def _within(stream: ElementStream, order: str, path: str, size: int, *, depth: int) -> Iterator[Field]:
    start = stream.place
    kind, length, flags, _ = struct.unpack(order + "IIII", stream.take(16))
    if (kind, length) != (6, 8):
        raise ValueError("no array flags")
    payload = _small(stream, order)
    shape = struct.unpack(order + f"{len(payload) // 4}i", payload)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"dimensions {shape}")
    _small(stream, order)  # its own name, which fields do not have
    if flags & 0xFF != STRUCTURE:
        yield Field(path, shape, flags, start, size)
    elif math.prod(shape) == 1 and depth < _DEEPEST:
        for name in _names(stream, order):
            kind, length = struct.unpack(order + "II", stream.take(8))
            if kind != _MATRIX or stream.place + length > start + size:
                raise ValueError(f"a field of type {kind} and {length} bytes")
            if length:
                yield from _within(stream, order, f"{path}/{name}", length, depth=depth + 1)
    if stream.place > start + size:
        raise ValueError(f"an element of {size} bytes")
    stream.skip(start + size - stream.place)


def _names(stream: ElementStream, order: str) -> list[str]:
    """Names of the fields, each of one length with zeros after it."""
    (length,) = struct.unpack(order + "i", _small(stream, order))
    text = _small(stream, order)
    if length < 1 or len(text) % length:
        raise ValueError(f"names of {length} bytes in {len(text)}")
    parts = [text[place : place + length] for place in range(0, len(text), length)]
    return [part.split(b"\0")[0].decode("latin-1") for part in parts]


def _small(stream: ElementStream, order: str) -> bytes:
    """The content of an element of a few bytes, which may stand within its own tag."""
    tag = stream.take(8)
    kind, size = struct.unpack(order + "II", tag)
    if kind >> 16:
        return tag[4 : 4 + (kind >> 16)]
    return stream.take(-(-size // 8) * 8)[:size]
