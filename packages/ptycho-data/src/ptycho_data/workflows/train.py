"""The workflow ``train``: calibrate the probe, train the network, write the model (specs/training.md, TRN)."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.effects import require_effects
from ptycho_contracts.records import Scan

from ptycho_data.batches import GroupBatches, common_canvas_shape, mean_counts
from ptycho_data.batches.truths import has_truth, require_truth
from ptycho_data.bundle_file import Bundle, require_same_network
from ptycho_data.checks.requirements import (
    require_canvas_memory,
    require_light,
    require_photons,
    require_sound_positions,
)
from ptycho_data.checksums import checksum_of, sha256_of
from ptycho_data.deadline import Deadline
from ptycho_data.fitting import TrainingCheckpoints, TrainingInterrupted, TrainingOutcome
from ptycho_data.fitting.probe_estimation import training_probe
from ptycho_data.fitting.training_checkpoints import WRITE_ERRORS, disk_refused, training_checkpoints
from ptycho_data.run_folder import is_first_process, run_folder
from ptycho_data.signals import Interrupted, signals_wait
from ptycho_data.stages import Progress, Stages
from ptycho_data.store import create_store
from ptycho_data.workflows.backend import Backend, Model, TrainingTask
from ptycho_data.workflows.calibration import solver
from ptycho_data.workflows.payloads import TrainingPayload
from ptycho_data.workflows.reading import ScanOrFile, combined_scan
from ptycho_data.workflows.summary import Summary, all_versions, training_summary
from ptycho_data.workflows.training_data import GroupsOfSource, synthetic_scans, training_groups, training_patterns

MODEL_NAME = "model.safetensors"
AFTER_TRAINING_PART = 0.05
"""Part of a limited time that is kept for the last validation."""


def train(
    backend: Backend,
    payload: TrainingPayload,
    *,
    validation: ScanOrFile | Sequence[ScanOrFile] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> tuple[Bundle | None, Summary]:
    """Calibrate the probe, train the network, write ``model.safetensors``.

    Args:
        backend: What computes.
        payload: From a backend's ``create_training_payload``.
        validation: Scan or file whose groups give ``val_loss``, or several; default: some training groups are kept
            for it.
        checkpoint: File that keeps the state between epochs; default: none is kept.
        resume: Resume from that file.
        deadline: When it must have ended; default: after the seconds of the options, from now.
        progress: Called as ``progress(stage, done, total)``.

    Returns:
        The trained model and the run's summary. Of several processes that train together, one writes the model and
        has it; the others have None.

    Raises:
        ContractError: data that cannot be trained on as asked, options that the backend cannot follow, another run that
            writes into the folder, or a checkpoint of another run.
        MissingFileError: no checkpoint to resume from.
        WorkFailedError: a fit diverged, or the disk is full; then the weights are kept elsewhere.
        Interrupted: Ctrl-C or SIGTERM, and there is a checkpoint; without one the model is written as it is.
    """
    execution, seconds = payload.execution_config, payload.pt_training_config.max_seconds
    until = Deadline(seconds) if deadline is None else deadline
    alone = is_first_process(execution.devices * execution.num_nodes)
    with run_folder(payload.output_dir, ("train",)) if alone else nullcontext():
        return _trained(backend, payload, validation, checkpoint, resume, until, progress)


def _trained(
    backend: Backend,
    payload: TrainingPayload,
    validation: ScanOrFile | Sequence[ScanOrFile] | None,
    checkpoint: Path | None,
    resume: bool,
    until: Deadline,
    progress: Progress | None,
) -> tuple[Bundle | None, Summary]:
    training, execution = payload.pt_training_config, payload.execution_config
    device = backend.device(execution, training=True)
    sections = (payload.pt_data_config, payload.pt_model_config, training, execution)
    require_effects("train", payload.overrides_applied, sections, validation=validation is not None)
    reading = {
        name: entry["value"] for name, entry in payload.overrides_applied.items() if entry["source"] == "explicit"
    }
    validation_scan = None if validation is None else combined_scan(validation, reading)
    require_light(payload.scan)
    for scan in (payload.scan, *([] if validation_scan is None else [validation_scan])):
        require_sound_positions(scan)
    earlier = None if training.start_from is None else _earlier(backend, payload, Path(training.start_from))
    stages = Stages(progress=progress)
    payload.output_dir.mkdir(parents=True, exist_ok=True)  # the process that holds the folder may be on another machine
    with stages.measure("store"):
        source = create_store(payload.output_dir / "store", payload.scan, progress=progress)
    used, held = training_patterns(source, payload.pt_data_config, training, payload.hold_out)
    means = mean_counts(source, allowed=used)
    require_photons(means)
    if training.supervised_weight and not training.synthetic:
        require_truth(source, used)
    checkpoints = training_checkpoints(
        checkpoint,
        resume=resume,
        enabled=execution.enable_checkpointing,
        settings=(payload.pt_data_config, payload.pt_model_config, training, execution),
        facts=lambda: {
            "backend": backend.name,
            "device": device,
            "versions": all_versions(backend.versions()),
            "patterns": _digest(payload.scan),
            "used": sha256_of(used),
            "validation": None if validation_scan is None else _digest(validation_scan),
            "start": None if earlier is None else sha256_of(*earlier.weight_arrays().values()),
        },
    )

    def given_probe() -> tuple[NDArray[np.complex64], Summary]:
        return training_probe(
            solver(backend, device),
            payload.scan,
            source,
            used,
            means,
            modes=payload.pt_model_config.modes,
            training=training,
            stages=stages,
            deadline=until,
            progress=progress,
        )

    probe, probe_results = given_probe() if checkpoints is None else checkpoints.probe(given_probe)
    learned, learned_from, learned_means = source, used, means
    if training.synthetic:
        with stages.measure("simulation"):
            simulated = synthetic_scans(payload.scan, probe, used, means, training)
            learned = create_store(payload.output_dir / "synthetic", simulated, progress=progress)
        learned_from, learned_means = np.arange(len(learned)), mean_counts(learned)
    with stages.measure("grouping"):
        parts = training_groups(learned, learned_from, payload.pt_data_config, training, learned_means, validation_scan)
    groups, validating = (_batches(part, supervised=training.supervised_weight > 0) for part in parts)
    shape = common_canvas_shape(groups, validating)
    require_canvas_memory(shape, where="training: groups", count=training.batch_size)
    task = TrainingTask(
        checkpoints=checkpoints,
        config=payload.pt_model_config,
        probe=probe,
        groups=groups,
        validation=validating,
        training=training,
        execution=execution,
        output_dir=payload.output_dir,
        device=device,
        start=earlier,
        deadline=until.keeping(AFTER_TRAINING_PART * (training.max_seconds or 0.0)),
    )
    with stages.measure("training"):
        model, outcome = _fitted(backend, task, progress)
    summary = training_summary(
        payload,
        outcome,
        stages,
        versions=all_versions(backend.versions()),
        used=len(used),
        held_out=len(held),
        groups=(len(groups), len(validating)),
        mean_counts=means,
        probe=probe_results,
        parameters=sum(int(np.size(weight)) for weight in model.weight_arrays().values()),
    )
    summary["shortened"] = until.shortened
    if not outcome.is_first_rank:
        return None, summary
    bundle = Bundle(model, float(np.mean(list(means.values()))), summary)
    _save(backend, payload.output_dir / MODEL_NAME, bundle, checkpoints)
    return bundle, summary


def _fitted(backend: Backend, task: TrainingTask, progress: Progress | None) -> tuple[Any, TrainingOutcome]:
    """The trained model. A signal ends the fit after its present step; a full disk loses nothing that was kept."""
    kept = task.checkpoints
    with signals_wait() as signals:
        try:
            model, outcome = backend.fit(replace(task, signals=signals), progress=progress)
        except TrainingInterrupted:
            raise Interrupted(signals.number or signal.SIGTERM, str(kept)) from None
        except WRITE_ERRORS as error:
            if kept is None:
                raise
            raise disk_refused(task.output_dir, error, f"free space; {kept}") from error
        if kept is None:  # the model is what is kept
            signals.number = 0
        elif signals.number:
            raise Interrupted(signals.number, str(kept))
    return model, outcome


def _save(backend: Backend, path: Path, bundle: Bundle, checkpoints: TrainingCheckpoints | None) -> None:
    """Write the model. If the disk is full, its weights are in the checkpoint, or written elsewhere."""
    try:
        backend.save(path, bundle)
    except WRITE_ERRORS as error:
        if checkpoints is not None:
            raise disk_refused(path, error, f"free space; {checkpoints}") from error
        rescue = Path(tempfile.mkdtemp(prefix="ptycho-")) / path.name
        try:
            backend.save(rescue, bundle)
        except WRITE_ERRORS:
            raise error from None
        raise disk_refused(path, error, f"the model is {rescue}; move it before that folder is cleared") from error


def _digest(scan: Scan) -> str:
    """Checksum of the patterns and of all that goes with them, whatever file they are from."""
    patterns = np.frombuffer((scan.unit + checksum_of(scan.measurements)).encode(), np.uint8)
    return sha256_of(patterns, scan.positions_px, scan.scan_index, scan.bad_pixels, scan.probe)


def _earlier(backend: Backend, payload: TrainingPayload, path: Path) -> Model:
    """The model that training starts from; its network must be the one that is asked for."""
    model: Model = backend.load(path).model
    require_same_network(path, model.config, payload.pt_model_config)
    return model


def _batches(part: GroupsOfSource, *, supervised: bool) -> GroupBatches:
    source, groups, means = part
    truth = supervised and has_truth(source, groups.nn_indices.ravel())
    return GroupBatches(source, groups, mean_counts=means, truth=truth)
