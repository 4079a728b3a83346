"""Schedules of the learning rate over the fraction of a fit that is done (specs/training.md, TRN-6)."""

from __future__ import annotations

import math

LAST_RATE = 0.02
"""Last rate of the half cosine, in units of the first. Reasoned: small enough to settle, large enough not to waste the
last steps."""
EXPONENTIAL_DECADES = 1.7
"""An exponential schedule ends at the same rate as the half cosine: 10^-1.7 = 0.02."""


def half_cosine(fraction: float) -> float:
    """``0.02 + 0.98 (1 + cos(pi t)) / 2`` at the fraction t of a fit.

    >>> [round(half_cosine(t), 3) for t in (0.0, 0.5, 1.0)]
    [1.0, 0.51, 0.02]
    """
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fraction))


def rate_factor(scheduler: str, fraction: float) -> float:
    """Learning rate in units of the first one; 1 for the schedules that do not depend on the fraction done.

    >>> rate_factor("exponential", 1.0) < rate_factor("cosine", 0.9)
    True
    """
    if scheduler == "cosine":
        return half_cosine(fraction)
    if scheduler == "exponential":
        return float(10 ** (-EXPONENTIAL_DECADES * fraction))
    return 1.0
