"""The set-up that a mapping declares, for the patterns after crop and bin (specs/files.md, MAP-5, DOOR-9)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.door.detector import Corrected
from ptycho_data.files.door.options import ANGLE_UNITS_RAD
from ptycho_data.files.door.sources import Source
from ptycho_data.files.interpret.optics import (
    ENERGY_UNITS_EV,
    GEOMETRY_KEYS,
    HC_EV_M,
    LENGTH_UNITS_M,
    complete_geometry,
    electron_energy_ev,
)
from ptycho_data.files.interpret.quantities import factor_of

_UNITS: dict[str, dict[str, float]] = {
    "photon_energy_ev": ENERGY_UNITS_EV,
    "electron_kv": {"kV": 1.0, "V": 1e-3},
    "detector_pixel_rad": ANGLE_UNITS_RAD,
}
"""Units of scalars that are no lengths."""


def geometry_by(source: Source, declared: Mapping[str, Any], done: Corrected, side: int) -> dict[str, float]:
    """Scalars of the set-up in eV and m, for the patterns as they are after crop and bin.

    Raises:
        ContractError: nothing at a path, no declared unit, or scalars that contradict each other.
    """
    read: dict[str, float] = {}
    problems: list[Problem] = []
    for key, value in declared.items():
        if key.endswith("_unit"):
            continue
        if not isinstance(value, str | dict):
            read[key] = float(value)
            continue
        name = value["dataset"] if isinstance(value, dict) else value
        unit = value.get("unit") if isinstance(value, dict) else None
        energy = key == "photon_energy_ev"
        unit = unit or declared.get("energy_unit" if energy else "length_unit")
        number = one_number(source, name)
        if number is None or unit is None:
            found = "nothing there" if number is None else "no declared unit"
            problems.append(
                Problem(
                    f"{source.path}: {name}",
                    "mapping.dataset",
                    f"{key}, in a declared unit",
                    found,
                    "correct the path; declare energy_unit or length_unit",
                )
            )
        else:
            table = _UNITS.get(key, LENGTH_UNITS_M)
            read[key] = number * factor_of(unit, table, where=f"{source.path}: {name}")
    if problems:
        raise ContractError(problems)
    return _finished(read, done, side, str(source.path))


def one_number(source: Source, key: str) -> float | None:
    """The number of an array whose elements are all the same; None if there is none."""
    array = source.array(key)
    if array is None or array.size == 0 or array.dtype.kind not in "iuf":
        return None
    values = array.reshape(-1).astype(np.float64)
    first = float(values[0])
    same = math.isfinite(first) and bool(np.all(np.abs(values - first) <= 1e-6 * abs(first)))
    return first if same else None


def _finished(read: dict[str, float], done: Corrected, side: int, where: str) -> dict[str, float]:
    """Scalars of the patterns as stored, for the cropped and binned ones."""
    return scalars_of(read, N=done.patterns.shape[-1], side=side, window=done.window, binned=done.binned, where=where)


def scalars_of(
    read: Mapping[str, float], *, N: int, side: int, window: int, binned: int, where: str
) -> dict[str, float]:
    """From wavelengths, voltages and angles to the four scalars of a set-up.

    Args:
        read: Keys of a table ``[geometry]``, for the patterns as stored.
        N: Side of the patterns now.
        side: Side of the patterns as stored, in detector pixels.
        window: Detector pixels that N spans.
        binned: Detector pixels per side of a pixel.
        where: For messages.

    Raises:
        ContractError: scalars that contradict each other.
    """
    scalars = {key: read[key] for key in GEOMETRY_KEYS if key in read}
    if "electron_kv" in read:
        scalars["photon_energy_ev"] = electron_energy_ev(read["electron_kv"])
    elif "wavelength_m" in read and read["wavelength_m"] > 0:
        scalars.setdefault("photon_energy_ev", HC_EV_M / read["wavelength_m"])
    if "detector_pixel_size_m" in scalars:
        scalars["detector_pixel_size_m"] *= binned
    if "object_pixel_size_m" in scalars:
        scalars["object_pixel_size_m"] *= side / window
    if "detector_pixel_rad" in read and "photon_energy_ev" in scalars:
        angle = read["detector_pixel_rad"] * window
        scalars["object_pixel_size_m"] = HC_EV_M / scalars["photon_energy_ev"] / angle
    return complete_geometry(scalars, N, where=where) if len(scalars) >= len(GEOMETRY_KEYS) - 1 else scalars
