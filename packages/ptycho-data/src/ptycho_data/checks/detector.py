"""Signs of a detector at its limits: saturated pixels, and counters that begin again at zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEAST_TOP = 50.0
"""Highest count below which repeats are chance: few photons share few values."""
_LEAST_REPEATS = 5
_JUST_BELOW = 0.97
_COUNTER_BITS = (8, 10, 12, 14, 16, 20, 24)
_FULL, _JUMP = 0.9, 0.7
"""Of a counter's range: how high counts reach in one that overflows, and the step between pixels across it."""
_LEAST_HOLES = 3


def saturated_values(counts: NDArray[np.float32]) -> tuple[float, int] | None:
    """The highest count and how often it occurs, if far more often than counts just below it; else None.

    Args:
        counts: (n, N, N) of some patterns.

    >>> ramp = np.arange(100.0, dtype=np.float32).reshape(1, 10, 10)
    >>> saturated_values(ramp), saturated_values(np.minimum(ramp, 60))
    (None, (60.0, 40))
    """
    top = float(counts.max(initial=0.0))
    at_top = int(np.count_nonzero(counts == top))
    below = int(np.count_nonzero((counts >= _JUST_BELOW * top) & (counts < top)))
    return (top, at_top) if top >= _LEAST_TOP and at_top >= _LEAST_REPEATS and at_top > 2 * below else None


def overflowed_bits(counts: NDArray[np.float32]) -> int | None:
    """Bits of the counter that overflowed: bright places with a dark hole behind a step of most of its range; or None.

    Args:
        counts: (n, N, N) of some patterns.

    >>> beam = 400 * np.exp(-np.square(np.arange(-16, 16) / 8))
    >>> pattern = np.floor(np.outer(beam, beam / 400))[None].repeat(3, 0).astype(np.float32)
    >>> overflowed_bits(pattern), overflowed_bits(pattern % 256)
    (None, 8)
    """
    top = float(counts.max(initial=0.0))
    bits = next((bits for bits in _COUNTER_BITS if _FULL * 2**bits <= top < 2**bits), None)
    if bits is None:
        return None
    step, widest = _JUMP * 2**bits, counts.shape[-1] // 2
    holes = sum(_holes(np.diff(lines, axis=-1), step, widest) for lines in (counts, np.swapaxes(counts, 1, 2)))
    return bits if holes >= _LEAST_HOLES else None


def _holes(steps: NDArray[np.float32], step: float, widest: int) -> int:
    """How often a fall by ``step`` is followed by such a rise, in the same line and near by."""
    pattern, line, place = np.nonzero(np.abs(steps) > step)
    falls = steps[pattern, line, place] < 0
    same = (np.diff(pattern) == 0) & (np.diff(line) == 0)
    return int(np.count_nonzero(same & falls[:-1] & ~falls[1:] & (np.diff(place) <= widest)))
