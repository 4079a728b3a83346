"""Whether a detector is in the far field of its scan (specs/cli.md, CLI-50)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Scan
from scipy.constants import c, e, h
from scipy.spatial import cKDTree


def fresnel_number(scan: Scan) -> float | None:
    """D^2 / (lambda z), D the probe's diameter; without a probe the median step, which a probe exceeds if it overlaps.

    Returns:
        The number, without a probe a lower bound of it; None where the optics or the step are not known.
    """
    geometry = scan.metadata.get("geometry")
    names = ("photon_energy_ev", "detector_distance_m", "object_pixel_size_m")
    if not isinstance(geometry, Mapping) or not all(geometry.get(name) for name in names):
        return None
    energy_ev, distance_m, pixel_m = (float(geometry[name]) for name in names)
    if scan.probe is not None:
        width_px = probe_diameter_px(scan.probe)
    elif len(scan) > 1:
        width_px = float(np.median(cKDTree(scan.positions_px).query(scan.positions_px, k=2)[0][:, 1]))
    else:
        return None
    width_m = width_px * pixel_m
    return float(
        width_m * width_m / (h * c / (e * energy_ev)) / distance_m
    )  # inf, not an error, for an absurd distance


def probe_diameter_px(probe: NDArray[np.complex64]) -> float:
    """Diameter of a uniform disc with the probe's participation area ``(sum I)^2 / sum I^2``.

    >>> round(probe_diameter_px(np.ones((1, 10, 10), np.complex64)), 2)
    11.28
    """
    intensity = np.sum(np.abs(probe.astype(np.complex128)) ** 2, axis=0)
    squares = float(np.sum(intensity**2))
    return float(2 * np.sqrt(np.sum(intensity) ** 2 / squares / np.pi)) if squares > 0 else 0.0
