"""Reconstructions as object.npz (specs/files.md, REC)."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ptycho_contracts.arrays import validate
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import RECONSTRUCTION_ARRAYS, Reconstruction

from ptycho_data.files.containers.zipped import NpzArchive
from ptycho_data.files.formats.npz import write_arrays

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
    with NpzArchive(path) as archive:
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
    """Whether a file is an ``object.npz``, by the names of its arrays."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {"object.npy", "origin_yx_px.npy", "weight.npy"} <= set(archive.namelist())
