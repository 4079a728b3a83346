"""Heaps of variable-length text in HDF5, checked before libhdf5, which may never return from forged ones (HDF-6)."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

SIGNATURE = b"GCOL\x01\0\0\0"
_HEADER_BYTES = 16
_OBJECT_BYTES = 16


def first_bad_heap(path: Path) -> int | None:
    """Offset of the first heap collection whose objects do not fill it exactly; None if all do.

    A collection is: signature, version 1, its size (8 bytes); then objects of index, count, size
    and padded data. Index 0 is the free rest, whose size includes its own head.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(SIGNATURE)
        while place >= 0:
            if not _is_whole(content, place):
                return place
            place = content.find(SIGNATURE, place + 1)
    return None


def _is_whole(content: mmap.mmap, place: int) -> bool:
    if place + _HEADER_BYTES > len(content):
        return False
    (size,) = struct.unpack_from("<Q", content, place + 8)
    if size < _HEADER_BYTES or place + size > len(content):
        return False
    at = _HEADER_BYTES
    while size - at >= _OBJECT_BYTES:
        index, _, _, length = struct.unpack_from("<HHIQ", content, place + at)
        step = length if index == 0 else _OBJECT_BYTES + (length + 7) // 8 * 8
        if step < _OBJECT_BYTES or at + step > size:
            return False
        at += step
    return True
