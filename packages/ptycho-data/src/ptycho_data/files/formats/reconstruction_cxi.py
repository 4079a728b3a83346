"""Reconstructions as CXI 1.6 in a NeXus tree, with Ptychodus' own additions (specs/files.md, OUT-5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Reconstruction

from ptycho_data.atomic_files import atomic_write
from ptycho_data.files.export import Export, illuminated, store_array
from ptycho_data.files.formats.cxi_writer import (
    EXTENSION,
    VERSION,
    store_additions,
    store_detector,
    store_images,
    store_source,
    store_translation,
)
from ptycho_data.files.interpret.optics import EV_PER_J, wavelength_m

DEFINITION = "NXcxi_ptycho"
_MISSING = 0x200
"""CXI's bit of a pixel that has no data."""
_CLASSES = {
    "entry_1": "NXentry",
    "entry_1/instrument_1": "NXinstrument",
    "entry_1/instrument_1/source_1": "NXsource",
    "entry_1/instrument_1/beam_1": "NXbeam",
    "entry_1/instrument_1/detector_1": "NXdetector",
    "entry_1/sample_1": "NXsample",
    "entry_1/sample_1/geometry_1": "NXgeometry",
    "entry_1/image_1": "NXdata",
    "entry_1/image_2": "NXdata",
}


def write(
    path: Path,
    reconstruction: Reconstruction,
    *,
    geometry: Mapping[str, float],
    indexes: NDArray[np.int64] | None = None,
) -> None:
    """Write object, probe, positions and what is known of the set-up, in SI units, atomically.

    Args:
        path: The file to write.
        reconstruction: What to write; pixels that were never illuminated become 1, and are masked.
        geometry: With ``object_pixel_size_m``; other scalars are written if they are known.
        indexes: (M,) number of each position's pattern; default: 0, 1, ....
    """
    export = Export(
        positions_px=reconstruction.positions_px,
        probe=reconstruction.probe,
        object=illuminated(reconstruction),
        object_kind="reconstruction",
        origin_yx_px=reconstruction.origin_yx_px,
        geometry=geometry,
    )
    positions, centre = export.ptychodus_frame()
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file["cxi_version"] = VERSION
        entry = file.create_group("entry_1")
        entry["definition"], entry["title"] = DEFINITION, "ptychographic reconstruction"
        _set_up(entry, geometry)
        store_translation(entry, positions)
        store_images(entry, export)
        mask = np.where(reconstruction.weight > 0, 0, _MISSING).astype(np.uint32)
        store_array(entry["image_2"], "mask", mask)
        _axes(entry["image_2"], reconstruction, geometry["object_pixel_size_m"])
        store_additions(entry, export, centre, np.arange(len(positions)) if indexes is None else indexes)
        own = file.create_group(EXTENSION)
        own["object_kind"] = export.object_kind
        store_array(own, "object_origin_yx_px", export.origin_yx_px)
        store_array(own, "weight", reconstruction.weight)
        _classes(file)


def _set_up(entry: h5py.Group, geometry: Mapping[str, float]) -> None:
    """Energy and detector, as far as they are known."""
    energy_ev = geometry.get("photon_energy_ev")
    if energy_ev is not None:
        store_source(entry, energy_ev)
        beam = entry.create_group("instrument_1/beam_1")
        for name, value, unit in (
            ("incident_beam_energy", energy_ev / EV_PER_J, "J"),
            ("incident_wavelength", wavelength_m(energy_ev), "m"),
        ):
            beam[name] = value
            beam[name].attrs["units"] = unit
    store_detector(entry, geometry)


def _axes(image: h5py.Group, reconstruction: Reconstruction, side_m: float) -> None:
    """Object coordinates of rows and columns in metres, for plots."""
    for name, size, origin in zip("yx", reconstruction.object.shape, reconstruction.origin_yx_px, strict=True):
        axis = store_array(image, name, (np.arange(size) + origin) * side_m)
        axis.attrs["units"] = "m"
    image.attrs["signal"], image.attrs["axes"] = "data", [".", "y", "x"]


def _classes(file: h5py.File) -> None:
    file.attrs["NX_class"], file.attrs["default"] = "NXroot", "entry_1"
    for name, kind in _CLASSES.items():
        if name in file:
            file[name].attrs["NX_class"] = kind
    file["entry_1"].attrs["default"] = "image_2"
    file["entry_1/image_1"].attrs["signal"] = "data"
