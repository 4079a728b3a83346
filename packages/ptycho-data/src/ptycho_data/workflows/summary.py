"""The summary of a run, with the same keys for every backend (specs/cli.md, CLI-22).

Settings, versions, times, residuals, and the outcome of a training, an inference or a joint reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig, Section
from ptycho_contracts.effects import settings_read
from ptycho_contracts.records import Scan

from ptycho_data.checks.far_field import fresnel_number
from ptycho_data.deadline import Deadline
from ptycho_data.files import geometry_of
from ptycho_data.fitting import FarFieldResidual, JointFit, TrainingOutcome
from ptycho_data.fitting.probes import mode_powers, overlap
from ptycho_data.metrics import residual_map
from ptycho_data.stages import Stages
from ptycho_data.workflows.payloads import InferencePayload, TrainingPayload
from ptycho_data.workflows.prepared_scan import PreparedScan

Summary = dict[str, Any]
Residual = Callable[[NDArray[np.int64]], FarFieldResidual]
"""Indices of patterns to their residual."""


def training_summary(
    payload: TrainingPayload,
    outcome: TrainingOutcome,
    stages: Stages,
    *,
    versions: Mapping[str, str],
    used: int,
    held_out: int,
    groups: tuple[int, int],
    mean_counts: Mapping[int, float],
    probe: Summary,
    parameters: int,
) -> Summary:
    """Of a training.

    Args:
        versions: Of all that computed.
        used, held_out: Numbers of patterns.
        groups: Numbers of groups that were trained on, and that gave ``val_loss``.
        mean_counts: By scan, of the used patterns.
        probe: From :func:`ptycho_data.fitting.probe_estimation.training_probe`.
        parameters: Number of the network's.
    """
    seen = outcome.steps * payload.pt_training_config.batch_size * payload.execution_config.accum_steps
    names = (
        "epochs",
        "steps",
        "stopped_by",
        "uniform_loss",
        "collapsed",
        "patch_variance",
        "restarts",
        "restart_reason",
        "interrupted_by",
    )
    return _of_payload(payload, payload.pt_training_config, stages, outcome.device, versions) | {
        "patterns": {"used": used, "held_out": held_out},
        "groups": dict(zip(("training", "validation"), groups, strict=True)),
        "mean_counts": {str(scan): value for scan, value in mean_counts.items()},
        "measurement": payload.scan.metadata.get("measurement"),
        "probe": probe,
        "parameters": parameters,
        "training": {name: getattr(outcome, name) for name in names} | {"losses": dict(outcome.losses)},
        "patterns_per_cpu_second": stages.rate(seen * payload.pt_data_config.C, "training"),
    }


def inference_summary(
    payload: InferencePayload,
    prepared: PreparedScan,
    probe: NDArray[np.complex64],
    stages: Stages,
    *,
    versions: Mapping[str, str],
    device: str,
    results: Summary,
) -> Summary:
    """Of an inference with a network.

    Args:
        prepared: The scan that was inferred.
        probe: (K, N, N), of the final image.
        versions: Of all that computed.
        results: ``assembly``, residuals of the network's image as ``network``, those of the final one, and the
            outcome of a refinement.
    """
    config, own = payload.pt_inference_config, payload.scan.probe
    return (
        _of_payload(payload, config, stages, device, versions)
        | _of_scan(prepared, payload.scan)
        | {
            "mean_counts_of_training": payload.bundle.mean_counts,
            "training_collapsed": records_collapse(payload.bundle.provenance),
            "probe": {
                "source": "scan" if "pretrained" in results else config.probe_source,
                "mode_powers": mode_powers(probe),
                "overlap_with_file": None if own is None else overlap(probe, own),
            },
            "patterns_per_cpu_second": stages.rate(len(prepared.used), "inference"),
            **results,
        }
    )


def reconstruction_summary(
    scan: Scan,
    prepared: PreparedScan,
    fit: JointFit,
    stages: Stages,
    *,
    config: ReconstructionConfig,
    execution: ExecutionConfig,
    versions: Mapping[str, str],
    device: str,
    fitted: int,
    search: Summary | None,
    results: Summary,
) -> Summary:
    """Of a joint reconstruction without a network.

    Args:
        scan: What was read.
        prepared: The scan as it was fitted.
        versions: Of all that computed.
        fitted: Number of patterns that were fitted.
        search: From :func:`ptycho_data.fitting.probe_estimation.find_probe`, if the scan has no probe.
        results: From :func:`after_joint_fit` and :func:`residuals`.
    """
    epochs = len(fit.losses)
    return (
        common_summary("reconstruct", (config, execution), config.seed, stages, device, versions)
        | _of_scan(prepared, scan)
        | {
            "probe": {
                "mode_powers": mode_powers(fit.probe),
                "search": search,
                "overlap_with_file": None if scan.probe is None else overlap(fit.probe, scan.probe),
            },
            "epochs": epochs,
            "patterns_per_cpu_second": stages.rate(
                fitted * (epochs - fit.history.resumed_from_epoch), "reconstruction"
            ),
            **results,
        }
    )


def common_summary(
    command: str, sections: Sequence[Section], seed: int, stages: Stages, device: str, versions: Mapping[str, str]
) -> Summary:
    """What every summary holds.

    Args:
        command: Whose settings they are: train, infer or reconstruct.
        sections: Of the configuration, in their order; what the command does not read is left out.
        versions: Of all that computed.
    """
    return {
        "settings": settings_read(command, sections),
        "versions": dict(versions),
        "seed": seed,
        "device": device,
        "seconds": stages.seconds,
        "cpu_seconds": stages.cpu_seconds,
    }


def all_versions(of_backend: Mapping[str, str]) -> dict[str, str]:
    """Versions of a backend's distributions, and of those that every backend depends on."""
    shared = {name: version(name) for name in ("ptycho-contracts", "ptycho-data")}
    return {**shared, **of_backend, "numpy": version("numpy")}


def residuals(
    prepared: PreparedScan, residual: Residual, *, by_place: bool = False, deadline: Deadline | None = None
) -> Summary:
    """R and its Poisson floor, on used and held-out patterns, from a function of indices.

    Args:
        by_place: Also R of the used patterns by place (MET-19).
        deadline: When it must have ended; fewer patterns, spread evenly, are compared for that.
    """
    until = deadline or Deadline()
    both = len(prepared.used) + len(prepared.held_out)
    count = until.affordable(both, lambda few: residual(spread(prepared.used, few)))
    chosen, others = (
        part if count >= both else spread(part, math.ceil(len(part) * count / both))
        for part in (prepared.used, prepared.held_out)
    )
    compared = len(chosen) + len(others)
    if compared < both:
        until.note(f"residual: of {compared} of {both} patterns, spread evenly")
    used, unseen = residual(chosen), residual(others)
    where = prepared.positions_px[chosen]
    found = {"residual_map": residual_map(where, used.squares, used.counts).to_dict()} if by_place else {}
    return found | {
        "residual": {"used": used.value, "held_out": unseen.value},
        "poisson_floor": {"used": used.floor, "held_out": unseen.floor},
    }


def spread(indices: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """So many of the indices, spread evenly over them in their order.

    >>> spread(np.arange(10), 4).tolist()
    [0, 3, 6, 9]
    """
    return indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(np.int64)]


def after_joint_fit(prepared: PreparedScan, fit: JointFit, fitted: NDArray[np.int64]) -> tuple[PreparedScan, Summary]:
    """The scan with its corrected positions, and the outcome of a joint fit, for the summary.

    Args:
        prepared: The scan before.
        fit: Outcome of the joint reconstruction.
        fitted: Patterns that were fitted; the other used ones validated.
    """
    shifts_yx_px, history = fit.shifts_yx_px, fit.history
    rms = float(np.sqrt((shifts_yx_px[fitted] ** 2).sum(1).mean()))
    validation = {
        "patterns": len(prepared.used) - len(fitted),
        "losses": list(history.val_losses),
        "best_epoch": history.best_epoch,
    }
    results = {
        "losses": list(fit.losses),
        "stopped_by": history.stopped_by,
        "validation": validation if history.val_losses else None,
        "resumed_from_epoch": history.resumed_from_epoch,
        "checkpoints_written": history.checkpoints_written,
        "position_correction_rms_px": rms,
        "background_counts_per_pattern": float(fit.background.sum(dtype=np.float64)) * prepared.mean_counts,
    }
    moved = prepared.positions_px + shifts_yx_px[:, ::-1]
    return (prepared if rms == 0 else replace(prepared, positions_px=moved)), results


def records_collapse(provenance: Mapping[str, Any]) -> bool:
    """Whether a bundle's provenance, or a training's summary, says that the training collapsed."""
    training = provenance.get("training")
    return isinstance(training, Mapping) and bool(training.get("collapsed"))


def _of_payload(
    payload: TrainingPayload | InferencePayload, own: Any, stages: Stages, device: str, versions: Mapping[str, str]
) -> Summary:
    sections = (payload.pt_data_config, payload.pt_model_config, own, payload.execution_config)
    command = "train" if isinstance(payload, TrainingPayload) else "infer"
    summary = common_summary(command, sections, own.seed, stages, device, versions)
    return summary | {"overrides_applied": {name: dict(entry) for name, entry in payload.overrides_applied.items()}}


def _of_scan(prepared: PreparedScan, scan: Scan) -> Summary:
    number = fresnel_number(scan)
    return {
        "patterns": {"used": len(prepared.used), "held_out": len(prepared.held_out)},
        "mean_counts": prepared.mean_counts,
        "measurement": scan.metadata.get("measurement"),
        "object_pixel_size_m": prepared.pixel_size_m,
        "geometry": geometry_of(scan),
        "fresnel_number": number if number is not None and np.isfinite(number) else None,
    }
