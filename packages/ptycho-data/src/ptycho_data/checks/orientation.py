"""Which way round the positions are: eight orientations ranked by a few iterations (specs/grouping.md, ORI)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan
from scipy import fft
from scipy.spatial import cKDTree

from ptycho_data.fitting.probes import from_mean_pattern

Progress = Callable[[str, int, int], None]

_SIDE_PX = 128
"""Larger patterns are cropped to at least this side, for speed."""
_LEAST_STEP_PX = 2.0
"""Least median distance of neighbours after cropping, so that positions rounded to pixels still differ."""
_CLEAR = 0.5
"""Fraction of the gain by which another orientation must be worse than the best (ORI-3)."""
_LEAST_GAIN = 0.1
"""Least gain that decides, as a fraction of the median residual (ORI-3)."""
_SPACING = 1 / 16
"""Least distance of the patterns that are used, as a fraction of N: a dense scan's neighbours all see the same."""
_DEFOCUS_CYCLES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Defoci that are tried where no probe decides; the negative ones are those of the conjugate twins (ORI-2a)."""
_SEARCH_ITERATIONS = 3
_CANDIDATES = 64
"""Patterns among which each of those that are used is looked for."""
_FEWEST = 25
"""Patterns below which the nearest ones are taken, however near."""


@dataclass(frozen=True)
class Orientation:
    """A change of the position axes: first swapped, then reversed."""

    swap_xy: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, positions_px: NDArray[Any]) -> NDArray[np.float64]:
        """Positions (M, 2) ``[x, y]`` with swapped and negated axes."""
        positions = np.asarray(positions_px, dtype=np.float64)[:, :: -1 if self.swap_xy else 1]
        return np.asarray(positions * np.where([self.flip_x, self.flip_y], -1.0, 1.0))

    @property
    def twin(self) -> Orientation:
        """The conjugate twin: both axes reversed, object and probe conjugated and rotated by 180 degrees."""
        return Orientation(self.swap_xy, not self.flip_x, not self.flip_y)

    def __str__(self) -> str:
        x, y = ("y", "x") if self.swap_xy else ("x", "y")
        return f"x' = {'-' if self.flip_x else ''}{x}, y' = {'-' if self.flip_y else ''}{y}"


ORIENTATIONS = tuple(Orientation(*flags) for flags in itertools.product((False, True), repeat=3))
"""The eight orientations; the first leaves the positions as they are."""


@dataclass(frozen=True)
class OrientationRanking:
    """Outcome of :func:`rank_orientations`.

    Attributes:
        residuals: Far-field residual R of each orientation, lowest first.
        decided: The best is clearly better than all others except its conjugate twin. False if the object
            shows nothing, the overlap is too small, or the scan is too symmetric.
        twin_is_equal: The conjugate twin of the best explains the data about as well, or nothing is decided:
            only a better probe guess could decide between the two.
        patterns: Number of patterns that were used.
    """

    residuals: tuple[tuple[Orientation, float], ...]
    decided: bool
    twin_is_equal: bool
    patterns: int

    @property
    def best(self) -> Orientation:
        """The orientation of lowest residual."""
        return self.residuals[0][0]

    @property
    def twin(self) -> Orientation:
        """The conjugate twin of the best."""
        return self.best.twin


def rank_orientations(
    scan: Scan, *, iterations: int = 5, patterns: int = 144, seed: int = 0, progress: Progress | None = None
) -> OrientationRanking:
    """Rank the eight swaps and reversals of the position axes by how well an object explains the patterns.

    For each orientation, some passes of ePIE [EPIE] from a uniform object and the scan's probe, both
    updated, over neighbouring patterns of the first scan. Positions are rounded to pixels; large
    patterns are cropped to their centre. Without a probe, or where a guess does not decide, probes of the mean
    pattern's modulus and several defoci are tried; conjugate twins are then equal.

    Args:
        scan: Scan or Store.
        iterations: Passes over the patterns.
        patterns: Neighbouring patterns used, at most.
        seed: Seed of the order of patterns.
        progress: Called as ``progress("orientation", done, total)``.

    Raises:
        ContractError: fewer than 4 patterns, or patterns without a photon.
    """
    chosen = _neighbourhood(scan, patterns)
    positions = scan.positions_px[chosen]
    side = _cropped_side(scan.N, positions)
    amplitude, good = _amplitude(scan, chosen, side)
    done = 0

    def ranked(probe: NDArray[np.complex64], passes: int, total: int) -> dict[Orientation, float]:
        nonlocal done
        results = {}
        for orientation in ORIENTATIONS:
            where = orientation.apply(positions) * (side / scan.N)
            results[orientation] = _residual(amplitude, good, where, probe, passes, np.random.default_rng(seed))
            done += 1
            if progress is not None:
                progress("orientation", done, total)
        return results

    trials = len(ORIENTATIONS)
    if scan.probe is not None:
        ranking = _ranked(ranked(_start_probe(scan, amplitude, side), iterations, trials), len(chosen))
        if ranking.decided or scan.probe_kind == "exact":
            return ranking
    total = done + trials * len(_DEFOCUS_CYCLES)
    tried = [ranked(_defocused(amplitude, cycles), _SEARCH_ITERATIONS, total) for cycles in _DEFOCUS_CYCLES]
    # A probe of the opposite defocus is the conjugate twin's.
    least = {one: min(min(each[one], each[one.twin]) for each in tried) for one in ORIENTATIONS}
    searched = _ranked(least, len(chosen))
    return searched if scan.probe is None or searched.decided else ranking


def _ranked(results: dict[Orientation, float], patterns: int) -> OrientationRanking:
    """Rank and decide: gains are relative to the median residual, at which no object explains the patterns."""
    residuals = tuple(sorted(results.items(), key=lambda entry: entry[1]))
    best, least = residuals[0]
    rest = [value for orientation, value in residuals if orientation not in (best, best.twin)]
    gain = float(np.median(rest)) - least
    decided = gain > _LEAST_GAIN * float(np.median(rest)) and min(rest) - least > _CLEAR * gain
    twin_is_equal = not decided or results[best.twin] - least < _CLEAR * gain
    return OrientationRanking(residuals, decided, twin_is_equal, patterns)


def _neighbourhood(scan: Scan, patterns: int) -> NDArray[np.int64]:
    """The patterns nearest to the middle one of the first scan, not nearer to each other than a spacing; ascending."""
    members = np.flatnonzero(scan.scan_index == scan.scan_index[0])
    if len(members) < 4:
        raise ContractError(
            Problem(
                "rank_orientations",
                "orientation.patterns",
                "at least 4 patterns of one scan",
                str(len(members)),
                "the order of axes cannot be tested with so few",
            )
        )
    points = scan.positions_px[members]
    tree = cKDTree(points)
    middle = tree.query(np.median(points, axis=0))[1]
    nearest = tree.query(points[middle], k=min(_CANDIDATES * patterns, len(points)))[1]
    chosen: list[int] = []
    for candidate in nearest:
        distances = np.linalg.norm(points[chosen] - points[candidate], axis=1)
        if not chosen or distances.min() >= _SPACING * scan.N:
            chosen.append(int(candidate))
        if len(chosen) == patterns:
            break
    return np.sort(members[chosen if len(chosen) >= _FEWEST else nearest[:patterns]])


def _cropped_side(N: int, positions: NDArray[np.float64]) -> int:
    """Side of the cropped patterns: small for speed, but neighbours stay some pixels apart."""
    step = float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1]))
    return N if N <= _SIDE_PX or step <= 0 else min(N, max(_SIDE_PX, int(np.ceil(N * _LEAST_STEP_PX / step))))


def _centre(N: int, side: int) -> slice:
    start = N // 2 - side // 2
    return slice(start, start + side)


def _amplitude(scan: Scan, chosen: NDArray[np.int64], side: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(n, side, side) measured moduli and (side, side) good pixels, zero frequency at [0, 0]."""
    cut = _centre(scan.N, side)
    amplitude = np.sqrt(scan.counts(chosen)[:, cut, cut])
    good = np.ones((side, side), bool) if scan.bad_pixels is None else ~np.asarray(scan.bad_pixels)[cut, cut]
    amplitude[:, ~good] = 0
    if not amplitude.any():
        raise ContractError(
            Problem(
                "rank_orientations", "orientation.dark", "patterns with photons", "zeros only", "check the patterns"
            )
        )
    return fft.ifftshift(amplitude, axes=(1, 2)), fft.ifftshift(good)


def _start_probe(scan: Scan, amplitude: NDArray[np.float32], side: int) -> NDArray[np.complex64]:
    """(modes, side, side), the scan's probe, normalised to the mean counts of these patterns."""
    cut = _centre(scan.N, side)
    far = fft.fftshift(fft.fft2(fft.ifftshift(scan.probe, axes=(1, 2))), axes=(1, 2))[:, cut, cut]
    return _normalised(fft.fftshift(fft.ifft2(fft.ifftshift(far, axes=(1, 2))), axes=(1, 2)), amplitude)


def _defocused(amplitude: NDArray[np.float32], cycles: float) -> NDArray[np.complex64]:
    """(1, side, side), the probe of the mean pattern's modulus and a defocus."""
    mean = np.sqrt(np.mean(np.square(amplitude, dtype=np.float64), axis=0))
    return _normalised(from_mean_pattern(fft.fftshift(mean), defocus_cycles=cycles), amplitude)


def _normalised(probe: NDArray[Any], amplitude: NDArray[np.float32]) -> NDArray[np.complex64]:
    scale = np.sum(np.square(amplitude), dtype=np.float64) / len(amplitude) / np.sum(np.abs(probe) ** 2)
    return np.asarray(probe * np.sqrt(scale), dtype=np.complex64)


def _residual(
    amplitude: NDArray[np.float32],
    good: NDArray[np.bool_],
    positions: NDArray[np.float64],
    probe: NDArray[np.complex64],
    iterations: int,
    rng: np.random.Generator,
) -> float:
    """R of the last pass, each pattern evaluated before it changes the object and the probe."""
    corners = np.rint(positions - positions.min(axis=0)).astype(np.int64)
    side = amplitude.shape[-1]
    width, height = (corners.max(axis=0) + side).tolist()
    canvas = np.ones((height, width), np.complex64)
    total = float(np.sum(np.square(amplitude[:, good]), dtype=np.float64))
    missed = 0.0
    for _ in range(iterations):
        missed = 0.0
        for row in rng.permutation(len(corners)):
            x, y = corners[row]
            window = canvas[y : y + side, x : x + side]
            wavefields = probe * window
            far = fft.fft2(wavefields, norm="ortho")
            modulus = np.sqrt(np.sum(np.square(np.abs(far)), axis=0))
            missed += float(np.sum(np.square(modulus - amplitude[row])[good], dtype=np.float64))
            factor = np.where(good, amplitude[row] / np.maximum(modulus, 1e-6), 1).astype(np.float32)
            change = fft.ifft2(far * factor, norm="ortho") - wavefields
            power = np.sum(np.square(np.abs(probe)), axis=0).max()
            brightness = np.square(np.abs(window)).max()
            seen = np.sum(np.conj(probe) * change, axis=0) / power
            probe = probe + np.conj(window) * change / max(brightness, 1e-9)
            window += seen
    return missed / total
