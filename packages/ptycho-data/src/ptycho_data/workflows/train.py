"""The workflow ``train``: calibrate the probe, train the network, write the model (specs/training.md, TRN)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ptycho_contracts.effects import require_effects

from ptycho_data.batches import GroupBatches, common_canvas_shape, mean_counts
from ptycho_data.batches.truths import has_truth, require_truth
from ptycho_data.bundle_file import Bundle, require_same_network
from ptycho_data.checks.requirements import require_canvas_memory, require_light, require_no_outliers, require_photons
from ptycho_data.fitting.probe_estimation import training_probe
from ptycho_data.stages import Progress, Stages
from ptycho_data.store import create_store
from ptycho_data.workflows.backend import Backend, Model, TrainingTask
from ptycho_data.workflows.calibration import solver
from ptycho_data.workflows.payloads import TrainingPayload
from ptycho_data.workflows.reading import ScanOrFile, combined_scan
from ptycho_data.workflows.summary import Summary, all_versions, training_summary
from ptycho_data.workflows.training_data import GroupsOfSource, synthetic_scans, training_groups, training_patterns

MODEL_NAME = "model.safetensors"


def train(
    backend: Backend,
    payload: TrainingPayload,
    *,
    validation: ScanOrFile | Sequence[ScanOrFile] | None = None,
    progress: Progress | None = None,
) -> tuple[Bundle | None, Summary]:
    """Calibrate the probe, train the network, write ``model.safetensors``.

    Args:
        backend: What computes.
        payload: From a backend's ``create_training_payload``.
        validation: Scan or file whose groups give ``val_loss``, or several; default: some training groups are kept
            for it.
        progress: Called as ``progress(stage, done, total)``.

    Returns:
        The trained model and the run's summary. Of several processes that train together, one writes the model and
        has it; the others have None.

    Raises:
        ContractError: data that cannot be trained on as asked, or options that the backend cannot follow.
        WorkFailedError: a fit diverged.
    """
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
        require_no_outliers(scan)
    earlier = None if training.start_from is None else _earlier(backend, payload, Path(training.start_from))
    stages = Stages()
    payload.output_dir.mkdir(parents=True, exist_ok=True)
    with stages.measure("store"):
        source = create_store(payload.output_dir / "store", payload.scan, progress=progress)
    used, held = training_patterns(source, payload.pt_data_config, training, payload.hold_out)
    means = mean_counts(source, allowed=used)
    require_photons(means)
    if training.supervised_weight and not training.synthetic:
        require_truth(source, used)
    probe, probe_results = training_probe(
        solver(backend, device),
        payload.scan,
        source,
        used,
        means,
        modes=payload.pt_model_config.modes,
        training=training,
        stages=stages,
        progress=progress,
    )
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
        config=payload.pt_model_config,
        probe=probe,
        groups=groups,
        validation=validating,
        training=training,
        execution=execution,
        output_dir=payload.output_dir,
        device=device,
        start=earlier,
    )
    with stages.measure("training"):
        model, outcome = backend.fit(task, progress=progress)
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
    if not outcome.is_first_rank:
        return None, summary
    bundle = Bundle(model, float(np.mean(list(means.values()))), summary)
    backend.save(payload.output_dir / MODEL_NAME, bundle)
    return bundle, summary


def _earlier(backend: Backend, payload: TrainingPayload, path: Path) -> Model:
    """The model that training starts from; its network must be the one that is asked for."""
    model: Model = backend.load(path).model
    require_same_network(path, model.config, payload.pt_model_config)
    return model


def _batches(part: GroupsOfSource, *, supervised: bool) -> GroupBatches:
    source, groups, means = part
    truth = supervised and has_truth(source, groups.nn_indices.ravel())
    return GroupBatches(source, groups, mean_counts=means, truth=truth)
