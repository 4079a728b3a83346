"""Checksums of array data at the speed of memory (specs/store.md, SUM).

SHA-256 of all bytes takes longer than writing them. Here 4096 lanes of 64 bits absorb the data
word by word, each step reversible, and SHA-256 hashes the lanes of every 16 MiB: any change
within 32 KiB is detected with certainty, others with probability 1 - 2^-64. It does not protect
against forgery, which no checksum stored with the data can do.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 24
"""Bytes of data under one digest."""

NAME = "lanes64-sha256"

_ROW_BYTES = 1 << 15
_LANES = _ROW_BYTES // 8
_PIECE_BYTES = 1 << 20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


class Checksum:
    """Checksum of a stream of bytes, independent of how it is split into pieces.

    Attributes:
        blocks: Digests of the finished blocks of 16 MiB.
    """

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self._pending = bytearray()
        self._bytes = 0
        self._lanes: NDArray[np.uint64]
        self._spare: NDArray[np.uint64]
        self._rows: int
        self._begin()

    @classmethod
    def after(cls, blocks: Sequence[bytes]) -> Checksum:
        """State after whole blocks with these digests."""
        state = cls()
        state.blocks, state._bytes = list(blocks), len(blocks) * BLOCK_BYTES
        return state

    def update(self, data: memoryview) -> None:
        """Add the next bytes."""
        self._bytes += len(data)
        if self._pending:
            missing = _ROW_BYTES - len(self._pending)
            self._pending += data[:missing]
            data = data[missing:]
            if len(self._pending) < _ROW_BYTES:
                return
            self._take(memoryview(bytes(self._pending)))
            self._pending.clear()
        whole = len(data) // _ROW_BYTES * _ROW_BYTES
        self._take(data[:whole])
        self._pending += data[whole:]

    def hexdigest(self) -> str:
        """Checksum of all bytes so far, as SHA-256 of the blocks' digests and the length."""
        lanes, rows = self._lanes.copy(), self._rows
        blocks = list(self.blocks)
        if self._pending:
            self._take(memoryview(bytes(self._pending).ljust(_ROW_BYTES, b"\0")))
        if self._rows:
            self._seal()
        sealed = b"".join(self.blocks) + self._bytes.to_bytes(8, "little")
        self._lanes, self._rows, self.blocks = lanes, rows, blocks
        return hashlib.sha256(sealed).hexdigest()

    def _begin(self) -> None:
        self._lanes = np.arange(1, _LANES + 1, dtype=np.uint64)
        self._spare = np.empty_like(self._lanes)
        self._rows = 0

    def _take(self, data: memoryview) -> None:
        """Whole rows: ``lane = mix((lane ^ word) * factor)``, a bijection of the lane and of the word."""
        lanes, spare = self._lanes, self._spare
        for row in np.frombuffer(data, "<u8").reshape(-1, _LANES):
            np.bitwise_xor(lanes, row, out=lanes)
            np.multiply(lanes, _FACTOR, out=lanes)
            np.right_shift(lanes, _SHIFT, out=spare)
            np.bitwise_xor(lanes, spare, out=lanes)
            self._rows += 1
            if self._rows * _ROW_BYTES == BLOCK_BYTES:
                self._seal()
                lanes, spare = self._lanes, self._spare

    def _seal(self) -> None:
        self.blocks.append(hashlib.sha256(self._lanes.astype("<u8", copy=False).tobytes()).digest())
        self._begin()


def checksum_of(array: NDArray[Any], advance: Callable[[int], None] = lambda count: None) -> str:
    """Checksum of an array's data in C order, read in pieces of bounded memory.

    Args:
        array: Anything that slices to arrays: in memory, memory-mapped, or in a file.
        advance: Called with the number of bytes of each piece.
    """
    state = Checksum()
    for piece in pieces(array):
        state.update(raw(piece))
        advance(piece.nbytes)
    return state.hexdigest()


def pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Rows of an array in pieces that fit a cache; pages of a read-only map are given back after use."""
    step = max(1, _PIECE_BYTES // max(1, array.nbytes // max(1, len(array))))
    often = max(1, BLOCK_BYTES // _PIECE_BYTES)
    for number, start in enumerate(range(0, len(array), step), 1):
        yield array[start : start + step]
        if number % often == 0:
            release_pages(array)
    release_pages(array)


def raw(array: NDArray[Any]) -> memoryview:
    """Bytes of an array in C order, without a copy if they are stored so already."""
    return np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")


def release_pages(array: NDArray[Any]) -> None:
    """Release the pages of a read-only memory map, so that reading all of it takes no memory."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and getattr(base, "mode", "") != "r":
            return
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def sha256_of(*arrays: NDArray[Any] | None) -> str:
    """SHA-256 of arrays with their shapes and dtypes, as text.

    >>> sha256_of(np.zeros(2), None) == sha256_of(np.zeros(2))
    False
    """
    digest = hashlib.sha256()
    for array in arrays:
        if array is None:
            digest.update(b"none\n")
            continue
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(raw(array))
    return digest.hexdigest()
