"""Physical quantities of HDF5 files: numbers with a declared unit, or the format's own (specs/files.md, FAR-5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.containers.hdf5 import Hdf5File
from ptycho_data.files.interpret.optics import ENERGY_UNITS_EV, LENGTH_UNITS_M

_SPELLINGS = {
    "meter": "m",
    "meters": "m",
    "metre": "m",
    "metres": "m",
    "microns": "um",
    "micrometer": "um",
    "μm": "um",
    "millimeter": "mm",
    "nanometer": "nm",
    "joule": "J",
    "joules": "J",
    "j": "J",
    "angstrom": "A",
    "Angstrom": "A",
    "\N{ANGSTROM SIGN}": "A",
    "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}": "A",
    "pixel": "px",
    "pixels": "px",
    "kv": "kV",
    "ev": "eV",
    "EV": "eV",
    "kev": "keV",
    "KeV": "keV",
    "KEV": "keV",
}


def spelled(unit: str) -> str:
    """The usual spelling of a unit; EMD writes ``[n_m]``."""
    plain = unit.strip().strip("[]()").replace("_", "")
    return _SPELLINGS.get(plain, plain)


def factor_of(unit: str, table: Mapping[str, float], *, where: str) -> float:
    """Factor of a unit to the table's own.

    Raises:
        ContractError: a unit that the table does not know.
    """
    name = spelled(unit)
    if name not in table:
        raise ContractError(
            Problem(where, "geometry.unit", "a unit of " + ", ".join(table), repr(unit), "correct the unit")
        )
    return table[name]


def quantity(
    file: Hdf5File, paths: Iterable[str], table: Mapping[str, float], default: str
) -> tuple[float | None, dict[str, str]]:
    """The first of some datasets that exists, in the table's own unit, and where it came from.

    Raises:
        ContractError: no one finite number, or an unknown unit.
    """
    for path in paths:
        if not file.is_dataset(path):
            continue
        value = _one_number(file, path)
        unit, said = unit_of(file, path, default)
        factor = factor_of(unit, table, where=f"{file.path}: {path}")
        return value * factor, {"path": path, "unit": unit, "unit_decided_by": said}
    return None, {}


def unit_of(file: Hdf5File, path: str, default: str) -> tuple[str, str]:
    """A dataset's unit, and its source: its attribute, or the format."""
    for name in ("units", "unit"):
        unit = file.attribute(path, name)
        if isinstance(unit, str) and unit.strip():
            return unit.strip(), f"attribute '{name}'"
    return default, "format"


def positions_m(file: Hdf5File, path: str) -> tuple[NDArray[Any] | None, dict[str, str]]:
    """Lengths of a dataset in metres."""
    array = file.array(path)
    if array is None:
        return None, {}
    unit, said = unit_of(file, path, "m")
    factor = factor_of(unit, LENGTH_UNITS_M, where=f"{file.path}: {path}")
    if array.dtype.kind not in "fiu":
        raise ContractError(
            Problem(f"{file.path}: {path}", "array.dtype", "lengths", str(array.dtype), "store plain numbers")
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float64) * factor, {"path": path, "unit": unit, "unit_decided_by": said}


def photon_energy_ev(file: Hdf5File, paths: Iterable[str]) -> tuple[float | None, dict[str, str]]:
    """Photon energy; joules if the file does not say, as CXI and NeXus have it."""
    return quantity(file, paths, ENERGY_UNITS_EV, "J")


def _one_number(file: Hdf5File, path: str) -> float:
    """The dataset's number; of an array, its value if all are the same to 1e-6."""
    array = file.array(path)
    assert array is not None
    good = array.size > 0 and array.dtype.kind in "iuf" and bool(np.isfinite(array).all())
    if good:
        with np.errstate(over="ignore"):
            values = array.astype(np.float64).reshape(-1)
            first = float(values[0])
            if bool(np.isfinite(values).all()) and bool(np.all(np.abs(values - first) <= 1e-6 * abs(first))):
                return first
    raise ContractError(
        Problem(
            f"{file.path}: {path}",
            "hdf5.number",
            "one finite number, or the same for all patterns",
            f"{array.dtype} of shape {array.shape}",
            "correct the value",
        )
    )
