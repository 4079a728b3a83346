"""Stores written pattern by pattern, and resumed after an interruption (specs/store.md, STORE-4 to STORE-6)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.arrays import problems_of
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import SCAN_ARRAYS, MeasurementUnit, ProbeKind

from ptycho_data.batches.truths import truth_specs
from ptycho_data.checksums import BLOCK_BYTES, Checksum, checksum_of
from ptycho_data.files.containers.npy import read_header
from ptycho_data.store.commits import (
    ArrayWriter,
    check_place,
    disk_error,
    finish_folder,
    json_facts,
    silent,
    staging_of,
    write_array,
)
from ptycho_data.store.folders import Progress, digest
from ptycho_data.store.ownership import discard, files_of
from ptycho_data.store.stores import KIND, Store, open_finished

_JOURNAL = "journal"
_NEW_JOURNAL = "journal.new"
_PATTERNS = "measurements"


class StoreWriter:
    """A store whose patterns arrive in blocks; memory is one block.

    With a ``resume_key`` the patterns written so far outlive a killed process, hidden beside the
    store: the next writer with the same key and the same arrays has them in ``done``, verified
    by their checksums, and resumes from there. Nothing opens before :meth:`commit`.

    Args:
        path: Folder of the store; what may exist there is as for ``create_store``.
        shape: (M, N, N) of all patterns.
        dtype: Storage dtype, an integer or float.
        unit: ``"counts"`` or ``"amplitude"``.
        positions_px: (M, 2) float64 ``[x, y]``.
        arrays: Other arrays of a Scan by name: ``scan_index``, ``probe``, ``bad_pixels``,
            ``object_truth``, ``object_origin_yx_px``, or both of these with ``_<scan_index>`` for each scan.
        probe_kind: ``"exact"`` or ``"guess"``.
        metadata: JSON values.
        resume_key: What identifies the source, such as its path, size and time; None keeps nothing.
        progress: Called as ``progress(stage, done, total)`` in bytes, with stages resume, write, commit.

    Attributes:
        done: Patterns written, those of an earlier writer included: where the next block begins.

    Raises:
        ContractError: arrays that make no Scan, a path with foreign content, metadata that are not JSON.
        MissingFileError: the parent folder does not exist.
        WorkFailedError: the disk refused the data.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        shape: tuple[int, int, int],
        dtype: Any,
        unit: MeasurementUnit,
        positions_px: NDArray[np.float64],
        arrays: Mapping[str, NDArray[Any]] | None = None,
        probe_kind: ProbeKind = "guess",
        metadata: Mapping[str, Any] | None = None,
        resume_key: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.path, self.shape, self.dtype = Path(path), tuple(shape), np.dtype(dtype)
        self._report = progress or silent
        self._arrays = {"positions_px": positions_px, "scan_index": np.zeros(shape[0], np.int64), **(arrays or {})}
        _check_arrays(self._arrays, self.shape, self.dtype)
        check_place(self.path, KIND)
        self._facts = json_facts({"unit": unit, "probe_kind": probe_kind, "metadata": dict(metadata or {})}, self.path)
        self._lock: _Lock | None = None
        self._staging = staging_of(self.path)
        if resume_key is not None:
            name = digest([resume_key, list(self.shape), self.dtype.str, self._facts, _sums(self._arrays)])[:16]
            short = os.fsdecode(os.fsencode(self.path.name)[:200])
            part = self.path.with_name(f".{short}.part-{name}")
            # A second writer of the same source gets no lock, and writes a part of its own.
            if (lock := _Lock.taken(part.with_name(part.name + ".lock"))) is not None:
                self._lock, self._staging = lock, part
        try:
            self._staging.mkdir(exist_ok=self._lock is not None)
            self._writer = self._continued()
            self._journal = (self._staging / _JOURNAL).open("a", encoding="ascii")
        except OSError as error:
            self._leave()
            raise disk_error(self.path, error) from error

    @property
    def done(self) -> int:
        """Patterns written so far."""
        return self._writer.rows

    def append(self, patterns: NDArray[Any]) -> None:
        """Write the next patterns, (n, N, N) of the store's dtype.

        Raises:
            ContractError: another shape or dtype, values that are not finite or negative, or more
                patterns than declared; nothing is written then.
            WorkFailedError: the disk refused the data.
        """
        patterns = np.asarray(patterns)
        _check_patterns(patterns, self.done, self.shape, self.dtype)
        sums = self._writer.checksum
        known = len(sums.blocks)
        try:
            self._writer.append(patterns)
            self._journal.writelines(f"{block.hex()}\n" for block in sums.blocks[known:])
            self._journal.flush()
        except OSError as error:
            raise disk_error(self.path, error) from error
        self._report("write", self.done, self.shape[0])

    def commit(self) -> Store:
        """Finish the store, put it in place by one rename, and open it.

        Raises:
            WorkFailedError: fewer patterns than declared, or the disk refused the data.
        """
        try:
            entries = {_PATTERNS: self._writer.finish()}
            for name, array in self._arrays.items():
                entries[name] = write_array(self._staging, name, array, lambda count: None)
            self._journal.close()
            finish_folder(
                self._staging, self.path, KIND, entries, self._facts, self._report, without=self._staging / _JOURNAL
            )
        except OSError as error:
            raise disk_error(self.path, error) from error
        self._leave()
        return open_finished(self.path)

    def close(self) -> None:
        """Stop. Patterns written under a ``resume_key`` stay for the next writer, others are removed."""
        self._writer.close()
        self._journal.close()
        if self._lock is None:
            self._leave()
        else:
            self._lock.release(forget=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _leave(self) -> None:
        discard(self._staging, self._files())
        if self._lock is not None:
            self._lock.release(forget=True)

    def _files(self) -> frozenset[str]:
        """Names that this writer makes in its hidden folder."""
        return files_of((*self._arrays, _PATTERNS)) | {_JOURNAL, _NEW_JOURNAL}

    def _continued(self) -> ArrayWriter:
        """A writer after the patterns that an earlier one left whole."""
        for name in self._files() - {f"{_PATTERNS}.npy", _JOURNAL}:
            (self._staging / name).unlink(missing_ok=True)
        path, journal = self._staging / f"{_PATTERNS}.npy", self._staging / _JOURNAL
        row_bytes = self.dtype.itemsize * self.shape[1] * self.shape[2]
        blocks = _whole_blocks(path, journal, self._report)
        rows = min(len(blocks) * BLOCK_BYTES // row_bytes, self.shape[0])
        sums = Checksum()
        if rows:
            with path.open("rb") as stream:
                begin = read_header(stream, where=str(path)).header_bytes
                sums = Checksum.after(blocks[: rows * row_bytes // BLOCK_BYTES])
                stream.seek(begin + len(sums.blocks) * BLOCK_BYTES)
                sums.update(memoryview(stream.read(rows * row_bytes - len(sums.blocks) * BLOCK_BYTES)))
        # In one piece: a kill between emptying and writing it would lose all that is there.
        renewed = journal.with_name(_NEW_JOURNAL)
        renewed.write_text("".join(f"{block.hex()}\n" for block in sums.blocks), encoding="ascii")
        renewed.replace(journal)
        return ArrayWriter(path, self.shape, self.dtype, done=rows, checksum=sums)


def create_store_from_chunks(
    path: Path | str,
    chunks: Callable[[int], Iterable[NDArray[Any]]],
    *,
    shape: tuple[int, int, int],
    dtype: Any,
    unit: MeasurementUnit,
    positions_px: NDArray[np.float64],
    arrays: Mapping[str, NDArray[Any]] | None = None,
    probe_kind: ProbeKind = "guess",
    metadata: Mapping[str, Any] | None = None,
    resume_key: str | None = None,
    progress: Progress | None = None,
) -> Store:
    """Write a store from patterns that arrive in blocks; memory is one block.

    Args:
        chunks: ``chunks(start)`` gives the patterns from number ``start`` on, as (n, N, N) blocks
            of any n: ``lambda start: (data[i : i + 256] for i in range(start, len(data), 256))``.
            ``start`` is not 0 if an interrupted creation is resumed.
        path, shape, dtype, unit, positions_px, arrays, probe_kind, metadata, resume_key, progress: as
            for :class:`StoreWriter`, which raises the same errors.
    """
    with StoreWriter(
        path,
        shape=shape,
        dtype=dtype,
        unit=unit,
        positions_px=positions_px,
        arrays=arrays,
        probe_kind=probe_kind,
        metadata=metadata,
        resume_key=resume_key,
        progress=progress,
    ) as writer:
        if writer.done < shape[0]:
            for patterns in chunks(writer.done):
                writer.append(patterns)
        return writer.commit()


class _Lock:
    """An advisory lock that dies with its process."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle

    @classmethod
    def taken(cls, path: Path) -> _Lock | None:
        """The lock, or None while another writer has it."""
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return cls(path, handle)
            except BlockingIOError:
                os.close(handle)
                return None
            except FileNotFoundError:
                pass  # its last owner has just removed it: make a new one
            os.close(handle)

    def release(self, *, forget: bool) -> None:
        """Release the lock, and remove its file if nothing is left to lock."""
        if self._handle < 0:
            return
        if forget:
            self.path.unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = -1


def _whole_blocks(path: Path, journal: Path, report: Progress) -> list[bytes]:
    """Digests of the leading blocks of a part that are as its journal says."""
    if not (path.is_file() and journal.is_file()):
        return []
    declared = journal.read_text(encoding="ascii", errors="replace").splitlines()
    sums, total = Checksum(), len(declared) * BLOCK_BYTES
    with path.open("rb") as stream:
        try:
            read_header(stream, where=str(path))
        except ContractError:
            return []
        for number, expected in enumerate(declared, 1):
            sums.update(memoryview(stream.read(BLOCK_BYTES)))
            if len(sums.blocks) < number or sums.blocks[-1].hex() != expected:
                return sums.blocks[: number - 1]
            report("resume", number * BLOCK_BYTES, total)
    return sums.blocks


def _sums(arrays: Mapping[str, NDArray[Any]]) -> dict[str, list[Any]]:
    return {name: [array.dtype.str, list(array.shape), checksum_of(array)] for name, array in sorted(arrays.items())}


def _check_arrays(arrays: Mapping[str, NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """All problems of a Scan except the values of its patterns."""
    specs = (*SCAN_ARRAYS, *truth_specs(arrays))
    known = {spec.name for spec in specs}
    patterns = np.broadcast_to(np.zeros((), dtype), shape)
    problems = [
        Problem(f"StoreWriter: {name}", "array.unknown", f"one of {', '.join(sorted(known))}", name, "leave it out")
        for name in sorted(set(arrays) - known | ({_PATTERNS} & set(arrays)))
    ]
    problems += problems_of({**arrays, _PATTERNS: patterns}, specs, where="StoreWriter", content=False)
    if not problems:
        others = [spec for spec in specs if spec.name != _PATTERNS]
        problems = problems_of(arrays, others, where="StoreWriter")
    if problems:
        raise ContractError(problems)


def _check_patterns(patterns: NDArray[Any], done: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    where = f"StoreWriter.append: patterns from {done} on"
    if patterns.dtype != dtype or patterns.shape[1:] != shape[1:] or done + len(patterns) > shape[0]:
        raise ContractError(
            Problem(
                where,
                "store.patterns",
                f"at most {shape[0] - done} patterns of {shape[1:]} {dtype}",
                f"shape {patterns.shape} {patterns.dtype}",
                "give the patterns that were declared, in order",
            )
        )
    problems = problems_of({_PATTERNS: patterns}, SCAN_ARRAYS[:1], where=where) if len(patterns) else []
    if problems:
        raise ContractError(problems)
