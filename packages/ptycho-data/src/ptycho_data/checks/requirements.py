"""What a scan must have before work on it starts: a probe, photons, one object, room for it in memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan
from scipy.spatial import cKDTree

from ptycho_data.checks.outliers import in_words, outlying_rows
from ptycho_data.free_memory import require_memory

WORK_BYTES_PER_PIXEL = 180
"""Of a canvas while an object is inferred or fitted on it; measured: 140 for a fit, 172 for `pretrained`."""

LEAST_FIELD_PX = 0.01
LARGEST_STEP = 8
"""Sides of a pattern."""


def require_one_scan(scan_index: NDArray[np.int64], *, where: str) -> None:
    """Inference and reconstruction give one object; several scans in one file are several objects (IMG-5).

    Raises:
        ContractError: more than one value of ``scan_index``.
    """
    scans = np.unique(scan_index)
    if len(scans) > 1:
        raise ContractError(
            Problem(
                where,
                "scan.several",
                "patterns of one scan",
                f"{len(scans)} scans: {', '.join(map(str, scans[:8]))}",
                "store each scan in its own file",
            )
        )


def require_probe(scan: Scan, command: str) -> NDArray[np.complex64]:
    """The scan's probe.

    Args:
        command: What needs it, for the error.

    Raises:
        ContractError: none, or one without energy.
    """
    if scan.probe is None:
        raise ContractError(
            Problem(
                _name(scan),
                "scan.no_probe",
                f"a probe, for {command}: 'probeGuess' of shape (N, N) or (modes, N, N)",
                "none",
                "add a measured or modelled probe to the file",
            )
        )
    require_light(scan)
    return scan.probe


def require_light(scan: Scan) -> None:
    """No probe is legal: one is then estimated from the patterns (TRN-3a).

    Raises:
        ContractError: a probe without energy.
    """
    if scan.probe is not None and not np.any(scan.probe):
        raise ContractError(
            Problem(
                _name(scan),
                "scan.dark_probe",
                "a probe with energy",
                "zeros",
                "give a measured or modelled probe, or none: it is then estimated from the patterns",
            )
        )


def require_sound_positions(scan: Scan) -> None:
    """Positions of another unit than pixels give no image (GEO-8); one position far off makes a canvas of mostly
    nothing, and groups that span it (GEO-6).

    Raises:
        ContractError: all positions of a scan within a hundredth of a pixel, but not at one point, or most of them
            many patterns apart; or positions far from all others of their scan, with the first of them.
    """
    for number in np.unique(scan.scan_index):
        found = _other_unit(scan.positions_px[scan.scan_index == number], scan.N)
        if found is not None:
            raise ContractError(
                Problem(
                    f"{_name(scan)}: positions",
                    "scan.position_unit",
                    "positions in object pixels",
                    found,
                    "import the file with `position_unit`, `energy`, `distance` and `detector_pixel`",
                )
            )
    rows = outlying_rows(scan.positions_px, scan.scan_index, scan.N)
    if len(rows):
        raise ContractError(
            Problem(
                _name(scan),
                "scan.outlying_positions",
                "positions that lie together, as those of one scan do",
                f"{len(rows)} far from all others: {in_words(scan.positions_px, rows)}",
                "correct these positions, or leave their patterns out of the file",
            )
        )


def _other_unit(positions_px: NDArray[np.float64], N: int) -> str | None:
    """What shows that positions of one scan are not in pixels; None if nothing does."""
    field_px = float(np.ptp(positions_px, axis=0).max())
    if 0 < field_px < LEAST_FIELD_PX:
        return f"all within {field_px:.2g} px, as of metres"
    if len(positions_px) < 2:
        return None
    step_px = float(np.median(cKDTree(positions_px).query(positions_px, k=2)[0][:, 1]))
    return f"steps of {step_px:.4g} px, beyond patterns of {N} px" if step_px > LARGEST_STEP * N else None


def require_canvas_memory(shape: tuple[int, int], *, where: str, count: int = 1) -> None:
    """Refuse canvases that the free memory cannot hold while they are worked on (MEMORY-1).

    Args:
        shape: (H, W) in pixels.
        where: What they are of, for the error.
        count: Number of canvases at once.

    Raises:
        ContractError: too little memory.
    """
    height, width = shape
    require_memory(
        count * height * width * WORK_BYTES_PER_PIXEL,
        where=f"{where}: canvas of {height} x {width} px" + (f" for each of {count} groups" if count > 1 else ""),
        remedy="check the positions with inspect: their unit, and whether all belong to one region",
    )


def require_photons(mean_counts: Mapping[int, float]) -> None:
    """Mean counts by scan, of the patterns that are used, must be positive.

    Raises:
        ContractError: the patterns of a scan hold no photons.
    """
    dark = [scan for scan, counts in mean_counts.items() if not counts > 0]
    if dark:
        raise ContractError(
            Problem(
                "measurements",
                "scan.no_photons",
                "photons in the patterns that are used",
                f"none in scan {', '.join(map(str, dark[:8]))}",
                "check the file with inspect",
            )
        )


def _name(scan: Scan) -> str:
    return str(scan.metadata.get("source", "Scan"))
