"""The probe of a scan, estimated and calibrated by a backend's joint reconstruction (specs/training.md, TRN-3)."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ReconstructionConfig

from ptycho_data.batches import PatternSource
from ptycho_data.canvas import canvas_geometry, illumination, photons_per_pixel, scan_sites
from ptycho_data.fitting import FarFieldResidual, JointFit
from ptycho_data.fitting.probe_estimation import ProbeFit, Solver
from ptycho_data.fitting.probes import normalised_probe
from ptycho_data.stages import Progress
from ptycho_data.workflows.backend import Backend
from ptycho_data.workflows.joint_fit import loss_for
from ptycho_data.workflows.options import joint_options


def solver(backend: Backend, device: str) -> Solver:
    """The joint reconstruction and its residual, of all patterns of a source, on a canvas of their own."""
    return Solver(partial(_fit, backend, device), partial(_residual, backend, device))


def _fit(
    backend: Backend,
    device: str,
    source: PatternSource,
    positions_px: NDArray[np.float64],
    probe: NDArray[np.complex64],
    *,
    mean_counts: float,
    config: ReconstructionConfig,
    max_seconds: float | None,
    stage: str,
    progress: Progress | None,
) -> JointFit:
    sites = scan_sites(positions_px, canvas_geometry(positions_px, source.N), source.N)
    photons_per_px = photons_per_pixel(illumination(normalised_probe(probe, 1.0), sites), mean_counts * len(source))
    return backend.joint_fit(
        source,
        sites,
        probe,
        indices=np.arange(len(source)),
        mean_counts=mean_counts,
        epochs=config.epochs,
        max_seconds=max_seconds,
        device=device,
        progress=progress,
        stage=stage,
        **{**joint_options(config), "loss": loss_for(config.loss, photons_per_px)},
    )


def _residual(
    backend: Backend,
    device: str,
    source: PatternSource,
    positions_px: NDArray[np.float64],
    fit: ProbeFit,
    indices: NDArray[np.int64],
    *,
    mean_counts: float,
) -> FarFieldResidual:
    sites = scan_sites(positions_px, canvas_geometry(positions_px, source.N), source.N)
    probe = normalised_probe(fit.probe, mean_counts)
    return backend.residual(source, fit.object, probe, sites, indices, device=device)
