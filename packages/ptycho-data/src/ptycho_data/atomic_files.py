"""Files that are replaced in one step, only when they are complete on disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptycho_contracts.problems import ContractError, MissingFileError, Problem


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path``; it replaces ``path`` only if the block succeeds.

    After a failure ``path`` has its previous content, and the temporary file is removed.

    Raises:
        MissingFileError: the folder does not exist.
        ContractError: ``path`` is a directory.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise MissingFileError(
            Problem(str(path.parent), "file.folder", "an existing folder to write into", "nothing", "create it first")
        )
    if path.is_dir():
        raise ContractError(
            Problem(
                str(path), "file.kind", "the path of a file to write", "a directory", "give the name of a file, too"
            )
        )
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path) -> None:
    """Flush a finished file to disk and rename it onto ``path``, on the same disk; the rename survives a crash."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
