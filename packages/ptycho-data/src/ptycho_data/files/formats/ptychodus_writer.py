"""Scans and reconstructions as Ptychodus' HDF5 (specs/files.md, PTY-OUT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Reconstruction, Scan

from ptycho_data.atomic_files import atomic_write
from ptycho_data.files.export import (
    Export,
    counts_of,
    export_of,
    export_of_reconstruction,
    json_text,
    store_array,
    store_patterns,
)


def write(path: Path, scan: Scan, *, geometry: Mapping[str, float] | None = None) -> None:
    """Write diffraction and product in one file, which Ptychodus opens as either.

    Raises:
        ContractError: no probe, or an unknown set-up.
    """
    export = export_of(scan, geometry=geometry, where=str(path))
    counts = counts_of(scan)
    photons = float(np.square(np.abs(export.probe.astype(np.complex128))).sum())
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        _product(file, export, np.arange(len(scan)), photons, str(path.stem), f"object: {export.object_kind}", ())
        patterns = store_patterns(file, "patterns", counts)
        patterns.attrs["detector_pixel_width_m"] = export.geometry["detector_pixel_size_m"]
        patterns.attrs["detector_pixel_height_m"] = export.geometry["detector_pixel_size_m"]
        store_array(file, "indexes", np.arange(len(scan), dtype=np.int64))
        bad = np.zeros((scan.N, scan.N), bool) if scan.bad_pixels is None else scan.bad_pixels
        store_array(file, "bad_pixels", bad)
        # Our own names; Ptychodus reads none of them.
        store_array(file, "ptycho_scan_index", scan.scan_index)
        store_array(file, "ptycho_object_origin_yx_px", export.origin_yx_px)
        file["ptycho_measurement"] = "counts"
        file["ptycho_probe_kind"] = scan.probe_kind
        file["ptycho_object_kind"] = export.object_kind
        file["ptycho_metadata"] = json_text(scan)


def write_product(
    path: Path | str,
    reconstruction: Reconstruction,
    *,
    geometry: Mapping[str, float],
    indexes: NDArray[np.int64] | None = None,
    losses: Sequence[float] = (),
    name: str = "reconstruction",
    comments: str = "",
) -> None:
    """Write a reconstruction as Ptychodus' ``product.h5``.

    Args:
        path: The file to write.
        reconstruction: What to write.
        geometry: At least three of the four scalars of the set-up, as in ``Scan.metadata["geometry"]``.
        indexes: (M,) index of each position, as in the diffraction file; default: 0, 1, ....
        losses: One loss per epoch.
        name: Name of the product.
        comments: Free text.

    Raises:
        ContractError: an unknown set-up.
        MissingFileError: the folder does not exist.
    """
    path = Path(path)
    export = export_of_reconstruction(reconstruction, geometry=geometry, where=str(path))
    photons = float(np.square(np.abs(export.probe.astype(np.complex128))).sum())
    numbers = np.arange(len(export.positions_px)) if indexes is None else np.asarray(indexes)
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        _product(file, export, numbers, photons, name, comments, losses)


def _product(
    file: h5py.File,
    export: Export,
    indexes: NDArray[np.int64],
    photons: float,
    name: str,
    comments: str,
    losses: Sequence[float],
) -> None:
    """Names of Ptychodus 1.7, and those that older readers expect."""
    geometry = export.geometry
    file.attrs["name"] = name
    file.attrs["comments"] = comments
    file.attrs["detector_object_distance_m"] = geometry["detector_distance_m"]
    file.attrs["photon_energy_eV"] = geometry["photon_energy_ev"]
    file.attrs["probe_energy_eV"] = geometry["photon_energy_ev"]
    file.attrs["probe_photon_count"] = photons
    for unknown in (
        "exposure_time_s",
        "mass_attenuation_m2_per_kg",
        "tomography_angle_deg",
        "focus_object_distance_m",
        "tilt_angle_deg",
    ):
        file.attrs[unknown] = 0.0
    file.attrs["far_field"] = True
    positions, centre = export.ptychodus_frame()
    store_array(file, "probe_position_indexes", indexes.astype(np.int64))
    store_array(file, "probe_position_x_m", positions[:, 0])
    store_array(file, "probe_position_y_m", positions[:, 1])
    pixel = geometry["object_pixel_size_m"]
    probe = store_array(file, "probe", export.probe[None].astype(np.complex64))
    object_ = store_array(file, "object", export.object[None].astype(np.complex64))
    for dataset in (probe, object_):
        dataset.attrs["pixel_width_m"] = pixel
        dataset.attrs["pixel_height_m"] = pixel
    object_.attrs["center_x_m"], object_.attrs["center_y_m"] = centre
    file["object_layer_spacing_m"] = np.zeros(0)
    store_array(file, "loss_epochs", np.arange(len(losses), dtype=np.int64))
    store_array(file, "loss_values", np.asarray(losses, np.float64))
