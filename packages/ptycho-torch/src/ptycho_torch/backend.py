"""What the commands call: train, infer and reconstruct, from payloads to results with their summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.config import DataConfig, ExecutionConfig, ReconstructionConfig, Section, to_dict
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Groups, Reconstruction, Scan
from ptycho_data.batches import PatternSource, mean_counts
from ptycho_data.files import read_scan
from ptycho_data.geometry import CanvasGeometry, canvas_geometry
from ptycho_data.grouping import group
from ptycho_data.probes import in_gauge, mode_powers, orthogonal_modes, overlap, with_modes
from ptycho_data.selection import held_out_indices, subsample_indices, used_indices
from ptycho_data.simulate import scans_like
from ptycho_data.store import Store, create_store

from ptycho_torch.bundle import Bundle, load_bundle, save_bundle
from ptycho_torch.calibration import CALIBRATION_PATTERNS, calibrate, central, find_probe
from ptycho_torch.config_factory import (
    InferencePayload,
    TrainingPayload,
    create_inference_payload,
    create_training_payload,
)
from ptycho_torch.descent import JointFit, joint_descent
from ptycho_torch.devices import pick_device, threads
from ptycho_torch.evaluation import far_field_residual
from ptycho_torch.inference import ScanView, image_by_groups, image_on_canvas, require_one_scan
from ptycho_torch.loader import GroupDataset, subset
from ptycho_torch.model import PtychoModel
from ptycho_torch.physics import illumination, place_scan

__all__ = ["create_inference_payload", "create_training_payload", "infer", "reconstruct", "train"]

Progress = Callable[[str, int, int], None]
Summary = dict[str, Any]

MODEL_NAME = "model.safetensors"
POSITION_STEP_PX, POSITION_MARGIN_PX = 0.1, 8
"""Adam step of positions that are corrected, and the room that the canvas has for them on each side."""
BACKGROUND_STEP = 0.02
"""Adam step of a background's square root, in units of the root mean intensity of a pixel."""


@dataclass
class Stages:
    """Wall and CPU seconds of each stage of a run."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str, *, cpu_threads: int | None = None) -> Iterator[None]:
        """Add the time of a with-block to a stage, and run it with so many CPU threads where given."""
        wall, cpu = time.perf_counter(), time.process_time()
        with threads(cpu_threads or torch.get_num_threads()):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - wall
        self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + time.process_time() - cpu


def train(
    payload: TrainingPayload, *, validation_files: Sequence[Path] = (), progress: Progress | None = None
) -> Summary:
    """Calibrate the probe, train the network, write ``model.safetensors``; returns the run's summary.

    Args:
        payload: From :func:`create_training_payload`.
        validation_files: Scans whose groups give ``val_loss``; without any, some training groups are kept for it.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        ContractError: data that cannot be trained on as asked.
        WorkFailedError: a fit diverged.
    """
    from ptycho_torch.training import fit  # Lightning takes a second to import, and only training needs it

    training, execution = payload.pt_training_config, payload.execution_config
    device = pick_device(execution)
    _require_light(payload.scan)
    stages = Stages()
    payload.output_dir.mkdir(parents=True, exist_ok=True)
    with stages.measure("store"):
        source = create_store(payload.output_dir / "store", payload.scan, progress=progress)
    held = held_out_indices(training.hold_out, len(source), training.seed)
    used = used_indices(held, len(source))
    data = payload.pt_data_config
    if data.subsample is not None:
        used = subsample_indices(len(source), count=data.subsample, seed=training.seed, sequential=data.sequential,
                                 scan_index=source.scan_index, allowed=used)  # fmt: skip
    gauges = mean_counts(source, allowed=used)
    _require_photons(gauges)
    earlier = None if training.start_from is None else _earlier(payload, Path(training.start_from))
    probe, found = _probe(payload, source, used, gauges, device, stages, progress)
    learned, learned_from = source, used
    learned_gauges = gauges
    if training.synthetic:
        with stages.measure("simulation"):
            learned = _synthetic(payload, probe, used, gauges, progress)
        learned_from, learned_gauges = np.arange(len(learned)), mean_counts(learned)
    with stages.measure("grouping"):
        kept, validation = _training_groups(payload, learned, learned_from, learned_gauges, validation_files)
    # Weights and every other random choice come from the seed; the caller's generators stay as they are.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(training.seed)  # torch.manual_seed would reseed GPUs too
        model = PtychoModel(payload.pt_model_config, probe)
        if earlier is not None:
            model.network.load_state_dict(earlier.model.network.state_dict())
        with stages.measure("training"):
            outcome = fit(
                model, kept, validation, training=training, execution=execution,
                output_dir=payload.output_dir, progress=progress,
            )  # fmt: skip
    summary = _common(payload, stages, outcome.device, payload.pt_training_config) | {
        "patterns": {"used": len(used), "held_out": len(held)},
        "groups": {"training": len(kept), "validation": len(validation)},
        "mean_counts": {str(scan): value for scan, value in gauges.items()},
        "measurement": payload.scan.metadata.get("measurement"),
        "probe": found,
        "first_rank": outcome.is_first_rank,
        "parameters": sum(weight.numel() for weight in model.network.parameters()),
        "training": {"epochs": outcome.epochs, "steps": outcome.steps, "stopped_by": outcome.stopped_by,
                     "losses": dict(outcome.losses), "flat_loss": outcome.flat_loss, "collapsed": outcome.collapsed},
        "patterns_per_cpu_second": _rate(outcome.steps * training.batch_size * execution.accum_steps
                                         * payload.pt_data_config.C, stages, "training"),
    }  # fmt: skip
    if outcome.is_first_rank:
        provenance = {name: value for name, value in summary.items() if name != "first_rank"}
        bundle = Bundle(model, float(np.mean(list(gauges.values()))), provenance)
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
    view, held = _view(
        payload.scan, config.hold_out, config.seed, margin_px=POSITION_MARGIN_PX if config.correct_positions else 0
    )
    own = payload.scan.probe
    if config.probe_source == "file":
        fitting = with_modes(_require_probe(payload.scan, "infer --probe-source file"), payload.pt_model_config.modes)
        model.probe = torch.from_numpy(in_gauge(fitting, 1.0))
    reading: dict[str, Any] = {
        "batch_size": payload.execution_config.inference_batch_size,
        "num_workers": payload.execution_config.num_workers,
        "progress": progress,
    }
    model.to(device)
    assembly = _assembly(payload)
    with stages.measure("imaging", cpu_threads=1):
        if assembly == "canvas":
            object_ = image_on_canvas(model, view, **reading)
        else:
            groups = _imaging_groups(payload, view)
            object_ = image_by_groups(model, view, groups, **reading)
    rate = _rate(len(view.used), stages, "imaging")
    probe = model.probe.cpu().numpy()
    network_residual = _residuals(view, held, object_, probe)
    summary: Summary = {"assembly": assembly, "network": network_residual}
    background = None
    if config.refine:
        with stages.measure("refinement", cpu_threads=1):
            fit = joint_descent(
                view.source, view.placement, probe, indices=view.used, mean_counts=view.mean_counts,
                epochs=config.refine, object_start=object_, device=device, progress=progress, stage="refinement",
                **_descent_options(ReconstructionConfig(
                    seed=config.seed, correct_positions=config.correct_positions, fit_background=config.fit_background
                )),
            )  # fmt: skip
        object_, probe = fit.object, fit.probe
        view, fitted = _after(view, fit)
        summary |= fitted
        background = fit.background
    with stages.measure("residuals", cpu_threads=1):
        residuals = _residuals(view, held, object_, probe, background)
    summary = _common(payload, stages, str(device), config) | summary | {
        "patterns": {"used": len(view.used), "held_out": len(held)},
        "mean_counts": view.mean_counts,
        "mean_counts_of_training": payload.bundle.mean_counts,
        "measurement": payload.scan.metadata.get("measurement"),
        "probe": {"source": config.probe_source, "mode_powers": mode_powers(probe),
                  "overlap_with_file": None if own is None else overlap(probe, own)},
        "patterns_per_cpu_second": rate,
        **residuals,
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
    _require_light(scan)
    device = pick_device(execution_config)
    stages = Stages()
    view, held = _view(
        scan, config.hold_out, config.seed, margin_px=POSITION_MARGIN_PX if config.correct_positions else 0
    )
    start, search = scan.probe, None
    if start is None:
        start, search = _found_probe(view.source, view.positions_px, view.used, view.mean_counts, config, device,
                                     stages, progress)  # fmt: skip
    with stages.measure("descent", cpu_threads=1):
        fit = joint_descent(
            view.source, view.placement, with_modes(start, config.modes), indices=view.used,
            mean_counts=view.mean_counts, epochs=config.epochs, max_seconds=config.max_seconds, device=device,
            progress=progress, **_descent_options(config),
        )  # fmt: skip
    view, fitted = _after(view, fit)
    with stages.measure("residuals", cpu_threads=1):
        residuals = _residuals(view, held, fit.object, fit.probe, fit.background)
    summary = {
        "settings": {"reconstruction": to_dict(config), "execution": to_dict(execution_config)},
        "versions": _versions(),
        "seed": config.seed,
        "device": str(device),
        "seconds": stages.seconds,
        "cpu_seconds": stages.cpu_seconds,
        "patterns": {"used": len(view.used), "held_out": len(held)},
        "mean_counts": view.mean_counts,
        "measurement": scan.metadata.get("measurement"),
        "probe": {
            "mode_powers": mode_powers(fit.probe),
            "search": search,
            "overlap_with_file": None if scan.probe is None else overlap(fit.probe, scan.probe),
        },
        "epochs": len(fit.losses),
        **fitted,
        "patterns_per_cpu_second": _rate(len(view.used) * len(fit.losses), stages, "descent"),
        **residuals,
    }
    return _reconstruction(view, fit.object, fit.probe), summary


def _synthetic(
    payload: TrainingPayload,
    probe: NDArray[np.complex64],
    used: NDArray[np.int64],
    gauges: dict[int, float],
    progress: Progress | None,
) -> Store:
    """A store of simulated objects under the first scan's probe, at its positions, with its dose."""
    scan, training = payload.scan, payload.pt_training_config
    mine = used[scan.scan_index[used] == scan.scan_index[used][0]]
    mine = central(scan.positions_px, mine, CALIBRATION_PATTERNS)
    simulated = scans_like(
        scan.positions_px[mine], probe, count=training.synthetic, seed=training.seed,
        photons_per_pattern=gauges[int(scan.scan_index[mine][0])],
    )  # fmt: skip
    return create_store(payload.output_dir / "synthetic", simulated, progress=progress)


def _earlier(payload: TrainingPayload, path: Path) -> Bundle:
    """The bundle that training starts from; its network must be the one that is asked for."""
    bundle = load_bundle(path)
    given, wanted = to_dict(bundle.model.config), to_dict(payload.pt_model_config)
    names = ["architecture", "iterations", "width"]
    given["gridsize"], wanted["gridsize"] = bundle.model.config.gridsize, payload.pt_model_config.gridsize
    names += ["gridsize"] if wanted["architecture"] == "cnn" else []
    problems = [
        Problem(f"{path}: {name}", "bundle.other_network", str(wanted[name]), str(given[name]),
                f"train with {name} {given[name]} too, or start anew")
        for name in names if given[name] != wanted[name]
    ]  # fmt: skip
    if problems:
        raise ContractError(problems)
    return bundle


def _training_groups(
    payload: TrainingPayload,
    source: PatternSource,
    used: NDArray[np.int64],
    gauges: dict[int, float],
    validation_files: Sequence[Path],
) -> tuple[GroupDataset, GroupDataset]:
    data, training = payload.pt_data_config, payload.pt_training_config
    groups = source.groups(  # type: ignore[attr-defined]
        n_groups=data.n_groups, oversampling=data.oversampling, seed=training.seed, allowed=used,
        **_grouping_options(data),
    )  # fmt: skip
    if validation_files:
        scan = read_scan(Path(validation_files[0]), measurement=data.measurement)
        if scan.N != data.N:
            raise ContractError(
                Problem(str(validation_files[0]), "scan.size", f"patterns of {data.N} x {data.N}",
                        f"{scan.N} x {scan.N}", "validate on patterns of the training's size")
            )  # fmt: skip
        theirs = group(scan.positions_px, seed=training.seed, scan_index=scan.scan_index, **_grouping_options(data))
        return (
            GroupDataset(source, groups, mean_counts=gauges),
            GroupDataset(scan, theirs, mean_counts=mean_counts(scan)),
        )
    count = max(1, round(training.val_fraction * len(groups)))
    if training.val_fraction == 0 or count >= len(groups):
        raise ContractError(
            Problem("training.val_fraction", "training.no_validation", "at least one group to train on and one for "
                    "val_loss", f"val_fraction {training.val_fraction:g} of {len(groups)} groups",
                    "raise n_groups or val_fraction, or give a validation file")
        )  # fmt: skip
    order = np.random.default_rng(training.seed).permutation(len(groups))
    return (
        GroupDataset(source, subset(groups, np.sort(order[count:])), mean_counts=gauges),
        GroupDataset(source, subset(groups, np.sort(order[:count])), mean_counts=gauges),
    )


def _probe(
    payload: TrainingPayload,
    source: PatternSource,
    used: NDArray[np.int64],
    gauges: dict[int, float],
    device: torch.device,
    stages: Stages,
    progress: Progress | None,
) -> tuple[NDArray[np.complex64], Summary]:
    """The probe to train with: given, calibrated on the first scan, or found where the file has none."""
    training, scan = payload.pt_training_config, payload.scan
    scans = scan.scan_index[used]
    mine, gauge = used[scans == scans[0]], gauges[int(scans[0])]
    options = ReconstructionConfig(epochs=training.calibration_epochs, seed=training.seed, loss=training.loss)
    found: Summary = {}
    start = scan.probe
    if start is None:
        start, found["search"] = _found_probe(source, scan.positions_px, mine, gauge, options, device, stages, progress)
    probe = with_modes(start, payload.pt_model_config.modes)
    calibrates = training.calibrate_probe
    if calibrates is None:
        calibrates = scan.probe is None or scan.probe_kind == "guess"
    found["calibrated"] = calibrates
    if calibrates:
        with stages.measure("calibration", cpu_threads=1):
            probe, fit = calibrate(source, scan.positions_px, probe, indices=mine, mean_counts=gauge, config=options,
                                   device=device, progress=progress)  # fmt: skip
        found |= {"epochs": len(fit.losses), "losses": list(fit.losses)}
    found["overlap_with_given"] = None if scan.probe is None else overlap(probe, scan.probe)
    found["mode_powers"] = mode_powers(probe)
    return probe, found


def _found_probe(
    source: PatternSource,
    positions_px: NDArray[np.float64],
    indices: NDArray[np.int64],
    gauge: float,
    config: ReconstructionConfig,
    device: torch.device,
    stages: Stages,
    progress: Progress | None,
) -> tuple[NDArray[np.complex64], Summary]:
    with stages.measure("probe search", cpu_threads=1):
        return find_probe(source, positions_px, indices=indices, mean_counts=gauge, config=config, device=device,
                          progress=progress)  # fmt: skip


def _view(scan: Scan, hold_out: str | None, seed: int, *, margin_px: int = 0) -> tuple[ScanView, NDArray[np.int64]]:
    require_one_scan(scan.scan_index, where=str(scan.metadata.get("source", "Scan")))
    held = held_out_indices(hold_out, len(scan), seed)
    used = used_indices(held, len(scan))
    gauges = mean_counts(scan, allowed=used)
    _require_photons(gauges)
    least = canvas_geometry(scan.positions_px, scan.N)
    height, width = least.shape
    geometry = CanvasGeometry(least.origin_yx_px - margin_px, (height + 2 * margin_px, width + 2 * margin_px))
    placement = place_scan(scan.positions_px, geometry, scan.N)
    return ScanView(scan, scan.positions_px, geometry, placement, used, next(iter(gauges.values()))), held


def _assembly(payload: InferencePayload[Bundle]) -> str:
    wanted, able = payload.pt_inference_config.assembly, payload.bundle.model.network.images_whole_canvas
    if wanted == "canvas" and not able:
        raise ContractError(
            Problem("inference.assembly", "inference.assembly", "'groups' or 'auto' for this architecture",
                    f"'canvas' for '{payload.pt_model_config.architecture}'", "use --assembly groups")
        )  # fmt: skip
    return ("canvas" if able else "groups") if wanted == "auto" else wanted


def _imaging_groups(payload: InferencePayload[Bundle], view: ScanView) -> Groups:
    data = payload.pt_data_config
    return group(view.positions_px, n_groups=data.n_groups, oversampling=data.oversampling,
                 seed=payload.pt_inference_config.seed, allowed=view.used, **_grouping_options(data))  # fmt: skip


def _grouping_options(data: DataConfig) -> dict[str, Any]:
    return {
        "gridsize": data.gridsize,
        "neighbor_count": data.K,
        "min_distance_px": data.min_distance_px,
        "max_distance_px": data.max_distance_px,
        "sequential": data.sequential,
    }


def _after(view: ScanView, fit: JointFit) -> tuple[ScanView, Summary]:
    """The scan with its corrected positions, and what the descent found, for the summary."""
    moved = view.positions_px + fit.shifts_yx_px[:, ::-1]
    rms = float(np.sqrt((fit.shifts_yx_px[view.used] ** 2).sum(1).mean()))
    found = {
        "losses": list(fit.losses),
        "position_correction_rms_px": rms,
        "background_counts_per_pattern": float(fit.background.sum(dtype=np.float64)) * view.mean_counts,
    }
    if rms == 0:
        return view, found
    placement = place_scan(moved, view.geometry, view.source.N)
    return replace(view, positions_px=moved, placement=placement), found


def _residuals(
    view: ScanView,
    held: NDArray[np.int64],
    object_: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    background: NDArray[np.float32] | None = None,
) -> Summary:
    """R and its Poisson floor, on used and held-out patterns."""
    gauge = in_gauge(probe, view.mean_counts)
    counts = None if background is None else background * np.float32(view.mean_counts)
    used, used_floor = far_field_residual(view.source, object_, gauge, view.placement, view.used, background=counts)
    unseen, unseen_floor = far_field_residual(view.source, object_, gauge, view.placement, held, background=counts)
    return {
        "residual": {"used": used, "held_out": unseen},
        "poisson_floor": {"used": used_floor, "held_out": unseen_floor},
    }


def _reconstruction(view: ScanView, object_: NDArray[np.complex64], probe: NDArray[np.complex64]) -> Reconstruction:
    gauge = in_gauge(orthogonal_modes(probe), view.mean_counts)
    with torch.no_grad():
        weight = illumination(torch.from_numpy(gauge), view.placement[torch.from_numpy(view.used)]).numpy()
    return Reconstruction(
        object=object_.astype(np.complex64),
        origin_yx_px=view.geometry.origin_yx_px,
        weight=weight.astype(np.float32),
        probe=gauge,
        positions_px=view.positions_px,
    )


def _descent_options(config: ReconstructionConfig) -> dict[str, Any]:
    names = ("batch_size", "object_learning_rate", "probe_learning_rate", "loss", "seed")
    return {name: getattr(config, name) for name in names} | {
        "position_learning_rate": POSITION_STEP_PX if config.correct_positions else 0.0,
        "background_learning_rate": BACKGROUND_STEP if config.fit_background else 0.0,
    }


def _common(payload: TrainingPayload | InferencePayload[Bundle], stages: Stages, device: str, own: Section) -> Summary:
    sections = (payload.pt_data_config, payload.pt_model_config, own, payload.execution_config)
    return {
        "settings": {section.section: to_dict(section) for section in sections},
        "overrides_applied": {name: dict(entry) for name, entry in payload.overrides_applied.items()},
        "versions": _versions(),
        "seed": own.seed,  # type: ignore[attr-defined]
        "device": device,
        "seconds": stages.seconds,
        "cpu_seconds": stages.cpu_seconds,
    }


def _rate(patterns: int, stages: Stages, stage: str) -> float | None:
    cpu = stages.cpu_seconds.get(stage, 0.0)
    return patterns / cpu if cpu > 0 else None


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("ptycho-contracts", "ptycho-data", "ptycho-torch", "torch", "numpy")}


def _require_probe(scan: Scan, command: str) -> NDArray[np.complex64]:
    if scan.probe is None:
        raise ContractError(
            Problem(str(scan.metadata.get("source", "Scan")), "scan.no_probe", f"a probe, for {command}: 'probeGuess' "
                    "of shape (N, N) or (modes, N, N)", "none", "add a measured or modelled probe to the file")
        )  # fmt: skip
    _require_light(scan)
    return scan.probe


def _require_light(scan: Scan) -> None:
    if scan.probe is not None and not np.any(scan.probe):
        raise ContractError(
            Problem(str(scan.metadata.get("source", "Scan")), "scan.dark_probe", "a probe with light", "zeros",
                    "give a measured or modelled probe, or none: it is then found from the patterns")
        )  # fmt: skip


def _require_photons(gauges: dict[int, float]) -> None:
    dark = [scan for scan, counts in gauges.items() if not counts > 0]
    if dark:
        raise ContractError(
            Problem("measurements", "scan.no_photons", "photons in the patterns that are used",
                    f"none in scan {dark}", "check the file with inspect")
        )  # fmt: skip
