"""The workflow ``reconstruct``: object and probe of one scan jointly, without a network (PHY-27 to PHY-32)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig, to_dict
from ptycho_contracts.effects import changed, require_effects
from ptycho_contracts.records import Reconstruction, Scan

from ptycho_data.checks.requirements import require_light
from ptycho_data.deadline import Deadline
from ptycho_data.fitting.checkpoints import FitStart, checkpoint_plan
from ptycho_data.fitting.probe_estimation import SEARCH_PART, find_probe
from ptycho_data.fitting.probes import with_modes
from ptycho_data.grouping import HoldOut
from ptycho_data.stages import Progress, Stages
from ptycho_data.workflows.backend import Backend
from ptycho_data.workflows.calibration import solver
from ptycho_data.workflows.joint_fit import Start, guidance, guided, guided_fit, start_from_levels
from ptycho_data.workflows.prepared_scan import prepare_scan
from ptycho_data.workflows.reading import opened_scan
from ptycho_data.workflows.results import reconstruction_of, residual_of
from ptycho_data.workflows.summary import Summary, after_joint_fit, all_versions, reconstruction_summary, residuals

LEVELS_PART, RESIDUAL_PART = 0.3, 0.08
"""Parts of the time that is left for the coarse levels, and of the whole for the residual, if it is limited."""


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
    deadline: Deadline | None = None,
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
        deadline: When it must have ended; default: after the seconds of the options, from now.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        ContractError: bad data, several scans in one file, options without effect, or a checkpoint of another run.
        MissingFileError: no such file, or no checkpoint to resume from.
        WorkFailedError: the reconstruction diverged.
    """
    until = Deadline(config.max_seconds) if deadline is None else deadline
    for_residuals = RESIDUAL_PART * until.left() if until.limited else 0.0
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
    validating = config.val_fraction if validation is None else validation
    made: list[Start] = []

    def started() -> FitStart:
        start, search = scan.probe, None
        if start is None:
            with stages.measure("probe search"):
                start, search = find_probe(
                    solver(backend, device),
                    prepared.source,
                    prepared.positions_px,
                    indices=prepared.used,
                    mean_counts=prepared.mean_counts,
                    config=config,
                    deadline=until.part(SEARCH_PART),
                    progress=progress,
                )
        modes = with_modes(start, config.modes)
        with stages.measure("coarse levels"):
            begin = start_from_levels(
                backend,
                prepared,
                modes,
                guided(prepared, modes, config, validation=validating),
                exact=scan.probe if scan.probe_kind == "exact" else None,
                levels=config.levels,
                device=device,
                deadline=until.part(LEVELS_PART),
                progress=progress,
            )
        made.append(begin)
        return begin.kept(modes, search, until.shortened)

    first = started() if plan is None else plan.start(started)
    if not made:  # kept by the run that resumes here
        until.shortened.extend(first.facts.get("shortened", ()))
    guide = guided(prepared, first.probes["modes"], config, validation=validating)
    begin = made[0] if made else Start.resumed(first, prepared.sites.shape)
    with stages.measure("reconstruction"):
        fit = guided_fit(
            backend,
            prepared,
            begin,
            guide,
            epochs=config.epochs,
            max_seconds=until.keeping(for_residuals).max_seconds(),
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
        results |= residuals(prepared, residual, by_place=True, deadline=until)
        results["shortened"] = until.shortened
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
        search=first.facts["search"],
        results=results,
    )
    # Only what was fitted was seen: patterns that validate illuminate no pixel of the object.
    return reconstruction_of(prepared, fit.object, fit.probe, guide.fitted), summary
