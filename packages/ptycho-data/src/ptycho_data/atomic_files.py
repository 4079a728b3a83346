"""Files that are replaced in one step, only when they are complete on disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptycho_contracts.problems import ContractError, MissingFileError, Problem

_LONGEST_BYTES = 200
"""Of a name, so that what is added to it fits into the 255 bytes that disks allow."""


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path``; it replaces ``path`` only if the block succeeds.

    After a failure ``path`` has its previous content, and the temporary file is removed. Its permissions are those of
    any new file of the user (the umask), whatever the library that writes it sets.

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
    temporary = path.with_name(temporary_name(path.name))
    try:
        temporary.touch(exist_ok=False)
        permissions = temporary.stat().st_mode & 0o777
        yield temporary
        if temporary.stat().st_mode & 0o777 != permissions:
            temporary.chmod(permissions)
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(name: str, *, kind: str = "tmp") -> str:
    """A hidden name beside ``name`` that no other process or thread uses; a disk that can hold one holds both."""
    short = os.fsdecode(os.fsencode(name)[:_LONGEST_BYTES])
    return f".{short}.{kind}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def move_into_place(temporary: Path, path: Path) -> None:
    """Flush a finished file to disk and rename it onto ``path``, on the same disk; the rename survives a crash."""
    sync_file(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Flush a file's content to disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> list[Path]:
    """Make a folder with the missing ones above it; they survive a crash.

    Returns:
        The folders that were missing, the innermost first.
    """
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)
    return missing
