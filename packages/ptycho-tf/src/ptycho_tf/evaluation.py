"""Residuals of a reconstruction on chosen patterns, in chunks of bounded memory."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from ptycho_data.batches.gathering import PatternSource
from ptycho_data.fitting.probes import in_gauge
from ptycho_data.metrics import ResidualSum, poisson_floor
from ptycho_data.workflows.prepared_scan import ScanView
from ptycho_data.workflows.summary import Residual

from ptycho_tf.devices import on_device
from ptycho_tf.framework import tf
from ptycho_tf.physics import Placement, Tensor, extract_patches, place_scan, simulate, to_centre

_CHUNK_PIXELS = 1 << 19
_FLOOR_PATTERNS = 64


def view_residual(
    view: ScanView,
    object_: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    device: str,
    background: NDArray[np.float32] | None = None,
) -> Residual:
    """Function of indices to their R and its floor.

    Args:
        view: The scan.
        object_: (H, W), for a probe of unit energy.
        probe: (K, N, N), any scale.
        device: As :func:`ptycho_tf.devices.pick_device` names it.
        background: (N, N) in units of the mean counts, zero frequency at [0, 0].
    """
    counts = None if background is None else background * np.float32(view.mean_counts)

    def residual(indices: NDArray[np.int64]) -> tuple[float | None, float | None]:
        with on_device(device):
            gauge = in_gauge(probe, view.mean_counts)
            sites = place_scan(view.positions_px, view.geometry, view.source.N)
            return far_field_residual(view.source, object_, gauge, sites, indices, background=counts)

    return residual


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
    canvas, modes = tf.constant(object_), tf.constant(probe)
    added = tf.zeros(probe.shape[1:]) if background is None else tf.constant(background)
    chunk = max(1, _CHUNK_PIXELS // source.N**2 // len(probe))
    total, floors = ResidualSum(), []
    for first in range(0, len(indices), chunk):
        chosen = indices[first : first + chunk]
        sites = placement[chosen]
        counts = _expected_counts(canvas, modes, added, sites.corners_yx, sites.fractions_yx).numpy()
        total.add(source.counts(chosen), counts, bad_pixels=source.bad_pixels)
        if first < _FLOOR_PATTERNS:
            floors.append(counts[:_FLOOR_PATTERNS])
    return total.value, poisson_floor(np.concatenate(floors)[:_FLOOR_PATTERNS], bad_pixels=source.bad_pixels)


@partial(tf.function, autograph=False)  # a graph for each shape: relaxed ones would not know N or the canvas
def _expected_counts(
    canvas: Tensor, probe: Tensor, background: Tensor, corners_yx: Tensor, fractions_yx: Tensor
) -> Tensor:
    """(n, N, N) expected counts, zero frequency at [N // 2, N // 2]."""
    sites = Placement(corners_yx, fractions_yx, tuple(canvas.shape), int(probe.shape[-1]))
    return to_centre(simulate(extract_patches(canvas, sites), probe) + background)
