"""Far-field geometry: photon energy, distance and pixel sizes (specs/files.md, FAR)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

HC_EV_M = 1.239841984332e-6
"""Planck's constant times the speed of light, exact in the SI: h c / e."""
EV_PER_J = 1 / 1.602176634e-19
ELECTRON_REST_ENERGY_EV = 510998.95
GEOMETRY_KEYS = ("photon_energy_ev", "detector_distance_m", "detector_pixel_size_m", "object_pixel_size_m")
"""Scalars of the physical set-up; carried in ``Scan.metadata["geometry"]``."""
ENERGY_UNITS_EV = {"J": EV_PER_J, "eV": 1.0, "keV": 1e3, "MeV": 1e6}
LENGTH_UNITS_M = {
    "m": 1.0,
    "cm": 1e-2,
    "mm": 1e-3,
    "um": 1e-6,
    "µm": 1e-6,
    "micron": 1e-6,
    "nm": 1e-9,
    "A": 1e-10,
    "pm": 1e-12,
}
LEGAL_ENERGIES_EV = (0.5, 1e6)
PIXEL_TOLERANCE = 1e-2


def wavelength_m(photon_energy_ev: float) -> float:
    """Wavelength of photons, ``h c / E``."""
    return HC_EV_M / photon_energy_ev


def electron_energy_ev(kv: float) -> float:
    """Energy of photons of the relativistic wavelength of electrons, ``sqrt(E^2 + 2 E m c^2)``.

    >>> f"{wavelength_m(electron_energy_ev(300.0)) * 1e12:.4f} pm"
    '1.9687 pm'
    """
    energy_ev = kv * 1e3
    return math.sqrt(energy_ev**2 + 2 * energy_ev * ELECTRON_REST_ENERGY_EV)


def object_pixel_m(photon_energy_ev: float, distance_m: float, detector_pixel_m: float, N: int) -> float:
    """Side of an object pixel in the far field, ``lambda z / (N detector_pixel)``.

    >>> f"{object_pixel_m(8000.0, 2.0, 75e-6, 128):.4g}"
    '3.229e-08'
    """
    return wavelength_m(photon_energy_ev) * distance_m / (N * detector_pixel_m)


def energy_problems(where: str, energy_ev: float) -> list[Problem]:
    """Photon energies that no ptychography uses: most likely another unit than declared."""
    low, high = LEGAL_ENERGIES_EV
    if low <= energy_ev <= high:
        return []
    return [
        Problem(
            where,
            "geometry.energy",
            f"a photon energy of {low:g} eV to {high:g} eV",
            f"{energy_ev:.4g} eV",
            "correct the energy or its unit, or declare it in a mapping file",
        )
    ]


def pixel_problems(where: str, *, stored_m: float, expected_m: float) -> list[Problem]:
    """A stored object pixel that contradicts ``lambda z / (N detector_pixel)``."""
    if math.isclose(stored_m, expected_m, rel_tol=PIXEL_TOLERANCE):
        return []
    return [
        Problem(
            where,
            "geometry.object_pixel",
            f"lambda z / (N detector pixel) = {expected_m:.6g} m",
            f"{stored_m:.6g} m",
            "correct the pixel size, the energy or the distance",
        )
    ]


def complete_geometry(geometry: Mapping[str, float], N: int, *, where: str) -> dict[str, float]:
    """All four scalars of the set-up, one of them computed if three are given.

    Raises:
        ContractError: more than one is missing, or they contradict each other.

    >>> three = {"photon_energy_ev": 8000.0, "detector_distance_m": 2.0, "detector_pixel_size_m": 75e-6}
    >>> round(complete_geometry(three, 128, where="scan")["object_pixel_size_m"] * 1e9, 2)
    32.29
    """
    known = {key: float(geometry[key]) for key in GEOMETRY_KEYS if geometry.get(key) is not None}
    missing = [key for key in GEOMETRY_KEYS if key not in known]
    if len(missing) > 1:
        raise ContractError(
            Problem(
                f"{where}: geometry",
                "geometry.missing",
                "at least three of " + ", ".join(GEOMETRY_KEYS),
                ", ".join(known) or "none",
                "give them: `geometry=KEY=VALUE`, in Python geometry={KEY: VALUE}",
            )
        )
    bad = [key for key, value in known.items() if not (math.isfinite(value) and value > 0)]
    if bad:
        raise ContractError(
            [
                Problem(f"{where}: {key}", "scan.scalar", "one positive number", repr(known[key]), "correct the value")
                for key in bad
            ]
        )
    # E * object_pixel * N * detector_pixel = h c z in the far field.
    E, z, det, obj = (known.get(key, math.nan) for key in GEOMETRY_KEYS)
    solved = {
        "photon_energy_ev": HC_EV_M * z / (N * det * obj),
        "detector_distance_m": E * obj * N * det / HC_EV_M,
        "detector_pixel_size_m": HC_EV_M * z / (N * E * obj),
        "object_pixel_size_m": HC_EV_M * z / (N * E * det),
    }
    known |= {key: solved[key] for key in missing}
    problems = energy_problems(f"{where}: photon_energy_ev", known["photon_energy_ev"])
    if not missing:
        problems += pixel_problems(f"{where}: object_pixel_size_m", stored_m=obj, expected_m=solved[GEOMETRY_KEYS[3]])
    if problems:
        raise ContractError(problems)
    return known


def spacing_problems(where: str, positions_px: NDArray[np.float64], N: int) -> list[Problem]:
    """Positions converted from metres that no scan has: all at one point, or without any overlap."""
    if len(positions_px) < 2 or positions_px.ndim != 2 or not np.isfinite(positions_px).all():
        return []
    extent = float(np.ptp(positions_px, axis=0).max())
    steps = np.hypot(*np.diff(positions_px, axis=0).T)
    step = float(np.median(steps))
    if extent >= 1e-2 and step <= 8 * N:
        return []
    return [
        Problem(
            where,
            "geometry.positions",
            f"steps smaller than a pattern's {N} px, and a field larger than 0.01 px",
            f"a median step of {step:.4g} px in a field of {extent:.4g} px",
            "correct the unit of the positions, the energy, the distance or the pixel size",
        )
    ]
