"""Start and finish of a probe's modes: guesses for missing modes, normalisation, orthogonal modes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Probe = NDArray[np.complex64]

_START_FRACTION = 0.01
"""Fraction of the first mode's energy that an added mode starts with."""

# Powers of x and y that turn the main mode into starting points for weaker ones, as in Hermite-Gauss beams.
_ORDERS = ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (1, 2))


def with_modes(probe: Probe, modes: int) -> Probe:
    """(K, N, N) probe brought to ``modes`` modes: the strongest are kept, missing ones are started weakly.

    An added mode is the first mode times a polynomial of the pixel coordinates, made orthogonal to the others.
    Such mixed states model partial coherence [MixedStates].

    >>> probe = np.zeros((1, 4, 4), np.complex64)
    >>> probe[0, 1:3, 1:3] = 1
    >>> [round(power, 3) for power in mode_powers(with_modes(probe, 2))]
    [0.99, 0.01]
    """
    kept = [mode.astype(np.complex128) for mode in orthogonal_modes(probe)[:modes]]
    side = probe.shape[-1]
    main = kept[0]
    power = np.abs(main) ** 2
    y, x = np.mgrid[:side, :side] - side // 2
    width = max(1.0, float(np.sqrt((power * (x**2 + y**2)).sum() / power.sum())))
    for order_x, order_y in _ORDERS:
        if len(kept) == modes:
            break
        mode = main * (x / width) ** order_x * (y / width) ** order_y
        for other in kept:
            mode = mode - other * np.vdot(other, mode) / np.vdot(other, other).real
        kept.append(mode * np.sqrt(_START_FRACTION * power.sum() / (np.abs(mode) ** 2).sum()))
    return np.stack(kept).astype(np.complex64)


def orthogonal_modes(probe: Probe) -> Probe:
    """The same incoherent sum of mixed states [MixedStates] in orthogonal modes, strongest first (by an SVD)."""
    if len(probe) == 1:
        return probe
    rows = probe.reshape(len(probe), -1).astype(np.complex128)
    _, scales, modes = np.linalg.svd(rows, full_matrices=False)
    # The sign of a singular vector is arbitrary: keep each mode's phase near that of the given ones.
    phases = np.exp(1j * np.angle(np.einsum("kp,kp->k", modes.conj(), rows)))
    result: Probe = ((scales * phases)[:, None] * modes).reshape(probe.shape).astype(np.complex64)
    return result


def normalised_probe(probe: Probe, mean_counts: float) -> Probe:
    """The probe with ``sum_k sum |P_k|^2 = mean_counts`` (PHY-10).

    >>> normalised_probe(np.ones((1, 2, 2), np.complex64), 16.0).real.tolist()
    [[[2.0, 2.0], [2.0, 2.0]]]
    """
    energy = float((np.abs(probe.astype(np.complex128)) ** 2).sum())
    scaled: Probe = (probe * np.sqrt(mean_counts / energy)).astype(np.complex64)
    return scaled


def mode_powers(probe: Probe) -> list[float]:
    """Fraction of each mode in the probe's energy.

    >>> mode_powers(np.array([[[3.0]], [[1.0]]], np.complex64))
    [0.9, 0.1]
    """
    power = (np.abs(probe.astype(np.complex128)) ** 2).sum((1, 2))
    return [float(fraction) for fraction in power / power.sum()]


def overlap(first: Probe, second: Probe) -> float:
    """``|<a, b>| / (|a| |b|)`` of the strongest modes: 1 for the same probe up to scale and phase."""
    a, b = orthogonal_modes(first)[0].ravel(), orthogonal_modes(second)[0].ravel()
    return float(abs(np.vdot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b)))
