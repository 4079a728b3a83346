"""Residual of a reconstruction on chosen patterns, in chunks of bounded memory (PHY-22, PHY-23)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ptycho_data.batches import PatternSource
from ptycho_data.metrics import ResidualSum, poisson_floor

_CHUNK_PIXELS = 1 << 19
_FLOOR_PATTERNS = 64
"""The floor is a mean over pixels: 64 patterns of 64 x 64 give it to a thousandth."""


def far_field_residual(
    expected: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    source: PatternSource,
    indices: NDArray[np.int64],
    *,
    modes: int,
) -> tuple[float | None, float | None]:
    """R of the patterns at ``indices`` and its Poisson floor, from at most 64 of them.

    Args:
        expected: Gives the counts (n, N, N) that are expected at some indices, zero frequency at [N // 2, N // 2].
        source: What was measured.
        indices: Patterns to compare; None, None for no patterns.
        modes: Number of probe modes, whose wavefields share the memory.
    """
    if len(indices) == 0:
        return None, None
    chunk = max(1, _CHUNK_PIXELS // source.N**2 // modes)
    total, floors = ResidualSum(), []
    for first in range(0, len(indices), chunk):
        chosen = indices[first : first + chunk]
        counts = expected(chosen)
        total.add(source.counts(chosen), counts, bad_pixels=source.bad_pixels)
        if first < _FLOOR_PATTERNS:
            floors.append(counts[:_FLOOR_PATTERNS])
    return total.value, poisson_floor(np.concatenate(floors)[:_FLOOR_PATTERNS], bad_pixels=source.bad_pixels)
