"""Writing a folder of arrays, committed by one rename (specs/store.md, FOLD-3 to FOLD-6)."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, MissingFileError, Problem, WorkFailedError

from ptycho_data.atomic_files import sync_folder, temporary_name
from ptycho_data.checksums import Checksum, checksum_of, pieces, raw
from ptycho_data.foreign_content import from_json
from ptycho_data.store.folders import (
    FORMAT,
    MANIFEST,
    SCHEMA,
    Progress,
    digest,
    open_folder,
    read_manifest,
    verify_folder,
)
from ptycho_data.store.ownership import discard, files_of, foreign_names

_log = logging.getLogger(__name__)


def commit_folder(
    path: Path,
    *,
    kind: str,
    arrays: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
    progress: Progress | None = None,
) -> None:
    """Make the folder hold exactly these arrays and facts.

    A folder that already does is left untouched, byte for byte; another folder of ours is
    replaced. Everything is written to a hidden sibling first, so that a killed writer leaves
    either the old folder, or none, or the new one. Of several writers one wins and all succeed.
    The data are read once, or twice if they must be compared with a folder of the same layout.

    Args:
        path: The folder.
        kind: What it is, such as ``"store"``; part of the key.
        arrays: Arrays by name; each becomes ``<name>.npy``.
        facts: JSON values.
        progress: Called as ``progress(stage, done, total)`` with stages compare, write, commit.

    Raises:
        ContractError: the path holds something other than such a folder, or facts are not JSON.
        MissingFileError: the parent folder does not exist.
        WorkFailedError: the disk refused the data.
    """
    report = progress or silent
    check_place(path, kind)
    facts = json_facts(facts, path)
    if _unchanged(path, kind, arrays, facts, report):
        return
    staging = staging_of(path)
    try:
        staging.mkdir()
        total, done = sum(array.nbytes for array in arrays.values()), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report("write", done, total)

        entries = {name: write_array(staging, name, array, advance) for name, array in arrays.items()}
        finish_folder(staging, path, kind, entries, facts, report)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        discard(staging, files_of(arrays))


class ArrayWriter:
    """One ``.npy`` file that grows by rows, checksummed as it is written.

    Args:
        path: The file; a new one, or one to be continued after ``done`` rows.
        shape: Shape when finished.
        dtype: Its dtype.
        done: Rows already in the file, all of them included in ``checksum``.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        done: int = 0,
        checksum: Checksum | None = None,
    ) -> None:
        self.path, self.shape, self.dtype, self.rows = path, shape, np.dtype(dtype), done
        self.checksum = checksum or Checksum()
        self._stream = path.open("r+b" if done else "wb", buffering=0)
        head = {"descr": npy_format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        npy_format.write_array_header_1_0(self._stream, head)
        self._begin = self._stream.tell()
        row_bytes = self.dtype.itemsize * math.prod(shape[1:])
        self._stream.seek(self._begin + done * row_bytes)
        self._stream.truncate()

    def append(self, rows: NDArray[Any]) -> None:
        """Write the next rows, of this dtype."""
        data = raw(rows)
        self.checksum.update(data)
        while len(data):
            data = data[self._stream.write(data) :]
        self.rows += len(rows)

    def finish(self) -> dict[str, Any]:
        """Check, sync and close the file.

        Returns:
            Its entry in the manifest.

        Raises:
            WorkFailedError: rows written differ from rows declared.
        """
        written = self._stream.tell() - self._begin
        size = self.dtype.itemsize * math.prod(self.shape)
        if self.rows != self.shape[0] or written != size:
            raise WorkFailedError(
                Problem(
                    str(self.path),
                    "store.rows",
                    f"{self.shape[0]} rows, {size} bytes",
                    f"{self.rows} rows, {written} bytes written",
                    "the source changed while it was read; try again",
                )
            )
        os.fsync(self._stream.fileno())
        self.close()
        return {"dtype": self.dtype.str, "shape": list(self.shape), "checksum": self.checksum.hexdigest()}

    def close(self) -> None:
        """Close the file, finished or not."""
        self._stream.close()


def write_array(folder: Path, name: str, array: NDArray[Any], advance: Callable[[int], None]) -> dict[str, Any]:
    """Write one array as ``<name>.npy`` and return its entry in the manifest."""
    writer = ArrayWriter(folder / f"{name}.npy", array.shape, array.dtype)
    try:
        for piece in pieces(array):
            writer.append(piece)
            advance(piece.nbytes)
        return writer.finish()
    finally:
        writer.close()


def finish_folder(
    staging: Path,
    path: Path,
    kind: str,
    entries: Mapping[str, Any],
    facts: Any,
    report: Progress,
    *,
    without: Path | None = None,
) -> None:
    """Write the manifest of a staged folder and put it in place by one rename.

    Args:
        without: File that the staged folder needs until then, so that it can be continued; removed last.
    """
    content = {"format": FORMAT, "kind": kind, "schema": list(SCHEMA), "arrays": dict(entries), "facts": facts}
    key = digest(content)
    # The manifest comes last: without it the folder does not open.
    with (staging / MANIFEST).open("w", encoding="utf-8") as text:
        json.dump({**content, "key": key}, text, sort_keys=True, indent=1)
        text.flush()
        os.fsync(text.fileno())
    sync_folder(staging)
    report("commit", 0, 1)
    if without is not None:
        without.unlink()
    while not holds(path, kind, key) and not _take_place(staging, path):
        if not holds(path, kind, key):
            if _key_of(path, kind) == key:
                _log.warning("%s holds other bytes than its manifest says; it is written again", path)
            _set_aside(path, kind)
    report("commit", 1, 1)


def check_place(path: Path, kind: str) -> None:
    """Refuse a path without a parent folder, or with foreign content, before any work is done."""
    if not path.parent.is_dir():
        raise MissingFileError(
            Problem(str(path.parent), "file.folder", "an existing folder to write into", "nothing", "create it first")
        )
    holds(path, kind, "")


def staging_of(path: Path) -> Path:
    """A hidden sibling that no other writer has."""
    return path.with_name(temporary_name(path.name))


def holds(path: Path, kind: str, key: str) -> bool:
    """Whether the folder has this key and its bytes; False if there is none, or one of ours that may be replaced."""
    while True:
        try:
            before = path.stat()
            foreign = foreign_names(path) if path.is_dir() else [path.name]
            replaced = not os.path.samestat(before, path.stat())
        except FileNotFoundError:
            return False  # nothing, or another writer has just set it aside
        if not foreign or not replaced:
            break
    if foreign:
        raise _occupied(path, kind, foreign)
    return _key_of(path, kind) == key and intact(path, kind)


def intact(path: Path, kind: str, report: Progress | None = None) -> bool:
    """Whether the bytes on disk are those of the manifest."""
    try:
        verify_folder(path, kind, progress=report)
    except (ContractError, MissingFileError):
        return False
    return True


def _key_of(path: Path, kind: str) -> str | None:
    try:
        return str(read_manifest(path, kind)["key"])
    except (ContractError, MissingFileError):
        return None


def _occupied(path: Path, kind: str, foreign: Sequence[str], *, now_at: Path | None = None) -> ContractError:
    place = f" (now in {now_at})" if now_at else ""
    return ContractError(
        Problem(
            str(path),
            "store.occupied",
            f"a free path, or a {kind} to be replaced",
            f"other content: {', '.join(foreign[:5])}{place}",
            "choose another path or remove it yourself",
        )
    )


def json_facts(facts: Mapping[str, Any], path: Path) -> Any:
    """Facts as they will be read back: the key must not depend on tuples or on the order of keys."""
    try:
        return from_json(json.dumps(facts))
    except (TypeError, ValueError, RecursionError) as error:
        raise ContractError(
            Problem(f"{path}: metadata", "store.metadata", "JSON values", str(error), "convert them to plain values")
        ) from error


def disk_error(path: Path, error: OSError) -> WorkFailedError:
    """The error of a failed write to disk."""
    return WorkFailedError(
        Problem(str(path), "store.write", "a disk that takes the data", str(error), "free space or choose another")
    )


def silent(stage: str, done: int, total: int) -> None:
    """No progress report."""


def _unchanged(path: Path, kind: str, arrays: Mapping[str, NDArray[Any]], facts: Any, report: Progress) -> bool:
    """Whether a finished folder holds these facts and arrays, on disk too; data are read only if the layout agrees."""
    try:
        open_folder(path, kind)
        manifest = read_manifest(path, kind)
    except (ContractError, MissingFileError):
        return False
    entries = manifest["arrays"]
    layout = {name: (array.dtype.str, list(array.shape)) for name, array in arrays.items()}
    if manifest["facts"] != facts or {n: (e["dtype"], e["shape"]) for n, e in entries.items()} != layout:
        return False
    total, done = sum(array.nbytes for array in arrays.values()), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report("compare", done, total)

    # Small arrays first: most changes show there.
    for name in sorted(arrays, key=lambda name: arrays[name].nbytes):
        if checksum_of(arrays[name], advance) != entries[name]["checksum"]:
            return False
    return intact(path, kind, report)


def _take_place(staging: Path, path: Path) -> bool:
    """Rename the finished folder into place; False if a folder with content is there."""
    try:
        os.rename(staging, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    sync_folder(path.parent)
    return True


def _set_aside(path: Path, kind: str) -> None:
    """Remove an outdated folder; what another writer has already removed is no error.

    Raises:
        ContractError: something else was put into it since it was looked at; it stays.
    """
    aside = path.with_name(temporary_name(path.name, kind="old"))
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    foreign = foreign_names(aside)
    if foreign:
        back = _take_place(aside, path)
        raise _occupied(path, kind, foreign, now_at=None if back else aside)
    discard(aside)
