"""A scan so small that reading it takes no time."""

from __future__ import annotations

import numpy as np
from ptycho_contracts.records import Scan

PATTERNS, N = 12, 16


def small_scan() -> Scan:
    """12 patterns of 16 x 16 counts on a 3 x 4 raster of 2 px steps, with a normalised Gaussian probe."""
    rng = np.random.default_rng(0)
    axis = np.arange(N) - N // 2
    beam = np.exp(-(axis[:, None] ** 2 + axis**2) / 18.0)
    expected = 500 * np.exp(-(axis[:, None] ** 2 + axis**2) / 8.0)
    counts = rng.poisson(expected, (PATTERNS, N, N)).astype(np.uint16)
    energy = counts.sum((1, 2)).mean()
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(3.0)), -1).reshape(-1, 2)
    return Scan(
        measurements=counts,
        unit="counts",
        positions_px=2 * grid + N,
        probe=(beam * np.sqrt(energy / (beam**2).sum()))[None].astype(np.complex64),
    )
