"""What the commands call: train, infer and reconstruct, from payloads to results with their summary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig, Section
from ptycho_contracts.records import Reconstruction
from ptycho_data.batches import PatternSource, mean_counts
from ptycho_data.files import read_scan
from ptycho_data.geometry import canvas_geometry
from ptycho_data.probes import in_gauge, mode_powers, orthogonal_modes, overlap, with_modes
from ptycho_data.store import create_store

from ptycho_tf.bundle import Bundle, load_bundle, save_bundle
from ptycho_tf.calibration import Descend, calibrate, find_probe
from ptycho_tf.config_factory import (
    InferencePayload,
    TrainingPayload,
    create_inference_payload,
    create_training_payload,
)
from ptycho_tf.descent import JointFit, joint_descent
from ptycho_tf.devices import on_device, pick_device
from ptycho_tf.evaluation import far_field_residual
from ptycho_tf.framework import tf
from ptycho_tf.inference import image_by_groups, image_on_canvas
from ptycho_tf.layers import fresh, put_weights
from ptycho_tf.loader import GroupDataset
from ptycho_tf.model import PtychoModel
from ptycho_tf.physics import illumination, place_scan
from ptycho_tf.runs import (
    Progress,
    ScanView,
    Stages,
    Summary,
    after_descent,
    assembly_of,
    common_summary,
    descent_options,
    imaging_groups,
    require_light,
    require_photons,
    require_probe,
    require_same_network,
    residuals,
    scan_view,
    synthetic_scans,
    training_groups,
    training_patterns,
)

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
    from ptycho_tf.training import fit, require_possible

    training, execution = payload.pt_training_config, payload.execution_config
    require_possible(execution)
    device = pick_device(execution)
    require_light(payload.scan)
    stages = Stages()
    payload.output_dir.mkdir(parents=True, exist_ok=True)
    with stages.measure("store"):
        source = create_store(payload.output_dir / "store", payload.scan, progress=progress)
    used, held = training_patterns(source, payload.pt_data_config, training)
    gauges = mean_counts(source, allowed=used)
    require_photons(gauges)
    earlier = None if training.start_from is None else _earlier(payload, Path(training.start_from))
    probe, found = _probe(payload, source, used, gauges, stages, partial(_descend, device), progress)
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
    kept, validation = (GroupDataset(origin, groups, mean_counts=means) for origin, groups, means in parts)
    with on_device(device):
        model = PtychoModel(payload.pt_model_config, probe, make=fresh(training.seed, "float32"))
        if earlier is not None:
            put_weights(
                model.network, {name: value.numpy() for name, value in earlier.model.weights.items()}, "network."
            )
    with stages.measure("training"):
        outcome = fit(
            model, kept, validation, training=training, execution=execution, output_dir=payload.output_dir,
            device=device, progress=progress,
        )  # fmt: skip
    summary = _common(payload, stages, outcome.device, payload.pt_training_config) | {
        "patterns": {"used": len(used), "held_out": len(held)},
        "groups": {"training": len(kept), "validation": len(validation)},
        "mean_counts": {str(scan): value for scan, value in gauges.items()},
        "measurement": payload.scan.metadata.get("measurement"),
        "probe": found,
        "parameters": sum(int(np.prod(variable.shape)) for variable in model.weights.values()),
        "training": {"epochs": outcome.epochs, "steps": outcome.steps, "stopped_by": outcome.stopped_by,
                     "losses": dict(outcome.losses), "flat_loss": outcome.flat_loss, "collapsed": outcome.collapsed},
        "patterns_per_cpu_second": stages.rate(outcome.steps * training.batch_size * execution.accum_steps
                                               * payload.pt_data_config.C, "training"),
    }  # fmt: skip
    bundle = Bundle(model, float(np.mean(list(gauges.values()))), summary)
    save_bundle(payload.output_dir / MODEL_NAME, bundle)
    return summary


def infer(payload: InferencePayload[Bundle], *, progress: Progress | None = None) -> tuple[Reconstruction, Summary]:
    """Image a scan with a trained model, and refine the image where that was asked for.

    Raises:
        ContractError: several scans in one file, or a network that cannot image as asked.
        WorkFailedError: a refinement diverged.
    """
    config, model = payload.pt_inference_config, payload.bundle.model
    device = pick_device(payload.execution_config)
    stages = Stages()
    view = scan_view(payload.scan, config.hold_out, config.seed, correct_positions=config.correct_positions)
    own = payload.scan.probe
    if config.probe_source == "file":
        given = require_probe(payload.scan, "infer --probe-source file")
        model.probe = tf.constant(in_gauge(with_modes(given, payload.pt_model_config.modes), 1.0))
    options: dict[str, Any] = {
        "batch_size": payload.execution_config.inference_batch_size, "device": device, "progress": progress,
        "num_workers": payload.execution_config.num_workers,
    }  # fmt: skip
    assembly = assembly_of(config.assembly, payload.pt_model_config.architecture, model.network.images_whole_canvas)
    with stages.measure("imaging"):
        if assembly == "canvas":
            object_ = image_on_canvas(model, view, **options)
        else:
            groups = imaging_groups(view, payload.pt_data_config, config.seed)
            object_ = image_by_groups(model, view, groups, **options)
    rate = stages.rate(len(view.used), "imaging")
    probe = model.probe.numpy()
    summary: Summary = {"assembly": assembly, "network": residuals(view, _residual(view, object_, probe, device))}
    background = None
    if config.refine:
        with stages.measure("refinement"):
            fit = joint_descent(
                view.source, _placement(view), probe, indices=view.used, mean_counts=view.mean_counts,
                epochs=config.refine, object_start=object_, device=device, progress=progress, stage="refinement",
                **descent_options(ReconstructionConfig(
                    seed=config.seed, correct_positions=config.correct_positions, fit_background=config.fit_background
                )),
            )  # fmt: skip
        object_, probe, background = fit.object, fit.probe, fit.background
        view, fitted = after_descent(view, fit.losses, fit.shifts_yx_px, fit.background)
        summary |= fitted
    with stages.measure("residuals"):
        found = residuals(view, _residual(view, object_, probe, device, background))
    summary = _common(payload, stages, device, config) | summary | {
        "patterns": {"used": len(view.used), "held_out": len(view.held_out)},
        "mean_counts": view.mean_counts,
        "mean_counts_of_training": payload.bundle.mean_counts,
        "measurement": payload.scan.metadata.get("measurement"),
        "probe": {"source": config.probe_source, "mode_powers": mode_powers(probe),
                  "overlap_with_file": None if own is None else overlap(probe, own)},
        "patterns_per_cpu_second": rate,
        **found,
    }  # fmt: skip
    return _reconstruction(view, object_, probe), summary


def reconstruct(
    data_file: Path,
    *,
    config: ReconstructionConfig,
    execution_config: ExecutionConfig,
    measurement: str = "auto",
    nphotons: float | None = None,
    progress: Progress | None = None,
) -> tuple[Reconstruction, Summary]:
    """Joint descent on object and probe from empty space and the file's probe; no network.

    Raises:
        ContractError: bad data, several scans in one file, no probe.
        WorkFailedError: the descent diverged.
    """
    scan = read_scan(Path(data_file), measurement=measurement, nphotons=nphotons)
    require_light(scan)
    device = pick_device(execution_config)
    stages = Stages()
    view = scan_view(scan, config.hold_out, config.seed, correct_positions=config.correct_positions)
    start, search = scan.probe, None
    if start is None:
        with stages.measure("probe search"):
            start, search = find_probe(
                partial(_descend, device), view.source, view.positions_px, indices=view.used,
                mean_counts=view.mean_counts, config=config, progress=progress,
            )  # fmt: skip
    with stages.measure("descent"):
        fit = joint_descent(
            view.source, _placement(view), with_modes(start, config.modes), indices=view.used,
            mean_counts=view.mean_counts, epochs=config.epochs, max_seconds=config.max_seconds, device=device,
            progress=progress, **descent_options(config),
        )  # fmt: skip
    view, fitted = after_descent(view, fit.losses, fit.shifts_yx_px, fit.background)
    with stages.measure("residuals"):
        found = residuals(view, _residual(view, fit.object, fit.probe, device, fit.background))
    summary = common_summary((config, execution_config), config.seed, stages, device, _packages()) | {
        "patterns": {"used": len(view.used), "held_out": len(view.held_out)},
        "mean_counts": view.mean_counts,
        "measurement": scan.metadata.get("measurement"),
        "probe": {
            "mode_powers": mode_powers(fit.probe),
            "search": search,
            "overlap_with_file": None if scan.probe is None else overlap(fit.probe, scan.probe),
        },
        "epochs": len(fit.losses),
        **fitted,
        "patterns_per_cpu_second": stages.rate(len(view.used) * len(fit.losses), "descent"),
        **found,
    }
    return _reconstruction(view, fit.object, fit.probe), summary


def _earlier(payload: TrainingPayload, path: Path) -> Bundle:
    """The bundle that training starts from; its network must be the one that is asked for."""
    bundle = load_bundle(path)
    require_same_network(path, bundle.model.config, payload.pt_model_config)
    return bundle


def _descend(
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
    sites = place_scan(positions_px, canvas_geometry(positions_px, source.N), source.N)
    return joint_descent(source, sites, probe, indices=np.arange(len(source)), mean_counts=mean_counts,
                         epochs=config.epochs, device=device, progress=progress, stage=stage,
                         **descent_options(config))  # fmt: skip


def _probe(
    payload: TrainingPayload,
    source: PatternSource,
    used: NDArray[np.int64],
    gauges: dict[int, float],
    stages: Stages,
    descend: Descend,
    progress: Progress | None,
) -> tuple[NDArray[np.complex64], Summary]:
    """The probe to train with: given, calibrated on the first scan, or found where the file has none."""
    training, scan = payload.pt_training_config, payload.scan
    scans = scan.scan_index[used]
    first: dict[str, Any] = {
        "indices": used[scans == scans[0]], "mean_counts": gauges[int(scans[0])], "progress": progress,
        "config": ReconstructionConfig(epochs=training.calibration_epochs, seed=training.seed, loss=training.loss),
    }  # fmt: skip
    found: Summary = {}
    start = scan.probe
    if start is None:
        with stages.measure("probe search"):
            start, found["search"] = find_probe(descend, source, scan.positions_px, **first)
    probe = with_modes(start, payload.pt_model_config.modes)
    calibrates = training.calibrate_probe
    if calibrates is None:
        calibrates = scan.probe is None or scan.probe_kind == "guess"
    found["calibrated"] = calibrates
    if calibrates:
        with stages.measure("calibration"):
            fit = calibrate(descend, source, scan.positions_px, probe, **first)
        probe = fit.probe
        found |= {"epochs": len(fit.losses), "losses": list(fit.losses)}
    found["overlap_with_given"] = None if scan.probe is None else overlap(probe, scan.probe)
    found["mode_powers"] = mode_powers(probe)
    return probe, found


def _placement(view: ScanView) -> Any:
    return place_scan(view.positions_px, view.geometry, view.source.N)


def _residual(
    view: ScanView,
    object_: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    device: str,
    background: NDArray[np.float32] | None = None,
) -> Any:
    """Function of indices to their residual and its floor."""
    counts = None if background is None else background * np.float32(view.mean_counts)

    def residual(indices: NDArray[np.int64]) -> tuple[float | None, float | None]:
        with on_device(device):
            gauge, sites = in_gauge(probe, view.mean_counts), _placement(view)
            return far_field_residual(view.source, object_, gauge, sites, indices, background=counts)

    return residual


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


def _common(payload: TrainingPayload | InferencePayload[Bundle], stages: Stages, device: str, own: Section) -> Summary:
    sections = (payload.pt_data_config, payload.pt_model_config, own, payload.execution_config)
    summary = common_summary(sections, own.seed, stages, device, _packages())  # type: ignore[attr-defined]
    return summary | {"overrides_applied": {name: dict(entry) for name, entry in payload.overrides_applied.items()}}


def _packages() -> tuple[str, ...]:
    """Distributions of this backend; TensorFlow comes in several."""
    from importlib.metadata import packages_distributions

    return ("ptycho-tf", *sorted(set(packages_distributions()["tensorflow"])), "keras")
