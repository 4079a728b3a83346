"""The orientation test on the measured Siemens star, given in each of the eight orientations.

    PTYCHO_SHARED_DATA=FOLDER python benchmarks/orientation.py

Each orientation is given three times: once the positions are swapped and turned, once the patterns are
(about zero frequency, while positions and probe stay as in the file), and once the positions without the probe.
Baseline: the residual of a
uniform object with the given probe on the same patterns, which contains no information.
"""

from __future__ import annotations

import os
from pathlib import Path

import measuring
import numpy as np
from ptycho_contracts.records import Scan
from ptycho_data.checks.orientation import ORIENTATIONS, Orientation, rank_orientations
from ptycho_data.files import read_scan


def turned_patterns(patterns: np.ndarray, orientation: Orientation) -> np.ndarray:
    """Patterns with their axes swapped, then turned about pixel [N // 2, N // 2]."""
    N = patterns.shape[-1]
    if orientation.swap_xy:
        patterns = patterns.transpose(0, 2, 1)
    for axis, flip in ((2, orientation.flip_x), (1, orientation.flip_y)):
        if flip:
            patterns = np.roll(np.flip(patterns, axis), 1 - N % 2, axis)
    return np.ascontiguousarray(patterns)


def evaluated(given: Scan, expected: np.ndarray) -> dict[str, object]:
    """Rank, and compare the corrected positions with the expected ones."""
    outcome: dict[str, object] = {}

    def work() -> None:
        ranking = rank_orientations(given)
        corrected = ranking.best.apply(given.positions_px)
        right, twin = np.allclose(corrected, expected), np.allclose(corrected, -expected)
        outcome.update(
            found=str(ranking.best),
            right=right,
            twin_named=bool(twin and ranking.twin_is_equal),
            decided=ranking.decided,
            residuals=[round(value, 4) for _, value in ranking.residuals],
        )

    return {**measuring.timed(work), **outcome}


def main() -> None:
    folder = Path(os.environ.get("PTYCHO_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    star = read_scan(folder / "siemens_star.npz")
    cases: dict[str, dict[str, object]] = {}
    for orientation in ORIENTATIONS:
        moved = np.ascontiguousarray(orientation.apply(star.positions_px))
        scan = Scan(measurements=star.measurements, unit=star.unit, positions_px=moved, probe=star.probe)
        cases[f"positions: {orientation}"] = evaluated(scan, star.positions_px)
        scan = Scan(measurements=star.measurements, unit=star.unit, positions_px=moved)
        cases[f"no probe: {orientation}"] = evaluated(scan, star.positions_px)
        turned = turned_patterns(star.measurements, orientation)
        scan = Scan(measurements=turned, unit=star.unit, positions_px=star.positions_px, probe=star.probe)
        cases[f"patterns: {orientation}"] = evaluated(scan, moved)
    good = {
        words: sum(bool(case["right"] or case["twin_named"]) for name, case in cases.items() if words in name)
        for words in ("positions", "no probe", "patterns")
    }
    modulus = np.sqrt(np.sum(np.abs(np.fft.fft2(star.probe, norm="ortho")) ** 2, axis=0))
    measured = np.fft.ifftshift(np.sqrt(star.counts()), axes=(1, 2))
    uniform = float(np.sum((modulus - measured) ** 2) / np.sum(measured**2))
    measuring.show(
        {
            "machine": measuring.machine(),
            "right_or_twin_of_8": good,
            "uniform_object_residual": round(uniform, 4),
            "peak_mb": measuring.peak_mb(),
            "cases": cases,
        }
    )


if __name__ == "__main__":
    main()
