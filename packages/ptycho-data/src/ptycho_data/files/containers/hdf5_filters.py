"""Compressed HDF5 chunks, bounded before libhdf5 inflates them, which trusts what they say (specs/files.md, HDF-4a)."""

from __future__ import annotations

import bz2
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
from ptycho_contracts.problems import ContractError

INFLATED_BYTES = 1 << 28
"""What one chunk may inflate to, whatever it declares, without being looked at."""

Refusal = Callable[[str, str, str, str], ContractError]
"""``(code, expected, found, remedy)`` to the error that names the dataset."""

_DEFLATE, _SHUFFLE, _FLETCHER32, _SZIP, _NBIT, _SCALEOFFSET = 1, 2, 3, 4, 5, 6
_BZIP2, _LZF, _BLOSC, _LZ4, _BITSHUFFLE, _ZSTD = 307, 32000, 32001, 32004, 32008, 32015
_SAME_SIZE = (_SHUFFLE, _FLETCHER32)
_SIZE_IN_PARAMETERS = (_NBIT, _SCALEOFFSET)
_SIZE_IN_CHUNK = {_SZIP: ("<I", 0), _BLOSC: ("<I", 4), _LZ4: (">Q", 0), _BITSHUFFLE: (">Q", 0)}
_LARGEST_GAIN = {_DEFLATE: 1032, _LZF: 100}
"""Bytes that one stored byte can become at most; other filters have no such bound."""
_SLACK_BYTES = 64
"""Checksums that a filter before the compression appended."""
_REPACK = "write it again with `h5repack -f SHUF -f GZIP=1`"


@dataclass(frozen=True)
class _Filter:
    code: int
    values: tuple[int, ...]
    name: str


def require_bounded(dataset: h5py.Dataset, refusal: Refusal) -> int:
    """Refuse a dataset whose chunks could inflate to more than they declare.

    Filters may occur once each, with one compression among them, of a kind whose result is known before it
    allocates. Chunks of gzip and bzip2 that could become large are inflated here first, under that bound.

    Returns:
        The most bytes that inflating one chunk can take.

    Raises:
        ContractError: ``hdf5.filter``: repeated, several or unbounded compressions; ``hdf5.bomb``: a chunk that
            inflates to more than declared.
    """
    filters = filters_of(dataset)
    codes = [one.code for one in filters]
    packing = [place for place, code in enumerate(codes) if code not in (*_SAME_SIZE, *_SIZE_IN_PARAMETERS)]
    if len(set(codes)) < len(codes) or len(packing) > 1:
        found = ", ".join(str(one.name) for one in filters)
        raise refusal("hdf5.filter", "each filter once, and one compression", found, _REPACK)
    chunk_bytes: int = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    _check_parameters(filters, dataset, chunk_bytes, refusal)
    if not packing:
        return chunk_bytes
    (place,) = packing
    if any(code != _FLETCHER32 for code in codes[place + 1 :]):
        found = ", ".join(str(one.name) for one in filters)
        raise refusal("hdf5.filter", "nothing but a checksum after the compression", found, _REPACK)
    if codes[place] == _LZF:
        return max(chunk_bytes, _LARGEST_GAIN[_LZF] * max(_sizes_of_chunks(dataset).values(), default=0))
    for raw in _large_chunks(dataset, filters[place], place):
        size = _inflated(filters[place], raw, chunk_bytes + _SLACK_BYTES)
        if size is None:
            expected = "a compression whose result has a known size: gzip, lzf, szip, bzip2, blosc, lz4, zstd"
            raise refusal("hdf5.filter", expected, filters[place].name, _REPACK)
        if size > chunk_bytes + _SLACK_BYTES:
            raise refusal(
                "hdf5.bomb",
                f"chunks that inflate to the {chunk_bytes} bytes that they declare",
                f"one of {len(raw)} bytes that becomes more",
                "refused as a decompression bomb; if it is genuine, store it uncompressed",
            )
    return chunk_bytes


def filters_of(dataset: h5py.Dataset) -> list[_Filter]:
    """Filters of a dataset in the order in which they were applied."""
    plist = dataset.id.get_create_plist()
    filters = []
    for number in range(plist.get_nfilters()):
        code, _, values, name = plist.get_filter(number)
        filters.append(
            _Filter(code, tuple(values), f"filter {code} ({name.decode(errors='replace')[:40] or 'unnamed'})")
        )
    return filters


def _check_parameters(filters: Sequence[_Filter], dataset: h5py.Dataset, chunk_bytes: int, refusal: Refusal) -> None:
    """Filters that allocate what their parameters in the file say."""
    layout = (math.prod(dataset.chunks or ()), dataset.dtype.itemsize)
    for one in filters:
        forged = one.code in _SIZE_IN_PARAMETERS and (len(one.values) < 5 or (one.values[2], one.values[4]) != layout)
        forged |= one.code == _LZF and len(one.values) > 2 and one.values[2] > chunk_bytes + _SLACK_BYTES
        if forged:
            raise refusal(
                "hdf5.bomb",
                f"a filter for chunks of {layout[0]} values of {layout[1]} bytes",
                f"{one.name} for {list(one.values)}",
                "the file is altered; write it again",
            )


def _large_chunks(dataset: h5py.Dataset, packing: _Filter, place: int) -> Iterator[bytes]:
    """Stored bytes of the chunks that could inflate to more than ``INFLATED_BYTES``."""
    if packing.code == _BITSHUFFLE and (len(packing.values) < 5 or packing.values[4] == 0):
        return  # it only orders bits, without a head
    harmless = INFLATED_BYTES // _LARGEST_GAIN[packing.code] if packing.code in _LARGEST_GAIN else 0
    if dataset.id.get_storage_size() <= harmless:
        return
    for offset, size in _sizes_of_chunks(dataset).items():
        if size > harmless:
            mask, raw = dataset.id.read_direct_chunk(offset)
            if not mask >> place & 1:
                yield raw


def _sizes_of_chunks(dataset: h5py.Dataset) -> dict[tuple[int, ...], int]:
    """Stored bytes of each chunk by its place."""
    sizes: dict[tuple[int, ...], int] = {}

    def visit(chunk: Any) -> None:
        sizes[tuple(chunk.chunk_offset)] = int(chunk.size)

    if hasattr(dataset.id, "chunk_iter"):
        dataset.id.chunk_iter(visit)
    else:  # h5py on a libhdf5 before 1.12.3
        for number in range(dataset.id.get_num_chunks()):
            visit(dataset.id.get_chunk_info(number))
    return sizes


def _inflated(packing: _Filter, raw: bytes, bound: int) -> int | None:
    """Bytes that a chunk inflates to, counted to just above the bound; None if that cannot be known."""
    if packing.code == _DEFLATE:
        return _counted(zlib.decompressobj().decompress, raw, bound)
    if packing.code == _BZIP2:
        return _counted(bz2.BZ2Decompressor().decompress, raw, bound)
    if packing.code == _ZSTD:
        return size_of_zstd_frame(raw)
    if packing.code in _SIZE_IN_CHUNK:
        form, at = _SIZE_IN_CHUNK[packing.code]
        return int(struct.unpack_from(form, raw, at)[0]) if len(raw) >= at + struct.calcsize(form) else None
    return None


def _counted(inflate: Callable[[bytes, int], bytes], raw: bytes, bound: int) -> int:
    try:
        return len(inflate(raw, bound + 1))
    except (zlib.error, OSError):
        return 0  # libhdf5 will refuse it, as damaged


def size_of_zstd_frame(raw: bytes) -> int | None:
    """The content's size in the head of a frame (RFC 8878, 3.1.1.1); None if it is not told."""
    if len(raw) < 18 or raw[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = raw[4]
    single = descriptor >> 5 & 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    if width == 0:
        return None
    return int.from_bytes(raw[at : at + width], "little") + (256 if width == 2 else 0)
