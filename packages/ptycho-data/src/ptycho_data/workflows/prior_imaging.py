"""A scan imaged by passes with the learned prior, with its own probe, without a training (IMG-9, PRI-10)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import TrainingConfig
from ptycho_contracts.physics import PRIOR_PASSES, finest_prior_passes
from ptycho_contracts.records import Scan

from ptycho_data.canvas import coarse_sides, illumination, photons_per_pixel
from ptycho_data.fitting import Prior
from ptycho_data.fitting.probe_estimation import training_probe
from ptycho_data.fitting.probes import mode_powers, normalised_probe
from ptycho_data.stages import Progress, Stages
from ptycho_data.workflows.backend import Backend
from ptycho_data.workflows.calibration import solver
from ptycho_data.workflows.joint_fit import SIGMA_FROM_OBJECT, loss_for
from ptycho_data.workflows.levels import Level, continued, lifted, light_of, object_from_levels
from ptycho_data.workflows.prepared_scan import PreparedScan

_MODES = 3
_LEAST_POWER = 0.01
"""Modes of a calibrated probe with less than this part of its energy are left out: each costs a transform of every
pattern in every pass. Reasoned: below the noise of most scans."""


def probe_of(
    backend: Backend,
    scan: Scan,
    prepared: PreparedScan,
    *,
    seed: int,
    stages: Stages,
    device: str,
    progress: Progress | None = None,
) -> NDArray[np.complex64]:
    """The scan's probe (K, N, N) of unit energy: as given if it is exact, else calibrated on the scan (TRN-3).

    Args:
        scan: With the probe that is given, if any.
        prepared: The same scan.
        seed: Of the calibration.
        stages: Its time goes to ``calibration`` and ``probe search``.
    """
    if scan.probe is not None and scan.probe_kind == "exact":
        return normalised_probe(scan.probe, 1.0)
    anything = np.ones((1, scan.N, scan.N), np.complex64) if scan.probe is None else scan.probe
    light = light_of(prepared, normalised_probe(anything, 1.0))
    found, _ = training_probe(
        solver(backend, device),
        scan,
        prepared.source,
        prepared.used,
        {int(np.asarray(scan.scan_index)[prepared.used][0]): prepared.mean_counts},
        modes=max(_MODES, len(anything)),
        training=TrainingConfig(seed=seed, loss=loss_for("auto", light)),
        stages=stages,
        progress=progress,
    )
    kept = [power >= _LEAST_POWER for power in mode_powers(found)]
    return normalised_probe(found[kept], 1.0)


def image_with_prior(
    backend: Backend,
    prepared: PreparedScan,
    probe: NDArray[np.complex64],
    *,
    levels: int | None = None,
    batch_size: int | None = None,
    num_workers: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[NDArray[np.complex64], list[int]]:
    """The object of all used patterns by passes with the learned prior, from coarse to fine (PRI-10, IMG-9).

    Args:
        probe: (K, N, N) of unit energy.
        levels: As the option.
        batch_size: Most patterns in a subset; default: chosen from the overlap.
        num_workers: Threads that read patterns ahead.

    Returns:
        (H, W) complex64, and the sides of the levels below full resolution.
    """
    finest = Level.of(prepared, probe, prepared.source.N, batch_size)
    photons = prepared.mean_counts * len(prepared.used)
    light = photons_per_pixel(illumination(probe, finest.sites), photons)
    prior, schedule = Prior("network", photons=photons, photons_per_px=light), finest_prior_passes(light)
    sides = coarse_sides(probe, levels=levels, photons_per_px=math.inf)
    below = [Level.of(prepared, probe, side, batch_size) for side in sides]
    coarse_steps = sum(PRIOR_PASSES.passes * len(level.subsets) for level in below)
    total = coarse_steps + schedule.passes * len(finest.subsets)
    start = None
    if below:
        reported = continued(progress, 0, total)
        object_ = object_from_levels(
            backend,
            prepared,
            below,
            PRIOR_PASSES,
            num_workers=num_workers,
            device=device,
            prior=prior,
            progress=reported,
        )
        start, prior = lifted(object_, below[-1], finest), replace(prior, first_sigma=SIGMA_FROM_OBJECT)
    else:
        schedule = PRIOR_PASSES
        total = schedule.passes * len(finest.subsets)
    task = finest.task(
        prepared,
        passes=schedule.passes,
        num_workers=num_workers,
        device=device,
        start=start,
        prior=prior,
        progress=continued(progress, coarse_steps, total),
    )
    with task.moduli:
        return backend.passes_on_canvas(probe, task, schedule), sides
