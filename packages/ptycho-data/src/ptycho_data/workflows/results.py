"""From a fitted object and probe to a reconstruction and its residual."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Reconstruction

from ptycho_data.canvas import illumination
from ptycho_data.fitting import FarFieldResidual
from ptycho_data.fitting.probes import normalised_probe, orthogonal_modes
from ptycho_data.workflows.backend import Backend
from ptycho_data.workflows.prepared_scan import PreparedScan
from ptycho_data.workflows.summary import Residual


def residual_of(
    backend: Backend,
    prepared: PreparedScan,
    object_: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    background: NDArray[np.float32] | None = None,
    *,
    device: str,
) -> Residual:
    """Function of indices to their R, its floor and its parts.

    Args:
        object_: (H, W), for a probe of unit energy.
        probe: (K, N, N), any scale.
        background: (N, N) in units of the mean counts, zero frequency at [0, 0].
    """
    normalised, sites = normalised_probe(probe, prepared.mean_counts), prepared.sites
    counts = None if background is None else background * np.float32(prepared.mean_counts)

    def residual(indices: NDArray[np.int64]) -> FarFieldResidual:
        return backend.residual(prepared.source, object_, normalised, sites, indices, device=device, background=counts)

    return residual


def reconstruction_of(
    prepared: PreparedScan, object_: NDArray[np.complex64], probe: NDArray[np.complex64], seen: NDArray[np.int64]
) -> Reconstruction:
    """The record of an object, with its probe normalised to the scan's mean counts.

    Args:
        seen: Indices of the patterns that made the object: only they illuminated it.
    """
    normalised = normalised_probe(orthogonal_modes(probe), prepared.mean_counts)
    return Reconstruction(
        object=object_.astype(np.complex64),
        origin_yx_px=prepared.geometry.origin_yx_px,
        weight=illumination(normalised, prepared.sites[seen]),
        probe=normalised,
        positions_px=prepared.positions_px,
        pixel_size_m=prepared.pixel_size_m,
    )
