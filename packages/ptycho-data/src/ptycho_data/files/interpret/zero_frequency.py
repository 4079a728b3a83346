"""Where the zero frequency lies: declared, measured, or the format's rule, always recorded (specs/files.md, ZERO)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

SAMPLE = 64
"""Patterns whose mean is measured, at most (ZERO-2)."""
_LEAST_FRACTION = 0.5
"""Fraction of the signal that decides for centre or corners (ZERO-2)."""
_LEAST_RATIO = 2.0
"""Least ratio of that fraction to the other one (ZERO-2)."""


def centred(
    patterns: NDArray[Any],
    bad_pixels: NDArray[np.bool_] | None,
    *,
    declared: str | tuple[float, float] | None,
    where: str,
) -> tuple[NDArray[Any], NDArray[np.bool_] | None, dict[str, Any]]:
    """Patterns with the zero frequency at ``[N // 2, N // 2]``, their bad pixels, and the decision.

    Args:
        patterns: (M, N, N).
        bad_pixels: (N, N) or None, on the same pixels.
        declared: ``"centre"``, ``"corner"``, the pixel (y, x) of the zero frequency, or None: measured.
        where: For messages.

    Raises:
        ContractError: declared in the centre, and the energy is in the corners, or the reverse.
    """
    N = patterns.shape[-1]
    fractions = _energy_fractions(patterns, bad_pixels)
    measured = _measured(fractions)
    evidence = {"share_centre": fractions[0], "share_corners": fractions[1], "measured": measured or "undecided"}
    if declared is None:
        place, decided_by = (measured or "centre"), ("measured" if measured else "format")
    else:
        place, decided_by = declared, "declared"  # type: ignore[assignment]
    if place in ("centre", "corner") and measured not in (None, place):
        raise ContractError(
            Problem(
                f"{where}: patterns",
                "scan.zero_frequency",
                f"the zero frequency in the {place}, as declared",
                f"{fractions[0]:.0%} of the signal around the centre, {fractions[1]:.0%} around the corners",
                "apply numpy.fft.fftshift(patterns, axes=(1, 2)), or declare the place",
            )
        )
    record = {"place": place if isinstance(place, str) else list(place), "decided_by": decided_by, **evidence}
    if place == "centre":
        return patterns, bad_pixels, record
    if place == "corner":
        shift = (N // 2, N // 2)
        return np.roll(patterns, shift, axis=(1, 2)), _rolled(bad_pixels, shift), record
    return *_moved(patterns, bad_pixels, place, where), record  # type: ignore[arg-type]


def _moved(
    patterns: NDArray[Any], bad_pixels: NDArray[np.bool_] | None, place: tuple[float, float], where: str
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Whole-pixel shift of a declared zero frequency; what is wrapped around is marked bad."""
    N = patterns.shape[-1]
    if not all(np.isfinite(place)) or not all(0 <= value <= N - 1 for value in place):
        raise ContractError(
            Problem(
                f"{where}: zero_frequency",
                "scan.zero_frequency",
                f"a pixel (y, x) within 0 to {N - 1}",
                str(tuple(place)),
                "correct the declared place",
            )
        )
    dy, dx = (N // 2 - round(value) for value in place)
    if dy == dx == 0:
        return patterns, bad_pixels
    bad = np.zeros((N, N), bool) if bad_pixels is None else np.roll(bad_pixels, (dy, dx), (0, 1))
    rows, columns = np.arange(N) - dy, np.arange(N) - dx
    wrapped = ((rows < 0) | (rows >= N))[:, None] | ((columns < 0) | (columns >= N))[None, :]
    return np.roll(patterns, (dy, dx), axis=(1, 2)), bad | wrapped


def _rolled(mask: NDArray[np.bool_] | None, shift: tuple[int, int]) -> NDArray[np.bool_] | None:
    return None if mask is None else np.roll(mask, shift, axis=(0, 1))


def _energy_fractions(patterns: NDArray[Any], bad_pixels: NDArray[np.bool_] | None) -> tuple[float, float]:
    """Fractions of the mean pattern's sum within the central half of each axis, and the same around the corners."""
    M, N = patterns.shape[0], patterns.shape[-1]
    rows = np.unique(np.linspace(0, M - 1, min(M, SAMPLE)).round().astype(int))
    mean = patterns[rows].astype(np.float64).mean(axis=0)
    if bad_pixels is not None:
        mean = np.where(bad_pixels, 0, mean)
    total = float(mean.sum())
    if not total > 0 or N < 8:
        return 0.0, 0.0
    inner = (np.arange(N) >= N // 4) & (np.arange(N) < N - N // 4)
    centre = float(mean[np.ix_(inner, inner)].sum()) / total
    corners = float(mean[np.ix_(~inner, ~inner)].sum()) / total
    return centre, corners


def _measured(fractions: tuple[float, float]) -> str | None:
    centre, corners = fractions
    if centre >= _LEAST_FRACTION and centre >= _LEAST_RATIO * corners:
        return "centre"
    if corners >= _LEAST_FRACTION and corners >= _LEAST_RATIO * centre:
        return "corner"
    return None
