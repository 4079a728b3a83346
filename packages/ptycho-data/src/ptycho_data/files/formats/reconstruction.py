"""Reconstructions as object.npz (specs/files.md, REC)."""

from __future__ import annotations

from pathlib import Path

from ptycho_contracts.arrays import validate
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import RECONSTRUCTION_ARRAYS, Reconstruction

from ptycho_data.files.containers.zipped import NpzArchive, is_npz
from ptycho_data.files.formats.npz import write_arrays
from ptycho_data.foreign_content import reading
from ptycho_data.input_files import checked_file

KEYS = tuple(spec.name for spec in RECONSTRUCTION_ARRAYS)


def write_reconstruction(path: Path | str, reconstruction: Reconstruction) -> None:
    """Write ``object``, ``origin_yx_px``, ``weight``, ``probe`` and ``positions_px``, atomically.

    Raises:
        MissingFileError: the folder does not exist.
    """
    write_arrays(Path(path), {key: getattr(reconstruction, key) for key in KEYS})


def read_reconstruction(path: Path | str) -> Reconstruction:
    """Read what :func:`write_reconstruction` wrote.

    Raises:
        MissingFileError: no such file.
        ContractError: not such a file, or bad content, with all problems at once.
    """
    with reading(path), NpzArchive(path) as archive:
        arrays = archive.read(KEYS)
        names = archive.names
    if not {"object", "weight"} & set(arrays):
        raise ContractError(
            Problem(
                str(path),
                "reconstruction.keys",
                f"the keys {', '.join(KEYS)}",
                f"keys: {', '.join(sorted(names))}",
                "give the object.npz of an inference or reconstruction",
            )
        )
    validate(arrays, RECONSTRUCTION_ARRAYS, where=str(path))
    return Reconstruction(**arrays)


def is_reconstruction(path: Path | str) -> bool:
    """Whether a file is an ``object.npz``, by the names of its arrays.

    Raises:
        MissingFileError, ContractError: no such file, or no regular one with content.
    """
    if not is_npz(checked_file(path)):
        return False
    try:
        with NpzArchive(path) as archive:
            return {"object", "origin_yx_px", "weight"} <= set(archive.names)
    except ContractError:
        return False  # a damaged archive: its reader will tell
