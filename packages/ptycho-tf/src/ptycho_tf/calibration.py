"""The probe of a scan by joint descent: calibrated from a guess, or found where there is none (specs/training.md).

Knows no framework: the descent is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ReconstructionConfig
from ptycho_data.batches import PatternSource
from ptycho_data.probes import from_mean_pattern

Progress = Callable[[str, int, int], None]

CALIBRATION_PATTERNS = 2048
"""A larger scan's probe is calibrated on this many neighbouring patterns."""
SEARCH_PATTERNS = 150
SEARCH_EPOCHS = 6
DEFOCUS_CYCLES = (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0, 8.0, -8.0, 16.0, -16.0)
"""Defoci tried where no probe is given; the best one's surroundings are tried next."""


class Fit(Protocol):
    """What a descent comes to."""

    @property
    def probe(self) -> NDArray[np.complex64]: ...
    @property
    def losses(self) -> tuple[float, ...]: ...


class Descend(Protocol):
    """A joint descent of all patterns of a source, on a canvas of their own."""

    def __call__(
        self,
        source: PatternSource,
        positions_px: NDArray[np.float64],
        probe: NDArray[np.complex64],
        *,
        mean_counts: float,
        config: ReconstructionConfig,
        stage: str,
        progress: Progress | None,
    ) -> Fit: ...


class Chosen:
    """Some patterns of a source, numbered from 0."""

    def __init__(self, source: PatternSource, indices: NDArray[np.int64]) -> None:
        self._source, self._indices = source, indices
        self.N, self.bad_pixels = source.N, source.bad_pixels
        self.scan_index = np.asarray(source.scan_index)[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def counts(self, index: Any = slice(None)) -> NDArray[np.float32]:
        """Photon counts, as the source gives them."""
        return self._source.counts(self._indices[index])


def central(positions_px: NDArray[np.float64], indices: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Those of the patterns at ``indices`` that lie nearest to the middle of the scan, at most ``count``, ascending."""
    mine = positions_px[indices]
    distance = np.abs(mine - np.median(mine, axis=0)).max(axis=1)
    return np.sort(indices[np.argsort(distance, kind="stable")[:count]])


def calibrate(
    descend: Descend,
    source: PatternSource,
    positions_px: NDArray[np.float64],
    probe: NDArray[np.complex64],
    *,
    indices: NDArray[np.int64],
    mean_counts: float,
    config: ReconstructionConfig,
    progress: Progress | None = None,
    stage: str = "calibration",
    patterns: int = CALIBRATION_PATTERNS,
) -> Fit:
    """A joint descent on a scan, or on its middle part where it is large; its outcome holds the calibrated probe.

    Args:
        descend: The backend's descent.
        source: Scan or store.
        positions_px: (M, 2) [x, y] of all its patterns.
        probe: (K, N, N) guess, any scale.
        indices: Patterns of one scan that may be used.
        mean_counts: Their mean photons a pattern.
        config: Epochs, rates, loss and seed.
    """
    mine = central(positions_px, indices, patterns)
    return descend(Chosen(source, mine), positions_px[mine], probe, mean_counts=mean_counts, config=config,
                   stage=stage, progress=progress)  # fmt: skip


def find_probe(
    descend: Descend,
    source: PatternSource,
    positions_px: NDArray[np.float64],
    *,
    indices: NDArray[np.int64],
    mean_counts: float,
    config: ReconstructionConfig,
    progress: Progress | None = None,
) -> tuple[NDArray[np.complex64], dict[str, Any]]:
    """A probe from the patterns alone: the mean pattern's modulus at the defocus that explains a few patterns best.

    Each defocus starts a short joint descent; the lowest loss wins, first on a coarse ladder, then around its best.
    The twin (PHY-13) explains the patterns as well: which of the two is found is arbitrary.

    Returns:
        (1, N, N) probe, and for the summary the defoci with their losses.
    """
    mine = central(positions_px, indices, SEARCH_PATTERNS)
    modulus = np.sqrt(source.counts(central(positions_px, indices, CALIBRATION_PATTERNS)).mean(axis=0))
    short = ReconstructionConfig(epochs=SEARCH_EPOCHS, loss=config.loss, seed=config.seed)
    tried: dict[float, float] = {}

    def loss_of(defocus: float) -> float:
        if defocus not in tried:
            fit = calibrate(
                descend, source, positions_px, from_mean_pattern(modulus, defocus_cycles=defocus), indices=mine,
                mean_counts=mean_counts, config=short,
            )  # fmt: skip
            tried[defocus] = fit.losses[-1]
            if progress is not None:
                progress("probe search", len(tried), len(DEFOCUS_CYCLES) + 4)
        return tried[defocus]

    best = min(DEFOCUS_CYCLES, key=loss_of)
    near = [best * factor for factor in (0.7, 0.85, 1.2, 1.45)] if best else [0.25, -0.25]
    best = min([best, *near], key=loss_of)
    return from_mean_pattern(modulus, defocus_cycles=best), {
        "defocus_cycles": best,
        "losses": [{"defocus_cycles": defocus, "loss": loss} for defocus, loss in sorted(tried.items())],
    }
