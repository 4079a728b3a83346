"""Input files: there, regular, readable, not empty, before anything is read of them (specs/files.md, FILE-2)."""

from __future__ import annotations

import os
from pathlib import Path

from ptycho_contracts.problems import ContractError, MissingFileError, Problem


def checked_file(path: Path | str) -> Path:
    """The path, if a regular file is there that can be read.

    Raises:
        MissingFileError: nothing there.
        ContractError: a directory, a device or a pipe, an empty file, or no permission to read it.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, no error for a name that no disk can hold
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
