"""Illumination of the canvas, and subsets of the patterns that illuminate it evenly (specs/training.md, IMG-1)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ptycho_data.canvas.sites import Sites

_PATTERNS_AT_ONCE = 256


def power_of(probe: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Summed |P|^2 of the probe modes (K, N, N), (N, N) float32."""
    power: NDArray[np.float32] = (probe.real**2 + probe.imag**2).sum(axis=0)
    return power


def illumination(probe: NDArray[np.complex64], sites: Sites) -> NDArray[np.float32]:
    """Summed |P|^2 of all patterns on the canvas, (H, W): the adjoint of extraction, applied to the probe's power.

    Args:
        probe: (K, N, N) complex64.
        sites: Where the patterns lie.
    """
    power, n = power_of(probe), sites.N + 1
    around = np.stack([np.pad(power, ((y, 1 - y), (x, 1 - x))).ravel() for y in (0, 1) for x in (0, 1)])
    total = np.zeros(sites.shape, np.float32)
    for first in range(0, len(sites), _PATTERNS_AT_ONCE):
        part = sites[first : first + _PATTERNS_AT_ONCE]
        fy, fx = part.fractions_yx.astype(np.float32).T
        fractions = np.stack(((1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx), axis=1)
        windows = (fractions @ around).reshape(-1, n, n)
        for window, (y, x) in zip(windows, part.corners_yx.tolist(), strict=True):
            total[y : y + n, x : x + n] += window
    return total


def sparse_subsets(probe: NDArray[np.complex64], sites: Sites, *, most: int | None = None) -> list[NDArray[np.int64]]:
    """Disjoint subsets of the patterns, each of which illuminates the canvas about once.

    The order is a fixed permutation: the same scan gives the same image.

    Args:
        probe: (K, N, N) complex64.
        sites: Where the patterns lie.
        most: Most patterns in a subset; default: no limit.

    Returns:
        Indices into ``sites``, together all of them.
    """
    intensity = illumination(probe, sites)
    layers = np.square(intensity).sum() / intensity.sum() / power_of(probe).max()
    count = max(1, min(len(sites), math.ceil(float(layers))))
    if most is not None:
        count = max(count, math.ceil(len(sites) / most))
    return np.array_split(np.random.default_rng(0).permutation(len(sites)), count)
