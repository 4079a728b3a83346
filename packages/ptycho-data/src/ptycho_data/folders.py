"""A folder of arrays with a manifest, committed by one rename (specs/store.md, FOLD)."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, MissingFileError, Problem, WorkFailedError

from ptycho_data.files.npy import check_size, read_header

Progress = Callable[[str, int, int], None]

MANIFEST = "manifest.json"
FORMAT = "ptycho-folder"
SCHEMA = (1, 0)
BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class ArrayFolder:
    """An opened folder: its kind, key, facts, and arrays mapped read-only."""

    path: Path
    kind: str
    key: str
    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def commit_folder(
    path: Path, *, kind: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any],
    progress: Progress | None = None,
) -> None:  # fmt: skip
    """Make the folder hold exactly these arrays and facts.

    A folder that already does is left untouched, byte for byte; another folder of ours is
    replaced. Everything is written to a hidden sibling first, so that a killed writer leaves
    either the old folder, or none, or the new one. Of several writers one wins and all succeed.

    Args:
        path: The folder.
        kind: What it is, such as ``"store"``; part of the key.
        arrays: Arrays by name; each becomes ``<name>.npy``.
        facts: JSON values.
        progress: Called as ``progress(stage, done, total)`` with stages hash, write, commit.

    Raises:
        ContractError: the path holds something else than such a folder, or facts are not JSON.
        MissingFileError: the parent folder does not exist.
        WorkFailedError: the disk refused the data.
    """
    report = progress or _silent
    if not path.parent.is_dir():
        raise MissingFileError(
            Problem(str(path.parent), "file.folder", "an existing folder to write into", "nothing", "create it first")
        )
    manifest = _manifest(kind, arrays, _json_facts(facts, path), report)
    if _holds(path, kind, manifest["key"]):
        return
    staging = path.with_name(f".{path.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        _write_all(staging, arrays, manifest, report)
        report("commit", 0, 1)
        while not _take_place(staging, path) and not _holds(path, kind, manifest["key"]):
            _set_aside(path)
    except OSError as error:
        raise WorkFailedError(
            Problem(str(path), "store.write", "a disk that takes the data", str(error), "free space or choose another")
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    report("commit", 1, 1)


def open_folder(path: Path, kind: str) -> ArrayFolder:
    """Open a folder without reading its arrays: manifest, headers and sizes only.

    Raises:
        MissingFileError: no such folder.
        ContractError: not such a folder, of an unknown schema, altered, or with arrays missing or cut.
    """
    manifest = _read_manifest(path, kind)
    arrays: dict[str, NDArray[Any]] = {}
    problems: list[Problem] = []
    for name, entry in manifest["arrays"].items():
        try:
            arrays[name] = _map_array(path / f"{name}.npy", entry)
        except ContractError as error:
            problems += error.problems
    if problems:
        raise ContractError(problems)
    return ArrayFolder(path, kind, manifest["key"], manifest["facts"], arrays)


def verify_folder(path: Path, kind: str, *, progress: Progress | None = None) -> None:
    """Open a folder and compare every array with its checksum.

    Raises:
        MissingFileError, ContractError: as :func:`open_folder`; or arrays that differ from their checksums.
    """
    report = progress or _silent
    folder = open_folder(path, kind)
    declared = _read_manifest(path, kind)["arrays"]
    total = sum(array.nbytes for array in folder.arrays.values())
    problems: list[Problem] = []
    done = 0
    for name, array in folder.arrays.items():
        found = _sha256(array, lambda count: None)
        done += array.nbytes
        report("verify", done, total)
        if found != declared[name]["sha256"]:
            problems.append(
                Problem(str(path / f"{name}.npy"), "store.checksum", f"SHA-256 {declared[name]['sha256'][:16]}...",
                        f"{found[:16]}...", "the data were altered; build the store again")
            )  # fmt: skip
    if problems:
        raise ContractError(problems)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _manifest(kind: str, arrays: Mapping[str, NDArray[Any]], facts: Any, report: Progress) -> dict[str, Any]:
    total, done = sum(array.nbytes for array in arrays.values()), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report("hash", done, total)

    entries = {
        name: {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": _sha256(array, advance)}
        for name, array in arrays.items()
    }
    content = {"format": FORMAT, "kind": kind, "schema": list(SCHEMA), "arrays": entries, "facts": facts}
    return {**content, "key": digest(content)}


def _write_all(staging: Path, arrays: Mapping[str, NDArray[Any]], manifest: dict[str, Any], report: Progress) -> None:
    staging.mkdir()
    total, done = sum(array.nbytes for array in arrays.values()), 0
    for name, array in arrays.items():
        with (staging / f"{name}.npy").open("wb") as stream:
            head = {"descr": npy_format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
            npy_format.write_array_header_1_0(stream, head)
            begin, rows = stream.tell(), 0
            for block in _blocks(array):
                stream.write(block.tobytes())
                rows, done = rows + len(block), done + block.nbytes
                report("write", done, total)
            _check_rows(staging / f"{name}.npy", array, rows, stream.tell() - begin)
            stream.flush()
            os.fsync(stream.fileno())
    # The manifest comes last: without it the folder does not open.
    with (staging / MANIFEST).open("w", encoding="utf-8") as text:
        json.dump(manifest, text, sort_keys=True, indent=1)
        text.flush()
        os.fsync(text.fileno())
    _sync(staging)


def _check_rows(path: Path, array: NDArray[Any], rows: int, written: int) -> None:
    """Rows allocated must be rows written, or the store is not made."""
    size = array.dtype.itemsize * math.prod(array.shape)
    if rows != len(array) or written != size:
        raise WorkFailedError(
            Problem(str(path), "store.rows", f"{len(array)} rows, {size} bytes",
                    f"{rows} rows, {written} bytes written", "the source changed while it was read; try again")
        )  # fmt: skip


def _take_place(staging: Path, path: Path) -> bool:
    """Rename the finished folder into place; False if a folder with content stands there."""
    try:
        os.rename(staging, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    _sync(path.parent)
    return True


def _set_aside(path: Path) -> None:
    """Remove an outdated folder; what another writer has already removed is no error."""
    aside = path.with_name(f".{path.name}.old-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside)


def _holds(path: Path, kind: str, key: str) -> bool:
    """Whether the folder has this key; False if there is none, or one of ours that may be replaced."""
    if not path.exists():
        return False
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else {path.name}
    if names and not _is_ours(path, names):
        raise ContractError(
            Problem(str(path), "store.occupied", f"a free path, or a {kind} to be replaced",
                    f"other content: {', '.join(sorted(names)[:5])}", "choose another path or remove it yourself")
        )  # fmt: skip
    try:
        return bool(names) and open_folder(path, kind).key == key
    except (ContractError, MissingFileError):
        return False


def _is_ours(path: Path, names: set[str]) -> bool:
    """Whether a folder was made here and holds nothing else, and so may be replaced."""
    known = all(name == MANIFEST or name.endswith(".npy") or name.lstrip(".").startswith("groups-") for name in names)
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return known and f'"format": "{FORMAT}"' in text


def _read_manifest(path: Path, kind: str) -> dict[str, Any]:
    where = str(path / MANIFEST)
    if not path.exists():
        raise MissingFileError(Problem(str(path), "file.missing", f"a {kind}", "nothing", "check the path"))
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        content = {name: manifest[name] for name in ("format", "kind", "schema", "arrays", "facts")}
        major = content["schema"][0]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ContractError(
            Problem(where, "store.manifest", "a complete manifest", f"{type(error).__name__}: {error}"[:200],
                    "this is no finished store; build it again")
        ) from error  # fmt: skip
    if content["format"] != FORMAT or content["kind"] != kind or major != SCHEMA[0]:
        raise ContractError(
            Problem(where, "store.schema", f"a {kind} of schema {SCHEMA[0]}",
                    f"{content['format']} {content['kind']} of schema {content['schema']}",
                    "build it again with this version")
        )  # fmt: skip
    if digest(content) != manifest.get("key"):
        raise ContractError(
            Problem(where, "store.altered", "a manifest that agrees with its key", "another content",
                    "the manifest was altered; build the store again")
        )  # fmt: skip
    return dict(manifest)


def _map_array(path: Path, entry: Mapping[str, Any]) -> NDArray[Any]:
    if not path.is_file():
        raise ContractError(Problem(str(path), "store.missing_array", "the array", "nothing", "build the store again"))
    with path.open("rb") as stream:
        header = read_header(stream, where=str(path))
    check_size(header, path.stat().st_size, where=str(path))
    if list(header.shape) != entry["shape"] or header.dtype.str != entry["dtype"]:
        raise ContractError(
            Problem(str(path), "store.layout", f"{entry['shape']} {entry['dtype']}",
                    f"{list(header.shape)} {header.dtype.str}", "build the store again")
        )  # fmt: skip
    return np.asarray(np.load(path, mmap_mode="r"))


def _sha256(array: NDArray[Any], advance: Callable[[int], None]) -> str:
    state = hashlib.sha256()
    for block in _blocks(array):
        state.update(block.tobytes())
        advance(block.nbytes)
    return state.hexdigest()


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    step = max(1, BLOCK_BYTES // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array), step):
        yield array[start : start + step]


def _json_facts(facts: Mapping[str, Any], path: Path) -> Any:
    """Facts as they will be read back: the key must not depend on tuples or on the order of keys."""
    try:
        return json.loads(json.dumps(facts))
    except (TypeError, ValueError) as error:
        raise ContractError(
            Problem(f"{path}: metadata", "store.metadata", "JSON values", str(error), "convert them to plain values")
        ) from error


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _silent(stage: str, done: int, total: int) -> None:
    pass
