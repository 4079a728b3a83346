"""Residual of a reconstruction on chosen patterns, in chunks of bounded memory (PHY-22, PHY-23)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_data.batches import PatternSource
from ptycho_data.metrics import ResidualSum, poisson_floor

_CHUNK_PIXELS = 1 << 19
_FLOOR_PATTERNS = 64
"""The floor is a mean over pixels: 64 patterns of 64 x 64 give it to a thousandth."""


@dataclass(frozen=True, eq=False)
class FarFieldResidual:
    """R of some patterns.

    Attributes:
        value: R of all of them; None if there are none, or no counts.
        floor: Its Poisson floor.
        squares, counts: (n,) float64, ``sum |sqrt n - sqrt I|^2`` and ``sum n`` of each.
    """

    value: float | None
    floor: float | None
    squares: NDArray[np.float64]
    counts: NDArray[np.float64]


def far_field_residual(
    expected: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    source: PatternSource,
    indices: NDArray[np.int64],
    *,
    modes: int,
) -> FarFieldResidual:
    """R of the patterns at ``indices`` and its Poisson floor, from at most 64 of them.

    Args:
        expected: Gives the counts (n, N, N) that are expected at some indices, zero frequency at [N // 2, N // 2].
        source: What was measured.
        indices: Patterns to compare.
        modes: Number of probe modes, whose wavefields share the memory.
    """
    if len(indices) == 0:
        return FarFieldResidual(None, None, np.zeros(0), np.zeros(0))
    chunk = max(1, _CHUNK_PIXELS // source.N**2 // modes)
    each, floors = [ResidualSum() for _ in indices], []
    for first in range(0, len(indices), chunk):
        chosen = indices[first : first + chunk]
        counts = expected(chosen)
        for total, measured, simulated in zip(each[first:], source.counts(chosen), counts, strict=False):
            total.add(measured, simulated, bad_pixels=source.bad_pixels)
        if first < _FLOOR_PATTERNS:
            floors.append(counts[:_FLOOR_PATTERNS])
    squares, seen = (np.array([getattr(one, name) for one in each]) for name in ("numerator", "counts"))
    value = ResidualSum(float(squares.sum()), float(seen.sum())).value
    floor = poisson_floor(np.concatenate(floors)[:_FLOOR_PATTERNS], bad_pixels=source.bad_pixels)
    return FarFieldResidual(value, floor, squares, seen)
