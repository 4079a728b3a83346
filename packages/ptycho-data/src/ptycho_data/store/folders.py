"""A folder of arrays with a manifest: opened without reading, verified by checksums (specs/store.md, FOLD)."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, MissingFileError, Problem

from ptycho_data.checksums import checksum_of
from ptycho_data.files.containers.npy import check_size, read_header

Progress = Callable[[str, int, int], None]

MANIFEST = "manifest.json"
FORMAT = "ptycho-folder"
SCHEMA = (2, 0)

_TRIES = 100
_PAUSE_S = 0.02


@dataclass(frozen=True, eq=False)
class ArrayFolder:
    """An opened folder: its kind, key, facts, and arrays mapped read-only."""

    path: Path
    kind: str
    key: str
    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def open_folder(path: Path, kind: str) -> ArrayFolder:
    """Open a folder without reading its arrays: manifest, headers and sizes only.

    Manifest and arrays are of one commit, even if a writer replaces the folder meanwhile.

    Raises:
        MissingFileError: no such folder.
        ContractError: not such a folder, of an unknown schema, altered, or with arrays missing or cut.
    """
    for _ in range(_TRIES):
        before = _identity(path)
        try:
            return _opened(path, kind)
        except ContractError:
            if before == _identity(path):
                raise
        except _Replaced:
            continue
    return _opened(path, kind)


def open_committed(path: Path, kind: str) -> ArrayFolder:
    """Open a folder that has just been committed; another writer may be replacing it at this moment.

    Raises:
        MissingFileError, ContractError: as :func:`open_folder`, when it is still so after some seconds.
    """
    for _ in range(_TRIES):
        try:
            return open_folder(path, kind)
        except (MissingFileError, ContractError):
            time.sleep(_PAUSE_S)
    return open_folder(path, kind)


class _Replaced(Exception):
    """The folder was replaced by another writer while it was opened."""


def _opened(path: Path, kind: str) -> ArrayFolder:
    before = _identity(path)
    manifest = read_manifest(path, kind)
    arrays: dict[str, NDArray[Any]] = {}
    problems: list[Problem] = []
    for name, entry in manifest["arrays"].items():
        try:
            arrays[name] = _map_array(path / f"{name}.npy", entry)
        except ContractError as error:
            problems += error.problems
    if problems:
        raise ContractError(problems)
    if before != _identity(path):
        raise _Replaced
    return ArrayFolder(path, kind, manifest["key"], manifest["facts"], arrays)


def _identity(path: Path) -> tuple[int, int] | None:
    """Identity of the present manifest: a replaced folder has another file."""
    try:
        status = (path / MANIFEST).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def verify_folder(path: Path, kind: str, *, progress: Progress | None = None) -> None:
    """Open a folder and compare every array with its checksum.

    Raises:
        MissingFileError, ContractError: as :func:`open_folder`; or arrays that differ from their checksums.
    """
    folder = open_folder(path, kind)
    declared = read_manifest(path, kind)["arrays"]
    total = sum(array.nbytes for array in folder.arrays.values())
    problems: list[Problem] = []
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("verify", done, total)

    for name, array in folder.arrays.items():
        actual, expected = checksum_of(array, advance), declared[name]["checksum"]
        if actual != expected:
            problems.append(
                Problem(
                    str(path / f"{name}.npy"),
                    "store.checksum",
                    f"checksum {str(expected)[:16]}...",
                    f"{actual[:16]}...",
                    "the data were altered; build the store again",
                )
            )
    if problems:
        raise ContractError(problems)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(path: Path, kind: str) -> dict[str, Any]:
    """The manifest of a folder, complete, of this kind and schema, and in agreement with its key.

    Raises:
        MissingFileError, ContractError: as :func:`open_folder`.
    """
    where = str(path / MANIFEST)
    if not path.exists():
        raise MissingFileError(Problem(str(path), "file.missing", f"a {kind}", "nothing", "check the path"))
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        content = {name: manifest[name] for name in ("format", "kind", "schema", "arrays", "facts")}
        major = content["schema"][0]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ContractError(
            Problem(
                where,
                "store.manifest",
                "a complete manifest",
                f"{type(error).__name__}: {error}"[:200],
                "this is no finished store; build it again",
            )
        ) from error
    if content["format"] != FORMAT or content["kind"] != kind or major != SCHEMA[0]:
        raise ContractError(
            Problem(
                where,
                "store.schema",
                f"a {kind} of schema {SCHEMA[0]}",
                f"{content['format']} {content['kind']} of schema {content['schema']}",
                "build it again with this version",
            )
        )
    if digest(content) != manifest.get("key"):
        raise ContractError(
            Problem(
                where,
                "store.altered",
                "a manifest that agrees with its key",
                "another content",
                "the manifest was altered; build the store again",
            )
        )
    return dict(manifest)


def _map_array(path: Path, entry: Mapping[str, Any]) -> NDArray[Any]:
    try:
        with path.open("rb") as stream:
            header = read_header(stream, where=str(path))
            check_size(header, os.fstat(stream.fileno()).st_size, where=str(path))
        if list(header.shape) == entry["shape"] and header.dtype.str == entry["dtype"]:
            return np.asarray(np.load(path, mmap_mode="r"))
    except OSError as error:
        raise ContractError(
            Problem(
                str(path), "store.missing_array", "the array", error.strerror or str(error), "build the store again"
            )
        ) from error
    raise ContractError(
        Problem(
            str(path),
            "store.layout",
            f"{entry['shape']} {entry['dtype']}",
            f"{list(header.shape)} {header.dtype.str}",
            "build the store again",
        )
    )
