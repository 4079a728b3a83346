"""Scans as CXI 1.6, with Ptychodus' own additions so that it opens there too (specs/files.md, CXI-OUT)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Scan

from ptycho_data.atomic_files import atomic_write
from ptycho_data.files.export import Export, counts_of, export_of, json_text, store_array, store_patterns
from ptycho_data.files.interpret.optics import EV_PER_J

VERSION = 160
EXTENSION = "entry_1/ptycho_1"
_INVALID = 1


def write(path: Path, scan: Scan, *, geometry: Mapping[str, float] | None = None) -> None:
    """Write one scan, atomically.

    Raises:
        ContractError: no probe, or an unknown set-up.
    """
    export = export_of(scan, geometry=geometry, where=str(path))
    positions, centre = export.ptychodus_frame()
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file["cxi_version"] = VERSION
        entry = file.create_group("entry_1")
        store_source(entry, export.geometry["photon_energy_ev"])
        detector = store_detector(entry, export.geometry)
        store_patterns(detector, "data", counts_of(scan))
        if scan.bad_pixels is not None:
            store_array(detector, "mask", np.where(scan.bad_pixels, _INVALID, 0).astype(np.uint32))
        store_translation(entry, positions)
        entry["data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
        entry["data_1/translation"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/translation")
        store_images(entry, export)
        store_additions(entry, export, centre, np.arange(len(scan)))
        _extension(file.create_group(EXTENSION), scan, export)


def store_source(entry: h5py.Group, energy_ev: float) -> None:
    """The photons' energy, in J."""
    energy = entry.create_dataset("instrument_1/source_1/energy", data=energy_ev / EV_PER_J)
    energy.attrs["units"] = "J"


def store_detector(entry: h5py.Group, geometry: Mapping[str, float]) -> h5py.Group:
    """Its distance and pixels in m, as far as they are known; returns its group."""
    detector = entry.create_group("instrument_1/detector_1")
    for name, key in (
        ("distance", "detector_distance_m"),
        ("x_pixel_size", "detector_pixel_size_m"),
        ("y_pixel_size", "detector_pixel_size_m"),
    ):
        if geometry.get(key) is not None:
            detector[name] = geometry[key]
            detector[name].attrs["units"] = "m"
    return detector


def store_translation(entry: h5py.Group, positions_m: NDArray[np.float64]) -> None:
    """Positions (M, 2) ``[x, y]`` in m, as x, y and z."""
    translation = np.zeros((len(positions_m), 3))
    translation[:, :2] = positions_m
    store_array(entry, "sample_1/geometry_1/translation", translation).attrs["units"] = "m"


def store_images(entry: h5py.Group, export: Export) -> None:
    """Probe and object, with their sizes in m."""
    side = export.geometry["object_pixel_size_m"]
    for name, array, axes in (
        ("image_1", export.probe[None], "coherent:incoherent:y:x"),
        ("image_2", export.object[None], "layer:y:x"),
    ):
        image = entry.create_group(name)
        store_array(image, "data", array.astype(np.complex64)).attrs["axes"] = axes
        image["data_space"] = "real"
        image["image_size"] = np.array([side * array.shape[-1], side * array.shape[-2], 0.0])


def store_additions(entry: h5py.Group, export: Export, centre: Any, indexes: NDArray[np.int64]) -> None:
    """What Ptychodus needs beyond CXI, the numbers of the patterns among it."""
    own = entry.create_group("ptychodus")
    store_array(own, "probe_position_indexes", np.asarray(indexes, np.int64))
    for name in ("probe_pixel_width_m", "probe_pixel_height_m", "object_pixel_width_m", "object_pixel_height_m"):
        own[name] = export.geometry["object_pixel_size_m"]
    own["object_center_x_m"], own["object_center_y_m"] = centre


def _extension(group: h5py.Group, scan: Scan, export: Export) -> None:
    group["measurement"] = "counts"
    group["probe_kind"] = scan.probe_kind
    group["object_kind"] = export.object_kind
    store_array(group, "object_origin_yx_px", export.origin_yx_px)
    store_array(group, "scan_index", scan.scan_index)
    group["metadata"] = json_text(scan)
