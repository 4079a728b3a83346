"""A scan as imaging sees it: its canvas, what may be used, its gauge; and how it is to be assembled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import DataConfig
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Groups, Scan

from ptycho_data.batches.gathering import GroupSource, mean_counts
from ptycho_data.canvas.geometry import CanvasGeometry, canvas_geometry
from ptycho_data.checks.requirements import require_one_scan, require_photons
from ptycho_data.grouping.groups import group
from ptycho_data.grouping.selection import held_out_indices, used_indices
from ptycho_data.workflows.options import grouping_options

POSITION_MARGIN_PX = 8
"""Room on each side of the canvas for positions that are corrected."""


@dataclass(frozen=True, eq=False)
class ScanView:
    """One scan as imaging sees it.

    Attributes:
        source: Scan or store of one scan.
        positions_px: (M, 2) float64 [x, y] of all patterns.
        geometry: Canvas of all positions.
        used: (m,) int64, indices of the patterns that may be used.
        held_out: (M - m,) int64, indices of the others.
        mean_counts: Mean photons of the used patterns.
    """

    source: GroupSource
    positions_px: NDArray[np.float64]
    geometry: CanvasGeometry
    used: NDArray[np.int64]
    held_out: NDArray[np.int64]
    mean_counts: float


def scan_view(scan: Scan, hold_out: str | None, seed: int, *, correct_positions: bool = False) -> ScanView:
    """The view of a scan; with room on its canvas for positions that will be corrected.

    Args:
        scan: One scan.
        hold_out: See :func:`ptycho_data.grouping.selection.held_out_indices`.
        seed: Draws what is held out.
        correct_positions: Widen the canvas by ``POSITION_MARGIN_PX`` on each side.

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


def imaging_groups(view: ScanView, data: DataConfig, seed: int) -> Groups:
    """Groups of the patterns that may be used."""
    return group(
        view.positions_px,
        n_groups=data.n_groups,
        oversampling=data.oversampling,
        seed=seed,
        allowed=view.used,
        **grouping_options(data),
    )


def assembly_of(wanted: str, architecture: str, images_whole_canvas: bool) -> str:
    """``canvas`` or ``groups``, from what was asked for and what the network can.

    Raises:
        ContractError: a canvas from a network that cannot image one (IMG-5).
    """
    if wanted == "canvas" and not images_whole_canvas:
        raise ContractError(
            Problem(
                "inference.assembly",
                "inference.assembly",
                "'groups' or 'auto' for this architecture",
                f"'canvas' for '{architecture}'",
                "use --assembly groups",
            )
        )
    return ("canvas" if images_whole_canvas else "groups") if wanted == "auto" else wanted
