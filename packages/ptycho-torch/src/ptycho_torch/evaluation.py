"""Residuals of a reconstruction on chosen patterns, in chunks of bounded memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_data.batches.gathering import PatternSource
from ptycho_data.fitting.probes import in_gauge
from ptycho_data.metrics import ResidualSum, poisson_floor
from ptycho_data.workflows.prepared_scan import ScanView
from ptycho_data.workflows.summary import Residual

from ptycho_torch.inference import placement_of
from ptycho_torch.physics import Placement, extract_patches, simulate

_CHUNK_PIXELS = 1 << 19
_FLOOR_PATTERNS = 64


def view_residual(
    view: ScanView,
    object_: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    background: NDArray[np.float32] | None = None,
) -> Residual:
    """Function of indices to their R and its floor.

    Args:
        view: The scan.
        object_: (H, W), for a probe of unit energy.
        probe: (K, N, N), any scale.
        background: (N, N) in units of the mean counts, zero frequency at [0, 0].
    """
    gauge, placement = in_gauge(probe, view.mean_counts), placement_of(view)
    counts = None if background is None else background * np.float32(view.mean_counts)
    return lambda indices: far_field_residual(view.source, object_, gauge, placement, indices, background=counts)


def far_field_residual(
    source: PatternSource,
    object_: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    placement: Placement,
    indices: NDArray[np.int64],
    *,
    background: NDArray[np.float32] | None = None,
) -> tuple[float | None, float | None]:
    """R (PHY-22) of the patterns at ``indices`` and its Poisson floor (PHY-23, from at most 64 of them).

    Args:
        source: Scan or store.
        object_: (H, W) complex.
        probe: (K, N, N) complex in the scan's gauge.
        placement: Sites of all of the source's patterns on the canvas.
        indices: Patterns to compare; None, None for no patterns.
        background: (N, N) counts added to every pattern, zero frequency at [0, 0].
    """
    if len(indices) == 0:
        return None, None
    canvas, modes = torch.from_numpy(object_), torch.from_numpy(probe)
    chunk = max(1, _CHUNK_PIXELS // source.N**2 // len(probe))
    total, floors = ResidualSum(), []
    with torch.no_grad():
        for first in range(0, len(indices), chunk):
            chosen = indices[first : first + chunk]
            simulated = simulate(extract_patches(canvas, placement[torch.from_numpy(chosen)]), modes)
            if background is not None:
                simulated = simulated + torch.from_numpy(background)
            counts = torch.fft.fftshift(simulated, dim=(-2, -1)).numpy()
            total.add(source.counts(chosen), counts, bad_pixels=source.bad_pixels)
            if first < _FLOOR_PATTERNS:
                floors.append(counts[:_FLOOR_PATTERNS])
    return total.value, poisson_floor(np.concatenate(floors)[:_FLOOR_PATTERNS], bad_pixels=source.bad_pixels)
