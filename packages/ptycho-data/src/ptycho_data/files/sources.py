"""Files as sources: companions, checksums (specs/files.md, FILE)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.input_files import checked_file


def refuse_companion(path: Path, companion: Path | None, *, beside: str | None = None) -> None:
    """Refuse a second file where the first one holds the whole scan, or where something else says how to read it.

    Raises:
        ContractError: a companion was given.
    """
    if companion is not None:
        raise ContractError(
            Problem(
                str(companion),
                "scan.companion",
                f"no second file beside {beside or f'{path}, which holds a whole scan'}",
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
