"""Energy, wavelength, distance and pixel sizes by name, unit and size (specs/files.md, DOOR-6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptycho_data.files.containers.opened import Entry
from ptycho_data.files.door.geometry import one_number
from ptycho_data.files.door.options import ANGLE_UNITS_RAD
from ptycho_data.files.door.sources import Source
from ptycho_data.files.door.words import leaf, tokens, unit_in
from ptycho_data.files.interpret.optics import ENERGY_UNITS_EV, LENGTH_UNITS_M
from ptycho_data.files.interpret.quantities import spelled

_LARGEST_CONSTANT = 100_000
"""Larger arrays are no scalars of the set-up that are repeated for each pattern."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What names speak for a scalar, which values it can have, and in which units it is usually stored."""

    names: frozenset[str]
    words: tuple[frozenset[str], ...]
    units: Mapping[str, float]
    usual: tuple[str, ...]
    legal: tuple[float, float]


def _words(*groups: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(group.split()) for group in groups)


_WANTED = {
    "photon_energy_ev": _Wanted(
        frozenset({"kev", "energy_kev", "ev"}), _words("energy"), ENERGY_UNITS_EV, ("J", "eV", "keV"), (30.0, 2e5)
    ),
    "wavelength_m": _Wanted(
        frozenset({"lam"}), _words("wavelength wavelengths lambda"), LENGTH_UNITS_M, ("m", "A", "nm"), (1e-13, 1e-6)
    ),
    "electron_kv": _Wanted(
        frozenset({"kv", "ht"}), _words("voltage kv"), {"kV": 1.0, "V": 1e-3}, ("V", "kV"), (20.0, 1500.0)
    ),
    "detector_distance_m": _Wanted(
        frozenset({"zo", "z_m", "z"}), _words("distance"), LENGTH_UNITS_M, ("m", "mm"), (5e-3, 100.0)
    ),
    "detector_pixel_size_m": _Wanted(
        frozenset({"dxd", "psize", "det_pixel", "ccd_pixel_um", "pixel_size", "pixel_size_m", "x_pixel_size"}),
        _words("pixel", "detector det ccd x", "size um m mm"),
        LENGTH_UNITS_M,
        ("m", "mm", "um"),
        (1e-6, 1e-3),
    ),
    "detector_pixel_rad": _Wanted(frozenset({"q_pixel_size"}), (frozenset(),), ANGLE_UNITS_RAD, (), (1e-6, 0.1)),
    "object_pixel_size_m": _Wanted(
        frozenset({"dx", "dxo", "dx_spec", "obj_pixel_size_m"}),
        _words("pixel", "object obj real recon reconstruction", "size m nm width"),
        LENGTH_UNITS_M,
        ("m", "nm", "A"),
        (1e-12, 5e-6),
    ),
}
_NOT = {"object_pixel_size_m": set(), "detector_pixel_size_m": {"object", "obj", "y", "recon", "probe"}}
_STEPS = ("r_pixel_size", "scan_step", "scan_step_size", "step_size")
_NEVER = {"sample", "source", "ring", "slit", "focal", "error", "std", "start", "end", "threshold", "resolution"}


def guessed_set_up(source: Source) -> tuple[dict[str, dict[str, str]], dict[str, float]]:
    """For each scalar that is found: where and in which unit, and its value in SI units, eV or kV."""
    found: dict[str, dict[str, str]] = {}
    values: dict[str, float] = {}
    entries = [*source.entries, *source.other_entries]
    small = [one for one in entries if one.dtype is not None and one.dtype.kind in "iuf" and _constant(one)]
    for key, wanted in _WANTED.items():
        for entry in sorted(small, key=lambda one: (-_score(one.key, key, wanted), one.size, len(one.key))):
            if _score(entry.key, key, wanted) <= 0:
                break
            number = one_number(source, entry.key)
            unit = None if number is None else _unit(number, entry, wanted)
            if number is not None and unit is not None:
                found[key] = {"dataset": entry.key, "unit": unit}
                values[key] = number * wanted.units[spelled(unit)]
                break
    return found, values


def _constant(entry: Entry) -> bool:
    return entry.size == 1 or (entry.size <= _LARGEST_CONSTANT and len([n for n in entry.shape if n > 1]) == 1)


def _score(name: str, key: str, wanted: _Wanted) -> int:
    own = leaf(name)
    said = set(tokens(own))
    if said & (_NOT.get(key, set()) | (_NEVER if own.lower() not in wanted.names else set())):
        return 0
    if own.lower() in wanted.names:
        return 3
    if said & set(wanted.words[0]):
        # Words of the groups above count for what the name itself leaves open, as in detector/x_pixel_size.
        above = said | set(tokens(name))
        return 2 if all(above & set(group) for group in wanted.words[1:]) else 0
    return 0


def _unit(number: float, entry: Entry, wanted: _Wanted) -> str | None:
    """The unit that the file says, else that of the name, else the first usual one of a possible value."""
    low, high = wanted.legal
    for said in (entry.unit, unit_in(entry.key), leaf(entry.key)):
        unit = None if said is None else spelled(said)
        if unit is not None and unit in wanted.units:
            return unit if low <= number * wanted.units[unit] <= high else None
    if entry.unit:
        return None
    return next((unit for unit in wanted.usual if low <= number * wanted.units[unit] <= high), None)


def guessed_step(source: Source) -> tuple[float, str] | None:
    """The step of a raster that the file tells, with its unit."""
    for entry in source.entries:
        if leaf(entry.key).lower() in _STEPS and entry.dtype is not None and entry.size == 1:
            number, unit = one_number(source, entry.key), spelled(entry.unit or unit_in(entry.key) or "")
            if number and number > 0 and unit in LENGTH_UNITS_M:
                return number, unit
    return None


def said_values(values: Mapping[str, Any]) -> str:
    """Scalars of the set-up in words."""
    texts = {
        "photon_energy_ev": lambda value: f"{value / 1e3:.5g} keV",
        "wavelength_m": lambda value: f"wavelength {value * 1e9:.5g} nm",
        "electron_kv": lambda value: f"electrons of {value:g} kV",
        "detector_distance_m": lambda value: f"distance {value:.5g} m",
        "detector_pixel_size_m": lambda value: f"detector pixel {value * 1e6:.4g} um",
        "detector_pixel_rad": lambda value: f"detector pixel {value * 1e3:.4g} mrad",
        "object_pixel_size_m": lambda value: f"object pixel {value * 1e9:.4g} nm",
    }
    return ", ".join(texts[key](value) for key, value in values.items() if key in texts)
