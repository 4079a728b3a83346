"""Which names in a folder are ours; only these are ever removed (specs/store.md, FOLD-8)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from pathlib import Path

from ptycho_contracts.problems import ContractError, MissingFileError

from ptycho_data.store.folders import MANIFEST, declared_names

GROUP_ARRAYS = ("nn_indices", "coords_offsets", "coords_relative")
_GROUPS = re.compile(r"groups-[0-9a-f]{16}|\.groups-[0-9a-f]{16}\.(tmp|old)-\d+-[0-9a-f]{8}")


def files_of(arrays: Collection[str]) -> frozenset[str]:
    """File names of a folder that holds these arrays."""
    return frozenset({MANIFEST, *(f"{name}.npy" for name in arrays)})


def foreign_names(folder: Path) -> list[str]:
    """Names in a folder that are not those of its manifest or of groups; every name if it has no sound manifest.

    Raises:
        FileNotFoundError: another writer has just moved the folder or a part of it.
    """
    return _sorted(folder, _declared_files(folder))[1]


def discard(folder: Path, files: Collection[str] | None = None) -> None:
    """Remove our files from a folder, and the folder if nothing else is in it; no error if it is gone.

    Args:
        folder: The folder.
        files: Names of our files in it; default: those of its manifest.
    """
    with contextlib.suppress(FileNotFoundError):
        own, _ = _sorted(folder, _declared_files(folder) if files is None else files)
        for path in own:
            path.unlink(missing_ok=True)
        for inner in {path.parent for path in own} - {folder}:
            _remove_if_empty(inner)
        _remove_if_empty(folder)


def _declared_files(folder: Path) -> frozenset[str]:
    try:
        return files_of(declared_names(folder))
    except (ContractError, MissingFileError):
        return frozenset()


def _sorted(folder: Path, files: Collection[str]) -> tuple[list[Path], list[str]]:
    """Our files below a folder, and the names of all others."""
    own, foreign = [], []
    for entry in sorted(folder.iterdir()):
        if entry.name in files and not entry.is_dir():
            own.append(entry)
        elif files and _GROUPS.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
            inner_own, inner_foreign = _sorted(entry, files_of(GROUP_ARRAYS))
            own += inner_own
            foreign += [f"{entry.name}/{name}" for name in inner_foreign]
        else:
            foreign.append(entry.name)
    # The manifest goes last: what is left of an interrupted removal can still be told to be ours.
    return sorted(own, key=lambda path: path.name == MANIFEST), foreign


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
