"""Files as sources: existence, kind, checksums (specs/files.md, FILE)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ptycho_contracts.problems import ContractError, MissingFileError, Problem


def checked_file(path: Path | str) -> Path:
    """The path, if a regular file is there that can be read.

    Raises:
        MissingFileError: nothing there.
        ContractError: a directory or a device, an empty file, or no permission to read it.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(Problem(str(path), "file.missing", "an existing file", "nothing", "check the path"))
    if not path.is_file():
        found = "a directory" if path.is_dir() else "no regular file"
        raise ContractError(Problem(str(path), "file.kind", "a file", found, "give the path of the file itself"))
    if not os.access(path, os.R_OK):
        raise ContractError(
            Problem(str(path), "file.permission", "a readable file", "no permission to read it", "change its mode")
        )
    if path.stat().st_size == 0:
        raise ContractError(
            Problem(str(path), "file.empty", "a file with content", "an empty file", "write or copy it again")
        )
    return path


def refuse_companion(path: Path, companion: Path | None) -> None:
    """Refuse a second file where the first one holds the whole scan.

    Raises:
        ContractError: a companion was given.
    """
    if companion is not None:
        raise ContractError(
            Problem(
                str(companion),
                "scan.companion",
                f"no second file beside {path}, which holds a whole scan",
                "a second file",
                "give one of them",
            )
        )


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        MissingFileError: no such file.
    """
    with checked_file(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
