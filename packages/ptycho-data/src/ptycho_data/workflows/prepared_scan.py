"""A scan prepared for inference or reconstruction: its canvas, what may be used, its mean counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import DataConfig
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Groups, Scan

from ptycho_data.batches import GroupSource, mean_counts
from ptycho_data.canvas import CanvasGeometry, Sites, canvas_geometry, scan_sites
from ptycho_data.checks.requirements import (
    require_canvas_memory,
    require_one_scan,
    require_photons,
    require_sound_positions,
)
from ptycho_data.grouping import HoldOut, group, held_out_indices, used_indices
from ptycho_data.workflows.options import grouping_options

POSITION_MARGIN_PX = 8
"""Room on each side of the canvas for positions that are corrected."""


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """One scan, ready for inference or reconstruction.

    Attributes:
        source: Scan or store of one scan.
        positions_px: (M, 2) float64 [x, y] of all patterns.
        geometry: Canvas of all positions.
        used: (m,) int64, indices of the patterns that may be used.
        held_out: (M - m,) int64, indices of the others.
        mean_counts: Mean photons of the used patterns.
        pixel_size_m: Side of an object pixel, or None: unknown.
    """

    source: GroupSource
    positions_px: NDArray[np.float64]
    geometry: CanvasGeometry
    used: NDArray[np.int64]
    held_out: NDArray[np.int64]
    mean_counts: float
    pixel_size_m: float | None = None

    @property
    def sites(self) -> Sites:
        """Where the patches of all patterns lie on the canvas."""
        return scan_sites(self.positions_px, self.geometry, self.source.N)


def prepare_scan(scan: Scan, hold_out: HoldOut, seed: int, *, correct_positions: bool = False) -> PreparedScan:
    """Prepare a scan; with room on its canvas for positions that will be corrected.

    Args:
        scan: One scan.
        hold_out: See :func:`ptycho_data.grouping.selection.held_out_indices`.
        seed: Draws what is held out.
        correct_positions: Widen the canvas by ``POSITION_MARGIN_PX`` on each side.

    Raises:
        ContractError: several scans in one file, outlying positions, no photons, or no memory for the canvas.
    """
    where = str(scan.metadata.get("source", "Scan"))
    require_one_scan(scan.scan_index, where=where)
    require_sound_positions(scan)
    held = held_out_indices(hold_out, len(scan), seed)
    used = used_indices(held, len(scan))
    means = mean_counts(scan, allowed=used)
    require_photons(means)
    least, margin = canvas_geometry(scan.positions_px, scan.N), POSITION_MARGIN_PX if correct_positions else 0
    height, width = least.shape
    geometry = CanvasGeometry(least.origin_yx_px - margin, (height + 2 * margin, width + 2 * margin))
    require_canvas_memory(geometry.shape, where=where)
    mean = next(iter(means.values()))
    return PreparedScan(scan, scan.positions_px, geometry, used, held, mean, scan.pixel_size_m)


def inference_groups(prepared: PreparedScan, data: DataConfig, seed: int) -> Groups:
    """Groups of the patterns that may be used."""
    return group(
        prepared.positions_px,
        n_groups=data.n_groups,
        oversampling=data.oversampling,
        seed=seed,
        allowed=prepared.used,
        **grouping_options(data),
    )


def assembly_of(requested: str, architecture: str, infers_whole_canvas: bool) -> str:
    """``canvas`` or ``groups``, from what was requested and what the network can.

    Raises:
        ContractError: a canvas from a network that cannot infer one (IMG-5).
    """
    if requested == "canvas" and not infers_whole_canvas:
        raise ContractError(
            Problem(
                "inference.assembly",
                "inference.assembly",
                "'groups' or 'auto' for this architecture",
                f"'canvas' for '{architecture}'",
                "use `assembly=groups`",
            )
        )
    return ("canvas" if infers_whole_canvas else "groups") if requested == "auto" else requested
