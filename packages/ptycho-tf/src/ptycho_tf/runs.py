"""What a run needs beside the framework: timing, the scan as imaging sees it, groups, summaries. NumPy only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import DataConfig, ModelConfig, ReconstructionConfig, Section, TrainingConfig, to_dict
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Groups, Scan
from ptycho_data.batches import PatternSource, mean_counts
from ptycho_data.files import read_scan
from ptycho_data.geometry import CanvasGeometry, canvas_geometry
from ptycho_data.grouping import group
from ptycho_data.selection import held_out_indices, subsample_indices, used_indices
from ptycho_data.simulate import scans_like

from ptycho_tf.calibration import CALIBRATION_PATTERNS, central

Progress = Callable[[str, int, int], None]
Summary = dict[str, Any]
Residual = Callable[[NDArray[np.int64]], tuple[float | None, float | None]]

POSITION_STEP_PX, POSITION_MARGIN_PX = 0.1, 8
"""Adam step of positions that are corrected, and the room that the canvas has for them on each side."""
BACKGROUND_STEP = 0.02
"""Adam step of a background's square root, in units of the root mean intensity of a pixel."""


@dataclass
class Stages:
    """Wall and CPU seconds of each stage of a run."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of a with-block to a stage."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - wall
        self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + time.process_time() - cpu

    def rate(self, patterns: int, stage: str) -> float | None:
        """Patterns a CPU second of a stage."""
        cpu = self.cpu_seconds.get(stage, 0.0)
        return patterns / cpu if cpu > 0 else None


@dataclass(frozen=True, eq=False)
class ScanView:
    """One scan as imaging sees it.

    Attributes:
        source: Scan or store of one scan.
        positions_px: (M, 2) float64 [x, y] of all patterns.
        geometry: Canvas of all positions.
        used: Indices of the patterns that may be used.
        held_out: Indices of the others.
        mean_counts: Mean photons of the used patterns.
    """

    source: PatternSource
    positions_px: NDArray[np.float64]
    geometry: CanvasGeometry
    used: NDArray[np.int64]
    held_out: NDArray[np.int64]
    mean_counts: float


def scan_view(scan: Scan, hold_out: str | None, seed: int, *, correct_positions: bool = False) -> ScanView:
    """The view of a scan; with room on its canvas for positions that will be corrected.

    Raises:
        ContractError: several scans in one file, or no photons.
    """
    require_one_scan(scan.scan_index, where=str(scan.metadata.get("source", "Scan")))
    held = held_out_indices(hold_out, len(scan), seed)
    used = used_indices(held, len(scan))
    gauges = mean_counts(scan, allowed=used)
    require_photons(gauges)
    least, margin = canvas_geometry(scan.positions_px, scan.N), POSITION_MARGIN_PX if correct_positions else 0
    height, width = least.shape
    geometry = CanvasGeometry(least.origin_yx_px - margin, (height + 2 * margin, width + 2 * margin))
    return ScanView(scan, scan.positions_px, geometry, used, held, next(iter(gauges.values())))


def training_groups(
    source: PatternSource,
    used: NDArray[np.int64],
    data: DataConfig,
    training: TrainingConfig,
    gauges: Mapping[int, float],
    validation_files: Sequence[Path],
) -> tuple[tuple[PatternSource, Groups, Mapping[int, float]], ...]:
    """Groups to train on and groups for val_loss, each with its source and mean counts.

    Raises:
        ContractError: a validation file of another pattern size, or no group left for one of the two.
    """
    groups = source.groups(  # type: ignore[attr-defined]
        n_groups=data.n_groups, oversampling=data.oversampling, seed=training.seed, allowed=used,
        **grouping_options(data),
    )  # fmt: skip
    if validation_files:
        scan = read_scan(Path(validation_files[0]), measurement=data.measurement)
        if scan.N != data.N:
            raise ContractError(
                Problem(str(validation_files[0]), "scan.size", f"patterns of {data.N} x {data.N}",
                        f"{scan.N} x {scan.N}", "validate on patterns of the training's size")
            )  # fmt: skip
        theirs = group(scan.positions_px, seed=training.seed, scan_index=scan.scan_index, **grouping_options(data))
        return (source, groups, gauges), (scan, theirs, mean_counts(scan))
    count = max(1, round(training.val_fraction * len(groups)))
    if training.val_fraction == 0 or count >= len(groups):
        raise ContractError(
            Problem("training.val_fraction", "training.no_validation", "at least one group to train on and one for "
                    "val_loss", f"val_fraction {training.val_fraction:g} of {len(groups)} groups",
                    "raise n_groups or val_fraction, or give a validation file")
        )  # fmt: skip
    order = np.random.default_rng(training.seed).permutation(len(groups))
    parts = np.sort(order[count:]), np.sort(order[:count])
    return tuple((source, subset(groups, rows), gauges) for rows in parts)


def subset(groups: Groups, rows: NDArray[np.int64]) -> Groups:
    """Some of the groups."""
    return Groups(**{row.name: getattr(groups, row.name)[rows] for row in fields(groups)})


def training_patterns(
    source: PatternSource, data: DataConfig, training: TrainingConfig
) -> tuple[NDArray[np.int64], ...]:
    """Indices of the patterns that are used, and of those that are held out."""
    held = held_out_indices(training.hold_out, len(source), training.seed)
    used = used_indices(held, len(source))
    if data.subsample is not None:
        used = subsample_indices(len(source), count=data.subsample, seed=training.seed, sequential=data.sequential,
                                 scan_index=source.scan_index, allowed=used)  # fmt: skip
    return used, held


def synthetic_scans(
    scan: Scan, probe: NDArray[np.complex64], used: NDArray[np.int64], gauges: Mapping[int, float],
    training: TrainingConfig,
) -> Scan:  # fmt: skip
    """Simulated objects under the first scan's probe, at its positions, with its dose (TRN-13)."""
    mine = used[scan.scan_index[used] == scan.scan_index[used][0]]
    mine = central(scan.positions_px, mine, CALIBRATION_PATTERNS)
    return scans_like(
        scan.positions_px[mine], probe, count=training.synthetic, seed=training.seed,
        photons_per_pattern=gauges[int(scan.scan_index[mine][0])],
    )  # fmt: skip


def require_same_network(path: Path, given: ModelConfig, wanted: ModelConfig) -> None:
    """Training can only start from a bundle of the same network (TRN-12).

    Raises:
        ContractError: ``bundle.other_network``, for each option that differs.
    """
    names = ["architecture", "iterations", "width"] + (["gridsize"] if wanted.architecture == "cnn" else [])
    problems = [
        Problem(f"{path}: {name}", "bundle.other_network", str(getattr(wanted, name)), str(getattr(given, name)),
                f"train with {name} {getattr(given, name)} too, or start anew")
        for name in names if getattr(given, name) != getattr(wanted, name)
    ]  # fmt: skip
    if problems:
        raise ContractError(problems)


def assembly_of(wanted: str, architecture: str, images_whole_canvas: bool) -> str:
    """``canvas`` or ``groups``, from what was asked for and what the network can.

    Raises:
        ContractError: a canvas from a network that cannot image one.
    """
    if wanted == "canvas" and not images_whole_canvas:
        raise ContractError(
            Problem("inference.assembly", "inference.assembly", "'groups' or 'auto' for this architecture",
                    f"'canvas' for '{architecture}'", "use --assembly groups")
        )  # fmt: skip
    return ("canvas" if images_whole_canvas else "groups") if wanted == "auto" else wanted


def imaging_groups(view: ScanView, data: DataConfig, seed: int) -> Groups:
    """Groups of the patterns that may be used."""
    return group(view.positions_px, n_groups=data.n_groups, oversampling=data.oversampling, seed=seed,
                 allowed=view.used, **grouping_options(data))  # fmt: skip


def grouping_options(data: DataConfig) -> dict[str, Any]:
    """Options of grouping by the names of its parameters."""
    return {
        "gridsize": data.gridsize,
        "neighbor_count": data.K,
        "min_distance_px": data.min_distance_px,
        "max_distance_px": data.max_distance_px,
        "sequential": data.sequential,
    }


def residuals(view: ScanView, residual: Residual) -> Summary:
    """R and its Poisson floor, on used and held-out patterns, from a function of indices."""
    used, used_floor = residual(view.used)
    unseen, unseen_floor = residual(view.held_out)
    return {
        "residual": {"used": used, "held_out": unseen},
        "poisson_floor": {"used": used_floor, "held_out": unseen_floor},
    }


def descent_options(config: ReconstructionConfig) -> dict[str, Any]:
    """Options of a joint descent by the names of its parameters."""
    names = ("batch_size", "object_learning_rate", "probe_learning_rate", "loss", "seed")
    return {name: getattr(config, name) for name in names} | {
        "position_learning_rate": POSITION_STEP_PX if config.correct_positions else 0.0,
        "background_learning_rate": BACKGROUND_STEP if config.fit_background else 0.0,
    }


def after_descent(
    view: ScanView, losses: Sequence[float], shifts_yx_px: NDArray[np.float64], background: NDArray[np.float32]
) -> tuple[ScanView, Summary]:
    """The scan with its corrected positions, and what a descent found, for the summary.

    Args:
        losses: Of each epoch.
        shifts_yx_px: (M, 2), added to the positions.
        background: (N, N) in units of the mean counts.
    """
    rms = float(np.sqrt((shifts_yx_px[view.used] ** 2).sum(1).mean()))
    found = {
        "losses": list(losses),
        "position_correction_rms_px": rms,
        "background_counts_per_pattern": float(background.sum(dtype=np.float64)) * view.mean_counts,
    }
    moved = view.positions_px + shifts_yx_px[:, ::-1]
    return (view if rms == 0 else replace(view, positions_px=moved)), found


def common_summary(
    sections: Sequence[Section], seed: int, stages: Stages, device: str, packages: Sequence[str]
) -> Summary:
    """What every run says of itself."""
    return {
        "settings": {section.section: to_dict(section) for section in sections},
        "versions": {name: version(name) for name in ("ptycho-contracts", "ptycho-data", *packages, "numpy")},
        "seed": seed,
        "device": device,
        "seconds": stages.seconds,
        "cpu_seconds": stages.cpu_seconds,
    }


def require_one_scan(scan_index: NDArray[np.int64], *, where: str) -> None:
    """Imaging makes one object; several scans in one file are several objects.

    Raises:
        ContractError: more than one value of ``scan_index``.
    """
    scans = np.unique(scan_index)
    if len(scans) > 1:
        raise ContractError(
            Problem(where, "scan.several", "patterns of one scan", f"{len(scans)} scans: {scans[:8].tolist()}",
                    "image each scan from a file of its own")
        )  # fmt: skip


def require_probe(scan: Scan, command: str) -> NDArray[np.complex64]:
    """The scan's probe.

    Raises:
        ContractError: none, or one without light.
    """
    if scan.probe is None:
        raise ContractError(
            Problem(str(scan.metadata.get("source", "Scan")), "scan.no_probe", f"a probe, for {command}: 'probeGuess' "
                    "of shape (N, N) or (modes, N, N)", "none", "add a measured or modelled probe to the file")
        )  # fmt: skip
    require_light(scan)
    return scan.probe


def require_light(scan: Scan) -> None:
    """Raise ContractError for a probe without light; none at all is legal."""
    if scan.probe is not None and not np.any(scan.probe):
        raise ContractError(
            Problem(str(scan.metadata.get("source", "Scan")), "scan.dark_probe", "a probe with light", "zeros",
                    "give a measured or modelled probe, or none: it is then found from the patterns")
        )  # fmt: skip


def require_photons(gauges: Mapping[int, float]) -> None:
    """Raise ContractError where the patterns of a scan hold no photons."""
    dark = [scan for scan, counts in gauges.items() if not counts > 0]
    if dark:
        raise ContractError(
            Problem("measurements", "scan.no_photons", "photons in the patterns that are used",
                    f"none in scan {dark}", "check the file with inspect")
        )  # fmt: skip
