"""Do a file's object, probe and positions explain its own patterns? (specs/files.md, AGREE)"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

SAMPLE = 24
"""Patterns that are compared, at most (AGREE-1)."""
_BRIGHT_FRACTION = 0.25
"""Pixels brighter than this fraction of the probe's maximum are left out: detectors clip and wrap them (AGREE-1)."""
_CLEARLY_BETTER = 0.7
"""Fraction of the given residual below which other positions contradict the file (AGREE-2)."""
_CONTRAST = 0.02
"""Fraction by which an object must explain the patterns better than a uniform one (AGREE-4)."""


def agreement(
    counts: NDArray[Any],
    positions: NDArray[np.float64],
    probe: NDArray[Any],
    object_: NDArray[Any],
    *,
    bad_pixels: NDArray[np.bool_] | None = None,
    where: str = "",
    reconstructed: bool = False,
) -> dict[str, Any]:
    """Far-field residual of a few patterns at their positions, and at swapped, reversed, shifted or random ones.

    The residual is ``sum (sqrt(n) - sqrt(s I))^2 / sum n`` with the best scale s of each arrangement,
    patches at whole pixels, without the brightest pixels (which detectors clip or wrap).

    Args:
        counts: (M, N, N) photon counts, zero frequency at ``[N // 2, N // 2]``.
        positions: (M, 2) ``[x, y]`` in pixels of the object's array.
        probe: (modes, N, N).
        object_: (H, W); every patch has room.
        bad_pixels: (N, N) or None.
        where: For messages.
        reconstructed: Whether the source says that object and probe were fitted to these patterns.

    Returns:
        JSON: residuals ``given``, ``flat`` (uniform object), ``dealt`` (positions of other patterns) and of each
        ``other`` arrangement, and ``explains``: whether the object is better than none.

    Raises:
        ContractError: another axis order or pairing explains the patterns clearly better; or the source says
            that the object was fitted, and at its positions it is worse than none and no better than chance.
    """
    M, N = counts.shape[0], counts.shape[-1]
    rows = np.unique(np.linspace(0, M - 1, min(M, SAMPLE)).round().astype(int))
    measured = np.sqrt(counts[rows].astype(np.float64))
    good = np.ones((N, N), bool) if bad_pixels is None else ~bad_pixels
    uniform_intensity = _intensity(np.ones((1, N, N)), probe)[0]
    good = good & (uniform_intensity <= _BRIGHT_FRACTION * uniform_intensity.max())
    if not measured[:, good].any() or np.abs(object_).max() == 0:
        return {"explains": False, "reason": "no signal to compare"}

    def residual(chosen: NDArray[np.float64]) -> float | None:
        start = np.round(chosen[:, ::-1] - N // 2).astype(int)
        if (start < 0).any() or (start + N > np.asarray(object_.shape)).any():
            return None
        patches = np.stack([object_[y : y + N, x : x + N] for y, x in start])
        return _residual(measured[:, good], np.sqrt(_intensity(patches, probe))[:, good])

    as_given = positions[rows]
    given = residual(as_given)
    if given is None:
        return {"explains": False, "reason": "no room for the patches"}
    uniform = _residual(measured[:, good], np.broadcast_to(np.sqrt(uniform_intensity), (len(rows), N, N))[:, good])
    dealt = residual(np.roll(as_given, max(1, len(rows) // 2), axis=0)) if len(rows) > 2 else None
    others = {name: residual(place(as_given, object_.shape)) for name, place in _ARRANGEMENTS.items()}
    for name, step in (("those of the previous pattern", -1), ("those of the next pattern", 1)):
        others[name] = residual(positions[(rows + step) % M]) if M > 2 else None
    others = {name: value for name, value in others.items() if value is not None}
    explains = given < uniform * (1 - _CONTRAST)
    record = {"given": given, "flat": uniform, "dealt": dealt, "others": others, "explains": explains}
    _evaluate(record, where, reconstructed)
    return record


def _swapped(positions: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """x and y exchanged about the array's centre."""
    middle = (np.asarray(shape[::-1]) - 1) / 2
    return (positions - middle)[:, ::-1] + middle


def _mirrored(axis: int) -> Any:
    def place(positions: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
        out = positions.copy()
        # The mirror of pixel [N // 2] of a patch, for even N, is one pixel further.
        out[:, axis] = shape[1 - axis] - out[:, axis]
        return out

    return place


_ARRANGEMENTS = {"x and y swapped": _swapped, "x reversed": _mirrored(0), "y reversed": _mirrored(1)}


def _evaluate(record: dict[str, Any], where: str, reconstructed: bool) -> None:
    given, uniform, dealt = record["given"], record["flat"], record["dealt"]
    others = record["others"]
    if others:
        name = min(others, key=others.__getitem__)
        if others[name] < _CLEARLY_BETTER * given and others[name] < uniform:
            raise ContractError(
                Problem(
                    f"{where}: positions",
                    "scan.positions_contradicted",
                    f"positions that explain the patterns with the file's object and probe, as '{name}' do "
                    f"(residual {others[name]:.3g})",
                    f"residual {given:.3g} as given",
                    f"correct the positions: {name}",
                )
            )
    if reconstructed and dealt is not None and given > (1 + _CONTRAST) * uniform and given > 0.95 * dealt:
        raise ContractError(
            Problem(
                f"{where}: positions",
                "scan.positions_contradicted",
                "an object that explains the patterns at their positions better than a uniform one "
                f"(residual {uniform:.3g})",
                f"residual {given:.3g}, no better than at positions of other patterns",
                "check the object's centre and pixel size, and that patterns and positions pair",
            )
        )


def _intensity(patches: NDArray[Any], probe: NDArray[Any]) -> NDArray[np.float64]:
    """Intensities of unitary far fields, summed over the modes; (n, N, N)."""
    total = np.zeros(patches.shape, np.float64)
    for mode in probe:
        wavefield = np.fft.fft2(patches * mode.astype(np.complex128), norm="ortho")
        total += np.square(np.abs(np.fft.fftshift(wavefield, axes=(-2, -1))))
    return total


def _residual(measured: NDArray[np.float64], simulated: NDArray[np.float64]) -> float:
    power = float(np.square(simulated).sum())
    # Least squares in amplitude: the best factor of the simulated one.
    factor = float((measured * simulated).sum()) / power if power > 0 else 0.0
    return float(np.square(measured - factor * simulated).sum() / np.square(measured).sum())
