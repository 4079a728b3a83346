"""Synthetic scans from a scan: random objects with its positions, probe and dose (specs/simulation.md, SIM-14)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Scan

from ptycho_data.files.combine import combine_scans
from ptycho_data.simulate.counting import simulate_scan
from ptycho_data.simulate.objects import OBJECTS
from ptycho_data.simulate.scans import place

AMPLITUDE_RANGES = ((0.6, 1.0), (0.8, 1.0), (0.9, 1.0))
PHASE_RANGES_RAD = ((-1.0, 1.0), (-0.5, 0.5), (0.0, 1.5))


def scans_from(
    positions_px: NDArray[np.float64], probe: NDArray[Any], *, count: int, photons_per_pattern: float, seed: int
) -> Scan:
    """Several scans of random objects at the same positions, as one record with a ``scan_index`` for each object.

    Kinds of objects and their contrasts take turns, so that a network cannot memorise one of them.

    Args:
        positions_px: (M, 2) ``[x, y]`` of the given scan.
        probe: (mode, N, N) complex, its probe.
        count: Number of objects.
        photons_per_pattern: Its mean counts.
        seed: Seed of objects and noise.
    """
    placed, shape = place(positions_px, probe.shape[-1])
    kinds = sorted(OBJECTS)
    scans = []
    for number, sequence in enumerate(np.random.SeedSequence(seed).spawn(count)):
        object_seed, noise_seed = sequence.spawn(2)
        obj = OBJECTS[kinds[number % len(kinds)]](
            shape,
            seed=object_seed,
            amplitude_range=AMPLITUDE_RANGES[number % len(AMPLITUDE_RANGES)],
            phase_range_rad=PHASE_RANGES_RAD[(number // len(kinds)) % len(PHASE_RANGES_RAD)],
        )
        scans.append(simulate_scan(obj, probe, placed, photons_per_pattern=photons_per_pattern, seed=noise_seed))
    return combine_scans(scans)
