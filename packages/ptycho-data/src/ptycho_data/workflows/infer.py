"""The workflow ``infer``: the object of a scan by a trained network, refined if asked (specs/training.md, IMG)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ReconstructionConfig, to_dict
from ptycho_contracts.effects import require_effects
from ptycho_contracts.physics import COARSE_PASSES
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Groups, Reconstruction

from ptycho_data.batches import GroupBatches
from ptycho_data.canvas import Stitcher, coarse_sides
from ptycho_data.canvas.illumination import power_of
from ptycho_data.checks.requirements import require_probe
from ptycho_data.checksums import sha256_of
from ptycho_data.fitting.checkpoints import checkpoint_plan
from ptycho_data.fitting.probes import normalised_probe, with_modes
from ptycho_data.stages import Picture, Progress, Stages, tell
from ptycho_data.workflows.backend import Backend, Model
from ptycho_data.workflows.joint_fit import Start, guidance, guided, guided_fit
from ptycho_data.workflows.levels import Level, continued, lifted, light_of, object_from_levels
from ptycho_data.workflows.payloads import InferencePayload
from ptycho_data.workflows.prepared_scan import PreparedScan, assembly_of, inference_groups, prepare_scan
from ptycho_data.workflows.pretrained import PretrainedModel
from ptycho_data.workflows.prior_imaging import image_with_prior, probe_of
from ptycho_data.workflows.results import reconstruction_of, residual_of
from ptycho_data.workflows.summary import Summary, after_joint_fit, all_versions, inference_summary, residuals

_GROUPS_AT_ONCE = 32
_COMPARED_PATTERNS = 64
"""Most patterns on which estimates with and without a net's correction are compared (NET-12)."""


def infer(
    backend: Backend,
    payload: InferencePayload,
    *,
    validation: NDArray[np.int64] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[Reconstruction, Summary]:
    """Infer the object of a scan with a trained model, and refine it if that was asked for.

    The payload stays as it is: the same payload gives the same result again.

    Args:
        backend: What computes.
        payload: From a backend's ``create_inference_payload``.
        validation: Indices of patterns that validate the refinement; default: the fraction in the options.
        checkpoint: File that keeps the state of the refinement between epochs; default: none is kept.
        resume: Resume from that file.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        ContractError: several scans in one file, a network that cannot infer as asked, options without effect, or a
            checkpoint of another run.
        MissingFileError: no checkpoint to resume from.
        WorkFailedError: a refinement diverged.
    """
    config, execution, model = payload.pt_inference_config, payload.execution_config, payload.bundle.model
    sections = (payload.pt_data_config, config, execution)
    require_effects("infer", payload.overrides_applied, sections, validation=validation is not None)
    device = backend.device(execution)
    stages = Stages(progress=progress)
    hold_out = config.hold_out if payload.hold_out is None else payload.hold_out
    prepared = prepare_scan(payload.scan, hold_out, config.seed, correct_positions=config.correct_positions)
    versions = all_versions(backend.versions())
    plan = checkpoint_plan(
        checkpoint if config.refine else None,
        resume=resume,
        enabled=execution.enable_checkpointing,
        settings=[to_dict(section) for section in (payload.pt_data_config, payload.pt_model_config, config)],
        backend=backend.name,
        device=device,
        versions=versions,
        model=sha256_of(*model.weight_arrays().values()),
    )
    shipped = isinstance(model, PretrainedModel)
    if shipped:
        probe = probe_of(
            backend, payload.scan, prepared, seed=config.seed, stages=stages, device=device, progress=progress
        )
        model = model.with_probe(probe)
    elif config.probe_source == "file":
        given = require_probe(payload.scan, "infer with `probe_source=file`")
        model = model.with_probe(normalised_probe(with_modes(given, payload.pt_model_config.modes), 1.0))
    assembly = assembly_of(config.assembly, payload.pt_model_config.architecture, model.infers_whole_canvas)
    if shipped and assembly == "groups":
        raise ContractError(
            Problem(
                "inference.assembly",
                "inference.assembly",
                "a canvas for the model 'pretrained', which takes all patterns at once",
                "'groups'",
                "leave `assembly` out",
            )
        )
    reading: dict[str, Any] = {
        "batch_size": execution.inference_batch_size,
        "num_workers": execution.num_workers,
        "device": device,
        "progress": progress,
    }
    sides: list[int] = []
    corrected = True
    with stages.measure("inference"):
        if shipped:
            object_, sides = image_with_prior(backend, prepared, model.probe_array(), levels=config.levels, **reading)
        elif assembly == "canvas":
            sides = levels_of(prepared, model.probe_array(), config.levels)
            estimates = estimates_on_canvas(backend, model, prepared, coarse=sides, **reading)
            object_, corrected = _explaining_best(backend, prepared, estimates, model.probe_array(), device)
        else:
            groups = inference_groups(prepared, payload.pt_data_config, config.seed)
            object_ = infer_by_groups(backend, model, prepared, groups, **reading)
    probe, background = model.probe_array(), None
    of_network = residuals(prepared, residual_of(backend, prepared, object_, probe, device=device, progress=progress))
    levels = [*sides, prepared.source.N] if assembly == "canvas" else None
    results: Summary = {"assembly": assembly, "levels_px": levels, "net_corrects": corrected, "network": of_network}
    if shipped:
        results |= {"net_corrects": None, "pretrained": dict(payload.bundle.provenance)}
    if config.refine:
        names = ("seed", "correct_positions", "fit_background", "prior", "prior_weight")
        options = ReconstructionConfig(**{name: getattr(config, name) for name in names})
        guide = guided(prepared, probe, options, validation=config.val_fraction if validation is None else validation)
        begin = Start(object_, probe)
        with stages.measure("refinement"):
            fit = guided_fit(
                backend,
                prepared,
                begin,
                guide,
                epochs=config.refine,
                patience=execution.early_stop_patience,
                checkpoints=plan,
                device=device,
                progress=progress,
                stage="refinement",
            )
        object_, probe, background = fit.object, fit.probe, fit.background
        prepared, of_fit = after_joint_fit(prepared, fit, guide.fitted)
        guiding = guidance(guide, begin, fit, prepared.source.N)
        results |= of_fit | {name: guiding[name] for name in ("loss", "prior")}
    with stages.measure("residuals"):
        residual = residual_of(backend, prepared, object_, probe, background, device=device, progress=progress)
        results |= residuals(prepared, residual, by_place=True)
    summary = inference_summary(payload, prepared, probe, stages, versions=versions, device=device, results=results)
    return reconstruction_of(prepared, object_, probe, prepared.used), summary


def levels_of(prepared: PreparedScan, probe: NDArray[np.complex64], levels: int | None) -> list[int]:
    """Sides of the coarse levels that a scan is inferred at, the coarsest first (PHY-35)."""
    return coarse_sides(probe, levels=levels, photons_per_px=light_of(prepared, probe))


def _explaining_best(
    backend: Backend,
    prepared: PreparedScan,
    estimates: list[NDArray[np.complex64]],
    probe: NDArray[np.complex64],
    device: str,
) -> tuple[NDArray[np.complex64], bool]:
    """The estimate with the lowest R on used patterns, and whether it is the network's own, the last one (NET-12)."""
    if len(estimates) == 1:
        return estimates[0], True
    some = prepared.used[:: math.ceil(len(prepared.used) / _COMPARED_PATTERNS)]
    values = [residual_of(backend, prepared, estimate, probe, device=device)(some).value for estimate in estimates]
    corrected = values[-1] is not None and values[-1] <= min(value for value in values if value is not None)
    return estimates[-1 if corrected else -2], corrected


def infer_on_canvas(backend: Backend, model: Model, prepared: PreparedScan, **options: Any) -> NDArray[np.complex64]:
    """The network's own object of :func:`estimates_on_canvas`, (H, W) complex64."""
    return estimates_on_canvas(backend, model, prepared, **options)[-1]


def estimates_on_canvas(
    backend: Backend,
    model: Model,
    prepared: PreparedScan,
    *,
    coarse: Sequence[int] = (),
    batch_size: int | None = None,
    num_workers: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[NDArray[np.complex64]]:
    """All used patterns on one canvas: the network's passes over subsets of the scan (IMG-1, NET-12).

    Args:
        model: Infers a whole canvas.
        coarse: Sides of the levels below full resolution, the coarsest first; default: none.
        batch_size: Most patterns in a subset; default: chosen from the overlap.
        num_workers: Threads that read patterns ahead.

    Returns:
        (H, W) complex64, for a probe of unit energy: the network's object; with coarse levels, before it the same
        without the last net's correction.
    """
    probe, N = model.probe_array(), prepared.source.N
    below = [Level.of(prepared, probe, side, batch_size) for side in coarse]
    finest = Level.of(prepared, probe, N, batch_size)
    passes = (1 if coarse else model.config.iterations) * model.config.passes
    coarse_steps = sum(COARSE_PASSES.passes * len(level.subsets) for level in below)
    total = coarse_steps + passes * len(finest.subsets)
    reading: dict[str, Any] = {"num_workers": num_workers, "device": device}
    start = None
    if below:
        reported = continued(progress, 0, total)
        object_ = object_from_levels(backend, prepared, below, COARSE_PASSES, **reading, progress=reported)
        start = lifted(object_, below[-1], finest)
    reported = continued(progress, coarse_steps, total)
    task = finest.task(prepared, passes=passes, **reading, start=start, progress=reported)
    with task.moduli:
        return backend.infer_canvas(model, task)


def infer_by_groups(
    backend: Backend,
    model: Model,
    prepared: PreparedScan,
    groups: Groups,
    *,
    batch_size: int | None = None,
    num_workers: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.complex64]:
    """Each group on its own canvas; the patches under each position are stitched, weighted by |P|^2 (IMG-2).

    Args:
        batch_size: Most patterns at once.
        num_workers: Readers that read patterns ahead.

    Returns:
        (H, W) complex64, for a probe of unit energy; 1 where nothing was stitched.
    """
    scans = np.unique(np.asarray(prepared.source.scan_index)[prepared.used])
    batches = GroupBatches(prepared.source, groups, mean_counts={int(scan): prepared.mean_counts for scan in scans})
    at_once = _GROUPS_AT_ONCE if batch_size is None else max(1, batch_size // batches.channels)
    weight, stitcher, done = power_of(model.probe_array()), Stitcher(prepared.geometry), 0
    inferred = backend.infer_groups(model, batches, batch_size=at_once, num_workers=num_workers, device=device)
    for patches, members in inferred:
        stitcher.add(patches, prepared.positions_px[members], weight)
        done += len(members) // batches.channels
        tell(progress, "groups", done, len(groups), picture=lambda: _picture(stitcher))
    canvas, seen = stitcher.result()
    return np.where(seen > 0, canvas, np.complex64(1))


def _picture(stitcher: Stitcher) -> Picture:
    """What is stitched so far."""
    canvas, seen = stitcher.result()
    return Picture(canvas, seen)
