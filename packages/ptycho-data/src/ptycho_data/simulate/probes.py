"""Probes for simulation, (mode, N, N) complex64 with unit energy (specs/simulation.md, SIM-5 to SIM-7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem, nearest
from scipy import fft

from ptycho_data.files.containers.zipped import NpzArchive

MAX_MODES = 8
_POWERS = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (1, 2))


def defocused_disc(
    N: int, *, aperture: float = 0.2, radius_px: float | None = None, modes: int = 1, mode_decay: float = 0.1
) -> NDArray[np.complex64]:
    """Beam of a round lens out of focus.

    Args:
        N: Side of the probe in pixels.
        aperture: Radius of the aperture, in cycles per pixel (below 0.5).
        radius_px: Radius of the defocused beam; by default 0.22 N. 0 is in focus.
        modes: Incoherent modes, at most 8.
        mode_decay: Power of each mode over that of the mode before.

    Returns:
        (mode, N, N) complex64, ``sum |P|^2 = 1``.

    Raises:
        ContractError: an aperture or a beam that does not fit N.
    """
    return _through_aperture(N, (0.0, aperture), radius_px, modes, mode_decay)


def zone_plate(
    N: int,
    *,
    aperture: float = 0.22,
    central_stop: float = 0.35,
    radius_px: float | None = None,
    modes: int = 1,
    mode_decay: float = 0.1,
) -> NDArray[np.complex64]:
    """Beam of a zone plate with a central stop, out of focus; other arguments as in :func:`defocused_disc`.

    Args:
        central_stop: Radius of the stop over that of the aperture.
    """
    if not 0 <= central_stop < 1:
        raise ContractError(
            Problem("central_stop", "simulate.probe", "0 <= central_stop < 1", repr(central_stop), "lower it")
        )
    return _through_aperture(N, (central_stop * aperture, aperture), radius_px, modes, mode_decay)


def from_array(probe: NDArray[Any], *, where: str = "probe") -> NDArray[np.complex64]:
    """Check a probe (N, N) or (mode, N, N), and give it unit energy.

    Raises:
        ContractError: not complex, not square, not finite, or without energy.
    """
    array = np.asarray(probe)
    problems = []
    if array.dtype.kind != "c":
        problems.append(Problem(where, "array.dtype", "complex", str(array.dtype), "give the complex probe"))
    if array.ndim not in (2, 3) or array.shape[-1] != array.shape[-2] or array.size == 0:
        problems.append(
            Problem(where, "array.shape", "(N, N) or (mode, N, N)", f"shape {array.shape}", "give square modes")
        )
    if not problems and not np.isfinite(array).all():
        problems.append(
            Problem(where, "array.not_finite", "finite values", "NaN or infinite values", "correct the probe")
        )
    if not problems and not np.any(array):
        problems.append(Problem(where, "simulate.probe", "some energy", "zeros only", "give a probe with energy"))
    if problems:
        raise ContractError(problems)
    return _unit_energy(array.reshape(-1, *array.shape[-2:]))


def measured(path: str | Path, *, key: str = "probeGuess") -> NDArray[np.complex64]:
    """Probe of an ``.npz`` file, checked as in :func:`from_array`.

    Raises:
        MissingFileError: no such file.
        ContractError: not a sound ``.npz``, no such member, or not a probe.
    """
    with NpzArchive(path) as archive:
        arrays = archive.read([key])
        names = archive.names
    where = f"{path}: {key}"
    if key not in arrays:
        raise ContractError(Problem(where, "file.member", f"a member '{key}'", ", ".join(names), nearest(key, names)))
    return from_array(arrays[key], where=where)


PROBES: Mapping[str, Callable[..., NDArray[np.complex64]]] = MappingProxyType(
    {"defocused_disc": defocused_disc, "zone_plate": zone_plate}
)


def _through_aperture(
    N: int, ring: tuple[float, float], radius_px: float | None, modes: int, mode_decay: float
) -> NDArray[np.complex64]:
    """Inverse transform of a soft ring (inner, outer radius in cycles per pixel) with quadratic phase.

    A phase D (k/k_edge)^2 moves the ray at k by D k N / (pi k_edge^2) pixels: D = pi aperture radius_px
    sends the edge ray to radius_px.
    """
    inner, outer = ring
    radius = 0.22 * N if radius_px is None else float(radius_px)
    _check(N, outer, radius, modes, mode_decay)
    frequency = np.arange(N) - N // 2
    y, x = frequency[:, None] / (outer * N), frequency[None, :] / (outer * N)
    k = np.hypot(y, x)
    edge = 1.5 / (outer * N) + 0.06  # soft over a few Fourier pixels, so that the beam has no far tails
    amplitude = _step((1 - k) / edge) * (_step((k - inner / outer) / edge) if inner > 0 else 1.0)
    pupil = amplitude * np.exp(-1j * np.pi * outer * radius * k**2)
    fields = np.stack([pupil * y**a * x**b for a, b in _POWERS[:modes]]).reshape(modes, -1)
    orthogonal = np.linalg.qr(fields.T)[0].T.reshape(modes, N, N)
    orthogonal *= np.sqrt(mode_decay ** np.arange(modes))[:, None, None]
    beam = fft.fftshift(fft.ifft2(fft.ifftshift(orthogonal, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    return _unit_energy(beam)


def _step(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Raised cosine from 0 at -1 to 1 at +1."""
    step: NDArray[np.float64] = 0.5 * (1 + np.sin(0.5 * np.pi * np.clip(distance, -1, 1)))
    return step


def _unit_energy(probe: NDArray[Any]) -> NDArray[np.complex64]:
    scaled = np.asarray(probe, np.complex128) / np.abs(probe).max()
    unit: NDArray[np.complex64] = (scaled / np.linalg.norm(scaled)).astype(np.complex64)
    return unit


def _check(N: int, aperture: float, radius_px: float, modes: int, mode_decay: float) -> None:
    problems = []
    if N < 8:
        problems.append(Problem("N", "simulate.probe", "8 or more", repr(N), "give a larger N"))
    # Of a small N follow the other two.
    if N >= 8 and not 1.5 / N < aperture <= 0.4:
        problems.append(
            Problem(
                "aperture",
                "simulate.probe",
                f"{1.5 / N:.3g} < aperture <= 0.4 cycles per pixel",
                repr(aperture),
                "give an aperture that fits the detector",
            )
        )
    if N >= 8 and not 0 <= radius_px <= 0.4 * N:
        problems.append(
            Problem(
                "radius_px",
                "simulate.probe",
                f"0 <= radius_px <= 0.4 N = {0.4 * N:g}",
                repr(radius_px),
                "give a beam that fits N",
            )
        )
    if not 1 <= modes <= MAX_MODES:
        problems.append(Problem("modes", "simulate.probe", f"1 to {MAX_MODES}", repr(modes), "ask for fewer modes"))
    if not 0 < mode_decay <= 1:
        problems.append(Problem("mode_decay", "simulate.probe", "0 < mode_decay <= 1", repr(mode_decay), "correct it"))
    if problems:
        raise ContractError(problems)
