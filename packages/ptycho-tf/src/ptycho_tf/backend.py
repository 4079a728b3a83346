"""What the commands call: train, infer and reconstruct, from payloads to results with their summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig, to_dict
from ptycho_contracts.records import Reconstruction
from ptycho_data.batches.gathering import mean_counts
from ptycho_data.batches.truths import has_truth, require_truth
from ptycho_data.bundle_file import NETWORK, require_same_network
from ptycho_data.checks.requirements import require_light, require_photons, require_probe
from ptycho_data.files import read_scan
from ptycho_data.fitting.checkpoints import run_checkpoints
from ptycho_data.fitting.loop import sha256_of
from ptycho_data.fitting.probe_estimation import find_probe, training_probe
from ptycho_data.fitting.probes import in_gauge, orthogonal_modes, with_modes
from ptycho_data.grouping.selection import validation_indices
from ptycho_data.stages import Progress, Stages
from ptycho_data.store.stores import create_store
from ptycho_data.workflows.options import descent_options
from ptycho_data.workflows.prepared_scan import ScanView, assembly_of, imaging_groups, scan_view
from ptycho_data.workflows.summary import (
    Summary,
    after_descent,
    descent_summary,
    imaging_summary,
    residuals,
    training_summary,
    versions,
)
from ptycho_data.workflows.training_data import synthetic_scans, training_groups, training_patterns

from ptycho_tf.bundle import Bundle, load_bundle, save_bundle
from ptycho_tf.calibration import descend, judge
from ptycho_tf.config_factory import (
    InferencePayload,
    TrainingPayload,
    create_inference_payload,
    create_training_payload,
)
from ptycho_tf.descent import TENSOR_FILES, joint_descent
from ptycho_tf.devices import on_device, pick_device
from ptycho_tf.evaluation import view_residual
from ptycho_tf.framework import tf
from ptycho_tf.inference import image_by_groups, image_on_canvas
from ptycho_tf.layers import fresh, put_weights
from ptycho_tf.loader import GroupDataset
from ptycho_tf.model import PtychoModel
from ptycho_tf.physics import illumination, place_scan

__all__ = ["create_inference_payload", "create_training_payload", "infer", "reconstruct", "train"]

MODEL_NAME = "model.safetensors"


def train(
    payload: TrainingPayload, *, validation_files: Sequence[Path] = (), progress: Progress | None = None
) -> Summary:
    """Calibrate the probe, train the network, write ``model.safetensors``; returns the run's summary.

    Args:
        payload: From :func:`create_training_payload`.
        validation_files: Scans whose groups give ``val_loss``; without any, some training groups are kept for it.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        ContractError: data that cannot be trained on as asked, or options that TensorFlow cannot follow.
        WorkFailedError: a fit diverged.
    """
    from ptycho_tf.replicas import prepare_devices, require_possible
    from ptycho_tf.training import fit

    training, execution = payload.pt_training_config, payload.execution_config
    require_possible(execution)
    prepare_devices(execution)
    device = pick_device(execution)
    require_light(payload.scan)
    earlier = None if training.start_from is None else _earlier(payload, Path(training.start_from))
    stages = Stages()
    payload.output_dir.mkdir(parents=True, exist_ok=True)
    with stages.measure("store"):
        source = create_store(payload.output_dir / "store", payload.scan, progress=progress)
    used, held = training_patterns(source, payload.pt_data_config, training)
    gauges = mean_counts(source, allowed=used)
    require_photons(gauges)
    if training.supervised_weight and not training.synthetic:
        require_truth(source, used)
    probe, found = training_probe(
        partial(descend, device),
        partial(judge, device),
        payload.scan,
        source,
        used,
        gauges,
        modes=payload.pt_model_config.modes,
        training=training,
        stages=stages,
        progress=progress,
    )
    learned, learned_from, learned_gauges = source, used, gauges
    if training.synthetic:
        with stages.measure("simulation"):
            simulated = synthetic_scans(payload.scan, probe, used, gauges, training)
            learned = create_store(payload.output_dir / "synthetic", simulated, progress=progress)
        learned_from, learned_gauges = np.arange(len(learned)), mean_counts(learned)
    with stages.measure("grouping"):
        parts = training_groups(
            learned, learned_from, payload.pt_data_config, training, learned_gauges, validation_files
        )
    supervised = training.supervised_weight > 0
    kept, validation = (
        GroupDataset(
            origin, groups, mean_counts=means, truth=supervised and has_truth(origin, groups.nn_indices.ravel())
        )
        for origin, groups, means in parts
    )
    with on_device(device):
        model = PtychoModel(payload.pt_model_config, probe, make=fresh(training.seed, "float32"))
        if earlier is not None:
            put_weights(model.network, {name: value.numpy() for name, value in earlier.model.weights.items()}, NETWORK)
    with stages.measure("training"):
        outcome = fit(
            model,
            kept,
            validation,
            training=training,
            execution=execution,
            output_dir=payload.output_dir,
            device=device,
            progress=progress,
        )
    summary = training_summary(
        payload,
        outcome,
        stages,
        packages=_packages(),
        used=len(used),
        held_out=len(held),
        groups=(len(kept), len(validation)),
        mean_counts=gauges,
        probe=found,
        parameters=sum(int(np.prod(variable.shape)) for variable in model.weights.values()),
    )
    bundle = Bundle(model, float(np.mean(list(gauges.values()))), summary)
    save_bundle(payload.output_dir / MODEL_NAME, bundle)
    return summary


def infer(
    payload: InferencePayload[Bundle],
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[Reconstruction, Summary]:
    """Image a scan with a trained model, and refine the image where that was asked for.

    Args:
        payload: From :func:`create_inference_payload`.
        checkpoint: File that keeps the state of the refinement between epochs; none is kept where not given.
        resume: Go on from that file.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        ContractError: several scans in one file, a network that cannot image as asked, or a checkpoint that is none
            of this run.
        MissingFileError: no checkpoint to go on from.
        WorkFailedError: a refinement diverged.
    """
    config, model = payload.pt_inference_config, payload.bundle.model
    device = pick_device(payload.execution_config)
    stages = Stages()
    view = scan_view(payload.scan, config.hold_out, config.seed, correct_positions=config.correct_positions)
    fitted, judges = validation_indices(view.used, config.val_fraction, config.seed)
    checkpoints = run_checkpoints(
        checkpoint if config.refine else None,
        TENSOR_FILES,
        resume=resume,
        backend="tf",
        device=device,
        enabled=payload.execution_config.enable_checkpointing,
        versions=versions(_packages()),
        settings=[to_dict(section) for section in (payload.pt_data_config, payload.pt_model_config, config)],
        model=sha256_of(*(value.numpy() for value in model.weights.values())),
    )
    if config.probe_source == "file":
        given = require_probe(payload.scan, "infer --probe-source file")
        model.probe = tf.constant(in_gauge(with_modes(given, payload.pt_model_config.modes), 1.0))
    options: dict[str, Any] = {
        "batch_size": payload.execution_config.inference_batch_size,
        "device": device,
        "progress": progress,
        "num_workers": payload.execution_config.num_workers,
    }
    assembly = assembly_of(config.assembly, payload.pt_model_config.architecture, model.network.images_whole_canvas)
    with stages.measure("imaging"):
        if assembly == "canvas":
            object_ = image_on_canvas(model, view, **options)
        else:
            groups = imaging_groups(view, payload.pt_data_config, config.seed)
            object_ = image_by_groups(model, view, groups, **options)
    probe = model.probe.numpy()
    found: Summary = {"assembly": assembly, "network": residuals(view, view_residual(view, object_, probe, device))}
    background = None
    if config.refine:
        with stages.measure("refinement"):
            fit = joint_descent(
                view.source,
                _placement(view),
                probe,
                indices=fitted,
                mean_counts=view.mean_counts,
                epochs=config.refine,
                object_start=object_,
                device=device,
                progress=progress,
                stage="refinement",
                validation=judges,
                patience=payload.execution_config.early_stop_patience,
                checkpoints=checkpoints,
                **descent_options(
                    ReconstructionConfig(
                        seed=config.seed,
                        correct_positions=config.correct_positions,
                        fit_background=config.fit_background,
                    )
                ),
            )
        object_, probe, background = fit.object, fit.probe, fit.background
        view, went = after_descent(view, fit, fitted)
        found |= went
    with stages.measure("residuals"):
        found |= residuals(view, view_residual(view, object_, probe, device, background))
    summary = imaging_summary(payload, view, probe, stages, packages=_packages(), device=device, found=found)
    return _reconstruction(view, object_, probe), summary


def reconstruct(
    data_file: Path,
    *,
    config: ReconstructionConfig,
    execution_config: ExecutionConfig,
    measurement: str = "auto",
    nphotons: float | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[Reconstruction, Summary]:
    """Joint descent on object and probe from empty space and the file's probe; no network.

    Args:
        data_file: One scan.
        config, execution_config, measurement, nphotons: Options of the descent, the device and the reading.
        checkpoint: File that keeps the state of the descent between epochs; none is kept where not given.
        resume: Go on from that file.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        ContractError: bad data, several scans in one file, or a checkpoint that is none of this run.
        MissingFileError: no checkpoint to go on from.
        WorkFailedError: the descent diverged.
    """
    scan = read_scan(Path(data_file), measurement=measurement, nphotons=nphotons)
    require_light(scan)
    device = pick_device(execution_config)
    stages = Stages()
    view = scan_view(scan, config.hold_out, config.seed, correct_positions=config.correct_positions)
    fitted, judges = validation_indices(view.used, config.val_fraction, config.seed)
    checkpoints = run_checkpoints(
        checkpoint,
        TENSOR_FILES,
        resume=resume,
        backend="tf",
        device=device,
        enabled=execution_config.enable_checkpointing,
        versions=versions(_packages()),
        settings=[to_dict(config), {"measurement": measurement, "nphotons": nphotons}],
    )
    start, search = scan.probe, None
    if start is None:
        with stages.measure("probe search"):
            start, search = find_probe(
                partial(descend, device),
                view.source,
                view.positions_px,
                indices=view.used,
                mean_counts=view.mean_counts,
                config=config,
                progress=progress,
            )
    with stages.measure("descent"):
        fit = joint_descent(
            view.source,
            _placement(view),
            with_modes(start, config.modes),
            indices=fitted,
            mean_counts=view.mean_counts,
            epochs=config.epochs,
            max_seconds=config.max_seconds,
            device=device,
            validation=judges,
            patience=execution_config.early_stop_patience,
            checkpoints=checkpoints,
            progress=progress,
            **descent_options(config),
        )
    view, went = after_descent(view, fit, fitted)
    with stages.measure("residuals"):
        went |= residuals(view, view_residual(view, fit.object, fit.probe, device, fit.background))
    summary = descent_summary(
        scan,
        view,
        fit,
        stages,
        config=config,
        execution=execution_config,
        packages=_packages(),
        device=device,
        fitted=len(fitted),
        search=search,
        found=went,
    )
    # Only what was fitted was seen: patterns that judged light no pixel of the object.
    return _reconstruction(replace(view, used=fitted), fit.object, fit.probe), summary


def _earlier(payload: TrainingPayload, path: Path) -> Bundle:
    """The bundle that training starts from; its network must be the one that is asked for."""
    bundle = load_bundle(path)
    require_same_network(path, bundle.model.config, payload.pt_model_config)
    return bundle


def _placement(view: ScanView) -> Any:
    return place_scan(view.positions_px, view.geometry, view.source.N)


def _reconstruction(view: ScanView, object_: NDArray[np.complex64], probe: NDArray[np.complex64]) -> Reconstruction:
    gauge = in_gauge(orthogonal_modes(probe), view.mean_counts)
    weight = tf.function(illumination, autograph=False)(tf.constant(gauge), _placement(view)[view.used]).numpy()
    return Reconstruction(
        object=object_.astype(np.complex64),
        origin_yx_px=view.geometry.origin_yx_px,
        weight=weight.astype(np.float32),
        probe=gauge,
        positions_px=view.positions_px,
    )


def _packages() -> tuple[str, ...]:
    """Distributions of this backend; TensorFlow comes in several."""
    from importlib.metadata import packages_distributions

    return ("ptycho-tf", *sorted(set(packages_distributions()["tensorflow"])), "keras")
