"""What finding and calibrating a probe asks of this backend (``ptycho_data.fitting.probe_estimation``)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ReconstructionConfig
from ptycho_data.batches.gathering import PatternSource
from ptycho_data.canvas.geometry import canvas_geometry
from ptycho_data.fitting.probe_estimation import Fit
from ptycho_data.fitting.probes import in_gauge
from ptycho_data.stages import Progress
from ptycho_data.workflows.options import descent_options

from ptycho_tf.descent import JointFit, joint_descent
from ptycho_tf.devices import on_device
from ptycho_tf.evaluation import far_field_residual
from ptycho_tf.physics import Placement, place_scan


def descend(
    device: str,
    source: PatternSource,
    positions_px: NDArray[np.float64],
    probe: NDArray[np.complex64],
    *,
    mean_counts: float,
    config: ReconstructionConfig,
    stage: str,
    progress: Progress | None,
) -> JointFit:
    """Joint descent of all patterns of a source, on a canvas of their own."""
    return joint_descent(
        source,
        _placement(source, positions_px),
        probe,
        indices=np.arange(len(source)),
        mean_counts=mean_counts,
        epochs=config.epochs,
        device=device,
        progress=progress,
        stage=stage,
        **descent_options(config),
    )


def judge(
    device: str,
    source: PatternSource,
    positions_px: NDArray[np.float64],
    fit: Fit,
    indices: NDArray[np.int64],
    *,
    mean_counts: float,
) -> tuple[float | None, float | None]:
    """R and its floor of what :func:`descend` came to with the same source and positions."""
    with on_device(device):
        return far_field_residual(
            source, fit.object, in_gauge(fit.probe, mean_counts), _placement(source, positions_px), indices
        )


def _placement(source: PatternSource, positions_px: NDArray[np.float64]) -> Placement:
    return place_scan(positions_px, canvas_geometry(positions_px, source.N), source.N)
