"""A scan's probe by joint reconstruction: calibrated from a guess, or estimated if there is none (TRN-3).

A backend makes and evaluates the reconstruction; it is given as a :class:`Solver`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ReconstructionConfig, TrainingConfig
from ptycho_contracts.records import Scan

from ptycho_data.batches.gathering import PatternSource
from ptycho_data.deadline import Deadline
from ptycho_data.fitting.probes import mode_powers, overlap, with_modes
from ptycho_data.fitting.residual import FarFieldResidual
from ptycho_data.mean_pattern import from_mean_pattern
from ptycho_data.stages import Progress, Stages

CALIBRATION_PATTERNS = 2048
"""A larger scan's probe is calibrated on this many neighbouring patterns."""
JUDGED_PATTERNS = 256
"""R after a calibration is that of at most this many of its patterns."""
SEARCH_PATTERNS = 150
SEARCH_EPOCHS = 6
DEFOCUS_CYCLES = (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0, 8.0, -8.0, 16.0, -16.0)
"""Defoci tried if no probe is given; values around the best one are tried next."""
NEAR_FACTORS = (0.7, 0.85, 1.2, 1.45)
LEAST_SEARCH_PATTERNS = 32
SEARCH_PART, CALIBRATION_PART, QUALITY_PART = 0.25, 0.35, 0.1
"""Parts of the time that is left for these stages, if it is limited."""


class ProbeFit(Protocol):
    """Outcome of a joint reconstruction."""

    @property
    def object(self) -> NDArray[np.complex64]: ...
    @property
    def probe(self) -> NDArray[np.complex64]: ...
    @property
    def losses(self) -> tuple[float, ...]: ...


class FitAll(Protocol):
    """A joint reconstruction of all patterns of a source, on a canvas of their own."""

    def __call__(
        self,
        source: PatternSource,
        positions_px: NDArray[np.float64],
        probe: NDArray[np.complex64],
        *,
        mean_counts: float,
        config: ReconstructionConfig,
        max_seconds: float | None,
        stage: str,
        progress: Progress | None,
    ) -> ProbeFit: ...


class ResidualOf(Protocol):
    """R and its Poisson floor (PHY-22, PHY-23) of an outcome, on some patterns of what was fitted."""

    def __call__(
        self,
        source: PatternSource,
        positions_px: NDArray[np.float64],
        fit: ProbeFit,
        indices: NDArray[np.int64],
        *,
        mean_counts: float,
    ) -> FarFieldResidual: ...


@dataclass(frozen=True)
class Solver:
    """A backend's joint reconstruction, and the residual of its outcome."""

    fit: FitAll
    residual: ResidualOf


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
    solver: Solver,
    source: PatternSource,
    positions_px: NDArray[np.float64],
    probe: NDArray[np.complex64],
    *,
    indices: NDArray[np.int64],
    mean_counts: float,
    config: ReconstructionConfig,
    max_seconds: float | None = None,
    progress: Progress | None = None,
    stage: str = "calibration",
    patterns: int = CALIBRATION_PATTERNS,
) -> ProbeFit:
    """A joint reconstruction of a scan, or of its middle part if it is large; its outcome holds the calibrated probe.

    Args:
        solver: The backend's joint reconstruction.
        source: Scan or store.
        positions_px: (M, 2) [x, y] of all its patterns.
        probe: (K, N, N) guess, any scale.
        indices: Patterns of one scan that may be used.
        mean_counts: Their mean photons per pattern.
        config: Epochs, rates, loss and seed.
        max_seconds: It ends after this wall time, if not earlier.
    """
    mine = central(positions_px, indices, patterns)
    return solver.fit(
        Chosen(source, mine),
        positions_px[mine],
        probe,
        mean_counts=mean_counts,
        config=config,
        max_seconds=max_seconds,
        stage=stage,
        progress=progress,
    )


def calibration_quality(
    solver: Solver,
    source: PatternSource,
    positions_px: NDArray[np.float64],
    fit: ProbeFit,
    *,
    indices: NDArray[np.int64],
    mean_counts: float,
    config: ReconstructionConfig,
    deadline: Deadline | None = None,
    patterns: int = CALIBRATION_PATTERNS,
) -> dict[str, Any]:
    """How well a calibration explains its own patterns (TRN-3b), for the summary.

    Args:
        solver: The backend's residual.
        fit: Outcome of :func:`calibrate`, called with the same arguments.
        deadline: When it must have ended; fewer patterns are judged for that.
    """
    mine = central(positions_px, indices, patterns)

    def judge(count: int) -> FarFieldResidual:
        few = np.linspace(0, len(mine) - 1, count).round().astype(np.int64)
        return solver.residual(Chosen(source, mine), positions_px[mine], fit, few, mean_counts=mean_counts)

    most = min(len(mine), JUDGED_PATTERNS)
    count = most if deadline is None else deadline.affordable(most, judge)
    judged = judge(count)
    return {
        "patterns": len(mine),
        "steps": len(fit.losses) * math.ceil(len(mine) / config.batch_size),
        "judged": count,
        "residual": judged.value,
        "poisson_floor": judged.floor,
    }


def find_probe(
    solver: Solver,
    source: PatternSource,
    positions_px: NDArray[np.float64],
    *,
    indices: NDArray[np.int64],
    mean_counts: float,
    config: ReconstructionConfig,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> tuple[NDArray[np.complex64], dict[str, Any]]:
    """A probe from the patterns alone: the mean pattern's modulus at the defocus that explains a few patterns best.

    Each defocus starts a short joint reconstruction; the lowest loss wins, first on a coarse grid, then near its best.
    The twin image (PHY-13) explains the patterns as well: which of the two results is arbitrary.

    Args:
        deadline: When it must have ended; fewer patterns are fitted and fewer defoci tried for that.

    Returns:
        (1, N, N) probe, and for the summary the defoci with their losses.
    """
    mine = central(positions_px, indices, SEARCH_PATTERNS)
    modulus = np.sqrt(source.counts(central(positions_px, indices, CALIBRATION_PATTERNS)).mean(axis=0))
    short = ReconstructionConfig(epochs=SEARCH_EPOCHS, loss=config.loss, seed=config.seed)
    tried: dict[float, float] = {}
    most, until = len(DEFOCUS_CYCLES) + len(NEAR_FACTORS), deadline or Deadline()

    def fit(defocus: float, config: ReconstructionConfig, until: Deadline, reported: Progress | None) -> ProbeFit:
        return calibrate(
            solver,
            source,
            positions_px,
            from_mean_pattern(modulus, defocus_cycles=defocus),
            indices=mine,
            mean_counts=mean_counts,
            config=config,
            max_seconds=until.max_seconds(),
            progress=reported,
        )

    def loss_of(defocus: float) -> float:
        if defocus not in tried:
            if tried and until.over:
                return math.inf
            tried[defocus] = fit(defocus, short, until, None).losses[-1]
            if progress is not None:
                progress("probe search", len(tried), most)
        return tried[defocus]

    if until.limited:
        steps, first = _affordable_steps(until, partial(fit, 0.0, replace(short, epochs=1))), len(mine)
        patterns = first if math.isinf(steps) else int(steps / (most * SEARCH_EPOCHS)) * short.batch_size
        mine = central(positions_px, mine, max(LEAST_SEARCH_PATTERNS, min(first, patterns)))
    best = min(DEFOCUS_CYCLES, key=loss_of)
    near = [best * factor for factor in NEAR_FACTORS] if best else [0.25, -0.25]
    best = min([best, *near], key=loss_of)
    wanted = len(DEFOCUS_CYCLES) + len(near)
    if until.limited and (len(tried) < wanted or len(mine) < first):
        until.note(f"probe search: {len(tried)} of {wanted} defoci, on {len(mine)} of {first} patterns")
    return from_mean_pattern(modulus, defocus_cycles=best), {
        "defocus_cycles": best,
        "losses": [{"defocus_cycles": defocus, "loss": loss} for defocus, loss in sorted(tried.items())],
    }


def _affordable_steps(until: Deadline, fit: Callable[[Deadline, Progress], Any]) -> float:
    """How many steps of a fit there is time for, by those of a short one; the first may take longer than others."""
    times: list[float] = []
    fit(until.part(0.125), lambda *_: times.append(until.left()))
    taken = times[0] - times[-1]
    return max(until.left(), 0.0) * (len(times) - 1) / taken if taken > 0 else (math.inf if len(times) > 1 else 0.0)


def training_probe(
    solver: Solver,
    scan: Scan,
    source: PatternSource,
    used: NDArray[np.int64],
    means: Mapping[int, float],
    *,
    modes: int,
    training: TrainingConfig,
    stages: Stages,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> tuple[NDArray[np.complex64], dict[str, Any]]:
    """The probe to train with: given, calibrated on the first scan, or estimated if the file has none.

    Args:
        solver: The backend's joint reconstruction and residual.
        scan: What was measured, with the probe that is given.
        source: The same patterns, as they are read for training.
        used: Indices of the patterns that may be used.
        means: Mean counts by scan of these.
        modes: How many the probe is to have.
        training: Seed, loss, and whether and how long to calibrate.
        stages: Times go to ``probe search`` and ``calibration``.
        deadline: Of the whole run, of which these take a part.

    Returns:
        (modes, N, N) probe, and for the summary what was done.
    """
    scans = scan.scan_index[used]
    first: dict[str, Any] = {
        "indices": used[scans == scans[0]],
        "mean_counts": means[int(scans[0])],
        "config": ReconstructionConfig(epochs=training.calibration_epochs, seed=training.seed, loss=training.loss),
    }
    facts: dict[str, Any] = {}
    start, until = scan.probe, deadline or Deadline()
    if start is None:
        with stages.measure("probe search"):
            start, facts["search"] = find_probe(
                solver, source, scan.positions_px, **first, deadline=until.part(SEARCH_PART), progress=progress
            )
    probe = with_modes(start, modes)
    calibrates = training.calibrate_probe
    if calibrates is None:
        calibrates = scan.probe is None or scan.probe_kind == "guess"
    facts |= {"calibrated": calibrates, "calibration": None}
    if calibrates:
        with stages.measure("calibration"):
            limit = until.part(CALIBRATION_PART).max_seconds()
            fit = calibrate(solver, source, scan.positions_px, probe, **first, max_seconds=limit, progress=progress)
            if len(fit.losses) < training.calibration_epochs:
                until.note(f"calibration of the probe: {len(fit.losses)} of {training.calibration_epochs} epochs")
            facts["calibration"] = calibration_quality(
                solver, source, scan.positions_px, fit, **first, deadline=until.part(QUALITY_PART)
            )
        probe = fit.probe
        facts |= {"epochs": len(fit.losses), "losses": list(fit.losses)}
    facts["overlap_with_given"] = None if scan.probe is None else overlap(probe, scan.probe)
    facts["mode_powers"] = mode_powers(probe)
    return probe, facts
