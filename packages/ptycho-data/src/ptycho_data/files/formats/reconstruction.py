"""Reconstructions as object.npz (specs/files.md, REC)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ptycho_contracts.arrays import problems_of
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import PIXEL_SIZE, RECONSTRUCTION_ARRAYS, Reconstruction, pixel_size_problems

from ptycho_data.files.containers.zipped import NpzArchive, is_npz
from ptycho_data.files.formats.npz import write_arrays
from ptycho_data.foreign_content import reading
from ptycho_data.input_files import checked_file

KEYS = tuple(spec.name for spec in RECONSTRUCTION_ARRAYS)


def write(path: Path, reconstruction: Reconstruction, *, pixel_size_m: float | None) -> None:
    """Write the five arrays of a reconstruction and, if it is known, ``pixel_size_m``, atomically.

    Raises:
        MissingFileError: the folder does not exist.
    """
    arrays = {key: getattr(reconstruction, key) for key in KEYS}
    if pixel_size_m is not None:
        arrays[PIXEL_SIZE.name] = np.float64(pixel_size_m)
    write_arrays(path, arrays)


def read_reconstruction(path: Path | str) -> Reconstruction:
    """Read what :func:`ptycho_data.files.write_reconstruction` wrote.

    Raises:
        MissingFileError: no such file.
        ContractError: not such a file, or bad content, with all problems at once.
    """
    with reading(path), NpzArchive(path) as archive:
        arrays = archive.read((*KEYS, PIXEL_SIZE.name))
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
    problems = problems_of(arrays, (*RECONSTRUCTION_ARRAYS, PIXEL_SIZE), where=str(path))
    stored = arrays.pop(PIXEL_SIZE.name, None)
    pixel_size_m = float(stored) if stored is not None and stored.shape == () and stored.dtype.kind == "f" else None
    problems += pixel_size_problems(pixel_size_m, where=str(path))
    if problems:
        raise ContractError(problems)
    return Reconstruction(**arrays, pixel_size_m=pixel_size_m)


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
