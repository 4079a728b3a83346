"""Reconstructions in every format that they can be written in (specs/files.md, OUT, REC)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Reconstruction, Scan

from ptycho_data.files.formats import reconstruction as npz
from ptycho_data.files.formats import reconstruction_cxi, reconstruction_tiff
from ptycho_data.files.formats.ptychodus_writer import write_product
from ptycho_data.files.interpret.optics import GEOMETRY_KEYS, complete_geometry

RECONSTRUCTION_FORMATS: Mapping[str, tuple[str, ...]] = {
    "npz": (".npz",),
    "cxi": (".cxi",),
    "ptychodus": (".h5", ".hdf5"),
    "tiff": (".tif", ".tiff"),
}
"""Suffixes of each format, the usual one first."""


def write_reconstruction(
    path: Path | str,
    reconstruction: Reconstruction,
    *,
    format: str | None = None,
    geometry: Mapping[str, float] | None = None,
    indexes: NDArray[np.int64] | None = None,
    losses: Sequence[float] = (),
    name: str = "reconstruction",
) -> None:
    """Write a reconstruction, atomically; an existing file is replaced only by a complete one.

    Args:
        path: The file to write.
        reconstruction: What to write.
        format: One of :data:`RECONSTRUCTION_FORMATS`; default: by the path's suffix.
        geometry: Scalars of the set-up, as in ``Scan.metadata["geometry"]``; they take precedence over the
            reconstruction's own pixel size.
        indexes, losses, name: (M,) number of each position's pattern, default 0, 1, ...; one loss per epoch; a title;
            only Ptychodus' product and, for the numbers, CXI have a place for them.

    Raises:
        ContractError: unknown format, or one that needs more of the set-up, or a library that is missing.
        MissingFileError: the folder does not exist.
    """
    path = Path(path)
    kind = format or reconstruction_format(path)
    if kind not in RECONSTRUCTION_FORMATS:
        legal = ", ".join(f"{suffix} for {name}" for name, ends in RECONSTRUCTION_FORMATS.items() for suffix in ends)
        expected = f"a suffix of a format of reconstructions ({legal}), or the format's name"
        raise ContractError(
            Problem(str(path), "file.format", expected, repr(format or path.suffix), "name the file with such a suffix")
        )
    known = set_up_of(reconstruction, geometry, where=str(path))
    require_reconstruction_formats([kind], known, N=reconstruction.probe.shape[-1], where=str(path))
    if kind == "npz":
        npz.write(path, reconstruction, pixel_size_m=known.get("object_pixel_size_m"))
    elif kind == "cxi":
        reconstruction_cxi.write(path, reconstruction, geometry=known, indexes=indexes)
    elif kind == "tiff":
        reconstruction_tiff.write(path, reconstruction, pixel_size_m=known.get("object_pixel_size_m"))
    else:
        write_product(path, reconstruction, geometry=known, indexes=indexes, losses=losses, name=name)


def reconstruction_format(path: Path) -> str:
    """The format of a file's suffix; empty if there is none."""
    return next((name for name, suffixes in RECONSTRUCTION_FORMATS.items() if path.suffix.lower() in suffixes), "")


def require_reconstruction_formats(
    formats: Collection[str], geometry: Mapping[str, float], *, N: int, where: str
) -> None:
    """Refuse formats that cannot be written, before any work.

    Args:
        formats: Names of :data:`RECONSTRUCTION_FORMATS`.
        geometry: What is known of the set-up.
        N: Side of a pattern in pixels.
        where: What is converted.

    Raises:
        ContractError: ``geometry.missing``, or ``image.reader``: no tifffile.
    """
    if "tiff" in formats and find_spec("tifffile") is None:
        remedy = "pip install 'ptycho-data[tiff]'"
        raise ContractError(Problem(where, "image.reader", "tifffile, which writes TIFF files", "none", remedy))
    if "ptychodus" in formats:
        complete_geometry(geometry, N, where=where)
    if "cxi" in formats and "object_pixel_size_m" not in geometry:
        remedy = "convert with `geometry=object_pixel_size_m=METRES`, or choose tiff or npz"
        expected = "the side of an object pixel, since CXI is in metres"
        raise ContractError(Problem(f"{where}: geometry", "geometry.missing", expected, "none", remedy))


def set_up_of(
    reconstruction: Reconstruction | None, geometry: Mapping[str, float] | None, *, where: str
) -> dict[str, float]:
    """What is known of a set-up: given scalars, else the reconstruction's pixel size; all four if three are known.

    Raises:
        ContractError: they contradict each other, or are no positive numbers.
    """
    own = None if reconstruction is None else reconstruction.pixel_size_m
    known = {key: value for key, value in {"object_pixel_size_m": own, **(geometry or {})}.items() if value is not None}
    known = {key: float(value) for key, value in known.items() if key in GEOMETRY_KEYS}
    if len(known) >= len(GEOMETRY_KEYS) - 1 and reconstruction is not None:
        return complete_geometry(known, reconstruction.probe.shape[-1], where=where)
    bad = [key for key, value in known.items() if not (np.isfinite(value) and value > 0)]
    if bad:
        raise ContractError(
            Problem(f"{where}: {key}", "scan.scalar", "one positive number", repr(known[key]), "correct the value")
            for key in bad
        )
    return known


def pattern_indexes(scan: Scan) -> NDArray[np.int64] | None:
    """(M,) numbers of a scan's patterns in its file where they are not 0, 1, ... (PTY-3); else None."""
    numbers = (scan.metadata.get("pairing") or {}).get("indexes")
    return None if numbers is None or len(numbers) != len(scan) else np.asarray(numbers, np.int64)


def geometry_of(scan: Scan) -> dict[str, float]:
    """Scalars of a scan's set-up that it knows."""
    stored = scan.metadata.get("geometry") or {}
    return {key: float(stored[key]) for key in GEOMETRY_KEYS if stored.get(key) is not None}
