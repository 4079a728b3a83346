"""What writers to other suites need: counts, an object with its frame, geometry in metres (specs/files.md, OUT)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Reconstruction, Scan

from ptycho_data.canvas.geometry import canvas_geometry
from ptycho_data.files.interpret.optics import complete_geometry
from ptycho_data.free_memory import require_memory

_CHUNK_BYTES = 1 << 20
_INTEGER_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False, kw_only=True)
class Export:
    """A scan or reconstruction in the terms of other suites.

    Attributes:
        positions_px: (M, 2) ``[x, y]``, our convention.
        probe: (modes, N, N) complex64.
        object: (H, W) complex64; of ones if there is none.
        object_kind: ``"truth"``, ``"reconstruction"`` or ``"flat"``.
        origin_yx_px: Object coordinate of ``object[0, 0]``.
        geometry: The four scalars of the set-up.
    """

    positions_px: NDArray[np.float64]
    probe: NDArray[np.complex64]
    object: NDArray[np.complex64]
    object_kind: str
    origin_yx_px: NDArray[np.float64]
    geometry: Mapping[str, float]

    @property
    def N(self) -> int:
        """Side of a patch in pixels."""
        return int(self.probe.shape[-1])

    def ptychodus_frame(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions (M, 2) and object centre (2,), ``[x, y]`` in metres, by Ptychodus' centred-pixel rule."""
        pixel = self.geometry["object_pixel_size_m"]
        half = self.N // 2 - (self.N - 1) / 2
        shape = np.array(self.object.shape[::-1])
        centre = (shape - 1) / 2 + self.origin_yx_px[::-1] + half
        return self.positions_px * pixel, centre * pixel


def export_of(scan: Scan, *, geometry: Mapping[str, float] | None, where: str) -> Export:
    """Terms of a scan.

    Raises:
        ContractError: no probe, or an unknown set-up.
    """
    if scan.probe is None:
        raise ContractError(
            Problem(where, "scan.no_probe", "a scan with a probe", "none", "store the probe as 'probeGuess'")
        )
    known = {**scan.metadata.get("geometry", {}), **(geometry or {})}
    truth, origin, kind = scan.object_truth, scan.object_origin_yx_px, "truth"
    if truth is None or origin is None:
        canvas = canvas_geometry(scan.positions_px, scan.N)
        height, width = canvas.shape
        remedy = "check the positions with inspect: their unit, and whether all belong to one region"
        require_memory(2 * 8 * height * width, where=f"{where}: object of {height} x {width} px", remedy=remedy)
        truth, origin, kind = np.ones(canvas.shape, np.complex64), canvas.origin_yx_px, "flat"
    return Export(
        positions_px=scan.positions_px,
        probe=scan.probe,
        object=truth,
        object_kind=kind,
        origin_yx_px=origin,
        geometry=complete_geometry(known, scan.N, where=where),
    )


def export_of_reconstruction(reconstruction: Reconstruction, *, geometry: Mapping[str, float], where: str) -> Export:
    """Terms of a reconstruction.

    Raises:
        ContractError: an unknown set-up.
    """
    return Export(
        positions_px=reconstruction.positions_px,
        probe=reconstruction.probe,
        object=illuminated(reconstruction),
        object_kind="reconstruction",
        origin_yx_px=reconstruction.origin_yx_px,
        geometry=complete_geometry(geometry, reconstruction.probe.shape[-1], where=where),
    )


def illuminated(reconstruction: Reconstruction) -> NDArray[np.complex64]:
    """The object with 1 where the weight is 0, because other suites have no weight."""
    return np.where(reconstruction.weight > 0, reconstruction.object, np.complex64(1)).astype(np.complex64)


def counts_of(scan: Scan) -> NDArray[Any]:
    """Photon counts: as stored; for amplitude the squares, as integers if all of them are."""
    if scan.unit == "counts":
        return scan.measurements
    squares = np.square(scan.measurements.astype(np.float64))
    whole = np.rint(squares)
    if np.all(np.abs(squares - whole) <= np.maximum(_INTEGER_TOLERANCE, 1e-6 * squares)):
        return whole.astype(np.uint16 if whole.max() < 1 << 16 else np.uint32 if whole.max() < 1 << 32 else np.float64)
    return squares.astype(np.float32)


def store_patterns(group: h5py.Group, name: str, patterns: NDArray[Any]) -> h5py.Dataset:
    """Patterns in chunks of about 1 MiB, compressed by a filter that every HDF5 has, with a checksum per chunk."""
    rows = max(1, min(len(patterns), _CHUNK_BYTES // max(1, patterns[0].nbytes)))
    return group.create_dataset(
        name,
        data=patterns,
        chunks=(rows, *patterns.shape[1:]),
        compression="gzip",
        compression_opts=1,
        shuffle=True,
        fletcher32=True,
    )


def store_array(group: h5py.Group, name: str, array: NDArray[Any]) -> h5py.Dataset:
    """Any other array, uncompressed, with a checksum per chunk; HDF5 has none for scalars and empty arrays."""
    if array.ndim == 0 or array.size == 0:
        return group.create_dataset(name, data=array)
    chunks = array.shape if array.nbytes <= _CHUNK_BYTES else True
    return group.create_dataset(name, data=array, chunks=chunks, fletcher32=True)


def json_text(scan: Scan) -> str:
    """The scan's metadata as text."""
    return json.dumps(dict(scan.metadata), sort_keys=True)
