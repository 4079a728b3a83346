"""The workflow ``reconstruct``: object and probe of one scan jointly, without a network (PHY-27 to PHY-32)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig, to_dict
from ptycho_contracts.effects import changed, require_effects
from ptycho_contracts.records import Reconstruction, Scan

from ptycho_data.checks.requirements import require_light
from ptycho_data.fitting.checkpoints import checkpoint_plan
from ptycho_data.fitting.probe_estimation import find_probe
from ptycho_data.fitting.probes import with_modes
from ptycho_data.grouping import HoldOut
from ptycho_data.stages import Progress, Stages
from ptycho_data.workflows.backend import Backend
from ptycho_data.workflows.calibration import solver
from ptycho_data.workflows.joint_fit import guidance, guided, guided_fit, start_from_levels
from ptycho_data.workflows.prepared_scan import prepare_scan
from ptycho_data.workflows.reading import opened_scan
from ptycho_data.workflows.results import reconstruction_of, residual_of
from ptycho_data.workflows.summary import Summary, after_joint_fit, all_versions, reconstruction_summary, residuals


def reconstruct(
    backend: Backend,
    scan: Scan | Path | str,
    *,
    config: ReconstructionConfig,
    execution_config: ExecutionConfig,
    hold_out: HoldOut = None,
    validation: NDArray[np.int64] | None = None,
    measurement: str = "auto",
    nphotons: float | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[Reconstruction, Summary]:
    """Joint reconstruction of object and probe from empty space and the scan's probe; no network.

    Args:
        backend: What computes.
        scan: One scan, or the path of its file.
        config, execution_config: Options of the reconstruction and of the device.
        hold_out: Indices of patterns never used, or a fraction; default: as the options say.
        validation: Indices of patterns that validate; default: the fraction in the options.
        measurement, nphotons: How a file is read.
        checkpoint: File that keeps the state between epochs; default: none is kept.
        resume: Resume from that file.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        ContractError: bad data, several scans in one file, options without effect, or a checkpoint of another run.
        MissingFileError: no such file, or no checkpoint to resume from.
        WorkFailedError: the reconstruction diverged.
    """
    sections = (config, execution_config)
    require_effects("reconstruct", changed(*sections), sections, validation=validation is not None)
    scan = opened_scan(scan, measurement=measurement, nphotons=nphotons)
    require_light(scan)
    device = backend.device(execution_config)
    stages = Stages(progress=progress)
    prepared = prepare_scan(
        scan, config.hold_out if hold_out is None else hold_out, config.seed, correct_positions=config.correct_positions
    )
    versions = all_versions(backend.versions())
    plan = checkpoint_plan(
        checkpoint,
        resume=resume,
        enabled=execution_config.enable_checkpointing,
        settings=[to_dict(config), {"measurement": measurement, "nphotons": nphotons}],
        backend=backend.name,
        device=device,
        versions=versions,
    )
    start, search = scan.probe, None
    used: dict[str, Any] = {"indices": prepared.used, "mean_counts": prepared.mean_counts}
    if start is None:
        with stages.measure("probe search"):
            start, search = find_probe(
                solver(backend, device),
                prepared.source,
                prepared.positions_px,
                **used,
                config=config,
                progress=progress,
            )
    modes = with_modes(start, config.modes)
    guide = guided(prepared, modes, config, validation=config.val_fraction if validation is None else validation)
    with stages.measure("coarse levels"):
        exact = scan.probe if scan.probe_kind == "exact" else None
        begin = start_from_levels(
            backend, prepared, modes, guide, exact=exact, levels=config.levels, device=device, progress=progress
        )
    with stages.measure("reconstruction"):
        fit = guided_fit(
            backend,
            prepared,
            begin,
            guide,
            epochs=config.epochs,
            max_seconds=config.max_seconds,
            patience=execution_config.early_stop_patience,
            checkpoints=plan,
            device=device,
            progress=progress,
        )
    prepared, results = after_joint_fit(prepared, fit, guide.fitted)
    results |= guidance(guide, begin, fit, prepared.source.N)
    with stages.measure("residuals"):
        residual = residual_of(
            backend, prepared, fit.object, fit.probe, fit.background, device=device, progress=progress
        )
        results |= residuals(prepared, residual, by_place=True)
    summary = reconstruction_summary(
        scan,
        prepared,
        fit,
        stages,
        config=config,
        execution=execution_config,
        versions=versions,
        device=device,
        fitted=len(guide.fitted),
        search=search,
        results=results,
    )
    # Only what was fitted was seen: patterns that validate illuminate no pixel of the object.
    return reconstruction_of(prepared, fit.object, fit.probe, guide.fitted), summary
