"""Start and finish of a probe's modes: guesses for missing modes, gauge, orthogonal modes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Probe = NDArray[np.complex64]

_START_SHARE = 0.01
"""Share of the first mode's energy that an added mode starts with."""

# Powers of x and y that turn the main mode into starting points for weaker ones, as in Hermite-Gauss beams.
_ORDERS = ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (1, 2))


def with_modes(probe: Probe, modes: int) -> Probe:
    """(K, N, N) probe brought to ``modes`` modes: the strongest are kept, missing ones are started weakly.

    An added mode is the first mode times a polynomial of the pixel coordinates, made orthogonal to the others.
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
        kept.append(mode * np.sqrt(_START_SHARE * power.sum() / (np.abs(mode) ** 2).sum()))
    return np.stack(kept).astype(np.complex64)


def orthogonal_modes(probe: Probe) -> Probe:
    """The same incoherent sum in orthogonal modes, strongest first (singular value decomposition)."""
    if len(probe) == 1:
        return probe
    flat = probe.reshape(len(probe), -1).astype(np.complex128)
    _, scales, modes = np.linalg.svd(flat, full_matrices=False)
    # The sign of a singular vector is arbitrary: keep each mode's phase near that of the given ones.
    phases = np.exp(1j * np.angle(np.einsum("kp,kp->k", modes.conj(), flat)))
    found: Probe = ((scales * phases)[:, None] * modes).reshape(probe.shape).astype(np.complex64)
    return found


def normalised_probe(probe: Probe, mean_counts: float) -> Probe:
    """The probe with ``sum_k sum |P_k|^2 = mean_counts`` (PHY-10)."""
    energy = float((np.abs(probe.astype(np.complex128)) ** 2).sum())
    scaled: Probe = (probe * np.sqrt(mean_counts / energy)).astype(np.complex64)
    return scaled


def mode_powers(probe: Probe) -> list[float]:
    """Share of each mode in the probe's energy."""
    power = (np.abs(probe.astype(np.complex128)) ** 2).sum((1, 2))
    return [float(share) for share in power / power.sum()]


def overlap(first: Probe, second: Probe) -> float:
    """``|<a, b>| / (|a| |b|)`` of the strongest modes: 1 for the same probe up to scale and phase."""
    a, b = orthogonal_modes(first)[0].ravel(), orthogonal_modes(second)[0].ravel()
    return float(abs(np.vdot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b)))


def from_mean_pattern(modulus: NDArray[np.floating[Any]], *, defocus_cycles: float) -> Probe:
    """A probe whose far field has a measured modulus and the phase of a defocus.

    Args:
        modulus: (N, N) square root of the mean pattern, zero frequency at ``[N // 2, N // 2]``.
        defocus_cycles: d in the far field's phase ``pi d N |q|^2``, q in cycles a pixel: light at the Nyquist
            frequency is displaced by d N / 2 pixels.

    Returns:
        (1, N, N) complex64 of unit energy.
    """
    side = modulus.shape[-1]
    q = (np.arange(side) - side // 2) / side
    phase = np.pi * defocus_cycles * side * (q[:, None] ** 2 + q[None] ** 2)
    field = np.fft.ifftshift(modulus * np.exp(1j * phase))
    wave = np.fft.fftshift(np.fft.ifft2(field, norm="ortho"))
    return (wave / np.linalg.norm(wave))[None].astype(np.complex64)
