"""From a fitted object and probe to a reconstruction and its residual."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Reconstruction

from ptycho_data.batches import PatternSource
from ptycho_data.canvas import illumination
from ptycho_data.fitting import FarFieldResidual
from ptycho_data.fitting.probes import normalised_probe, orthogonal_modes
from ptycho_data.stages import Progress, tell
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
    progress: Progress | None = None,
) -> Residual:
    """Function of indices to their R, its floor and its parts.

    Args:
        object_: (H, W), for a probe of unit energy.
        probe: (K, N, N), any scale.
        background: (N, N) in units of the mean counts, zero frequency at [0, 0].
        progress: Called as ``progress("residuals", patterns done, patterns in all)``.
    """
    normalised, sites = normalised_probe(probe, prepared.mean_counts), prepared.sites
    counts = None if background is None else background * np.float32(prepared.mean_counts)

    source = prepared.source if progress is None else _Told(prepared.source, progress, len(sites))

    def residual(indices: NDArray[np.int64]) -> FarFieldResidual:
        return backend.residual(source, object_, normalised, sites, indices, device=device, background=counts)

    return residual


class _Told:
    """A source that reports how many of its patterns were read, each once: the time is estimated from a few first."""

    def __init__(self, source: PatternSource, progress: Progress, total: int) -> None:
        self.N, self.bad_pixels, self.scan_index = source.N, source.bad_pixels, source.scan_index
        self._source, self._progress, self._total = source, progress, total
        self._read = np.zeros(len(source), bool)

    def __len__(self) -> int:
        return len(self._source)

    def counts(self, index: Any = slice(None)) -> NDArray[np.float32]:
        """Photon counts, as the source gives them."""
        counts = self._source.counts(index)
        self._read[index] = True
        tell(self._progress, "residuals", int(np.count_nonzero(self._read)), self._total)
        return counts


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
