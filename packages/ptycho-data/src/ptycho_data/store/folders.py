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

from ptycho_data.checksums import BLOCK_BYTES, checksum_of
from ptycho_data.files.containers.npy import check_size, read_header
from ptycho_data.foreign_content import from_json
from ptycho_data.input_files import checked_file

Progress = Callable[[str, int, int], None]

MANIFEST = "manifest.json"
FORMAT = "ptycho-folder"
SCHEMA = (2, 0)

_CONTENT = ("format", "kind", "schema", "arrays", "facts")
"""What the key of a manifest is of."""

_LARGEST_MANIFEST_BYTES = 1 << 26
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


def open_folder(path: Path, kind: str, *, verified_bytes: int = BLOCK_BYTES) -> ArrayFolder:
    """Open a folder; large arrays are not read, only their headers and sizes.

    Manifest and arrays are of one commit, even if a writer replaces the folder meanwhile.

    Args:
        path: The folder.
        kind: What it must be.
        verified_bytes: Arrays of at most so many bytes are compared with their checksums.

    Raises:
        MissingFileError: no such folder.
        ContractError: not such a folder, of an unknown schema, altered, or with arrays missing or cut.
    """
    for _ in range(_TRIES):
        before = _identity(path)
        try:
            return _opened(path, kind, verified_bytes)
        except ContractError:
            if before == _identity(path):
                raise
        except _Replaced:
            continue
    return _opened(path, kind, verified_bytes)


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


def _opened(path: Path, kind: str, verified_bytes: int) -> ArrayFolder:
    before = _identity(path)
    manifest = read_manifest(path, kind)
    arrays: dict[str, NDArray[Any]] = {}
    problems: list[Problem] = []
    for name, entry in manifest["arrays"].items():
        try:
            arrays[name] = _map_array(path / f"{name}.npy", entry)
            if arrays[name].nbytes <= verified_bytes:
                _check_bytes(path / f"{name}.npy", arrays[name], entry)
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
    folder = open_folder(path, kind, verified_bytes=-1)
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
        try:
            _check_bytes(path / f"{name}.npy", array, declared[name], advance)
        except ContractError as error:
            problems += error.problems
    if problems:
        raise ContractError(problems)


def _check_bytes(
    path: Path, array: NDArray[Any], entry: Mapping[str, Any], advance: Callable[[int], None] = lambda count: None
) -> None:
    actual, expected = checksum_of(array, advance), entry["checksum"]
    if actual != expected:
        raise ContractError(
            Problem(
                str(path),
                "store.checksum",
                f"checksum {expected[:16]}...",
                f"{actual[:16]}...",
                "the data on disk were altered; build the store again",
            )
        )


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
    manifest = _parsed_manifest(path / MANIFEST)
    content = {name: manifest[name] for name in _CONTENT}
    if content["format"] != FORMAT or content["kind"] != kind or content["schema"][0] != SCHEMA[0]:
        raise ContractError(
            Problem(
                where,
                "store.schema",
                f"a {kind} of schema {SCHEMA[0]}",
                f"{content['format']} {content['kind']} of schema {content['schema']}",
                "build it again with this version",
            )
        )
    _check_key(path / MANIFEST, manifest)
    return manifest


def declared_names(path: Path) -> list[str]:
    """Names of the arrays of a folder of any kind and schema, from its manifest.

    Raises:
        ContractError, MissingFileError: no manifest of this suite, or an altered one.
    """
    manifest = _parsed_manifest(path / MANIFEST)
    _check_key(path / MANIFEST, manifest)
    return list(manifest["arrays"]) if manifest["format"] == FORMAT else []


def _parsed_manifest(path: Path) -> dict[str, Any]:
    """A manifest whose entries have the form that is read here; whether it agrees with its key is another question."""
    try:
        size = checked_file(path).stat().st_size
        if size > _LARGEST_MANIFEST_BYTES:
            raise ValueError(f"{size} bytes")
        manifest = from_json(path.read_text(encoding="utf-8"))
        schema, arrays, facts = manifest["schema"], manifest["arrays"], manifest["facts"]
        if not (isinstance(schema[0], int) and isinstance(facts, dict) and {*_CONTENT, "key"} <= set(manifest)):
            raise ValueError("format, schema, facts and key expected")
        for name, entry in arrays.items():
            # A name that is no identifier, such as '../x', would lead out of the folder.
            if not (name.isidentifier() and isinstance(entry["dtype"], str) and isinstance(entry["checksum"], str)):
                raise ValueError(f"entry of {name!r}")
            if not all(type(length) is int for length in entry["shape"]):
                raise ValueError(f"shape of {name!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ContractError(
            Problem(
                str(path),
                "store.manifest",
                "a complete manifest",
                f"{type(error).__name__}: {error}"[:200],
                "this is no finished store; build it again",
            )
        ) from error
    return dict(manifest)


def _check_key(path: Path, manifest: Mapping[str, Any]) -> None:
    if digest({name: manifest[name] for name in _CONTENT}) != manifest["key"]:
        raise ContractError(
            Problem(
                str(path),
                "store.altered",
                "a manifest that agrees with its key",
                "another content",
                "the manifest was altered; build the store again",
            )
        )


def _map_array(path: Path, entry: Mapping[str, Any]) -> NDArray[Any]:
    try:
        if path.exists() and not path.is_file():
            raise OSError("no regular file")
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
