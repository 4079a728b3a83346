"""What a run says of itself, with the same keys whichever backend ran it (specs/cli.md, CLI-22).

Settings, versions, times, residuals, and what a training, an image or a joint descent came to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig, Section, to_dict
from ptycho_contracts.records import Scan

from ptycho_data.fitting.collapse import told_collapsed
from ptycho_data.fitting.loop import JointFit
from ptycho_data.fitting.probes import mode_powers, overlap
from ptycho_data.stages import Stages
from ptycho_data.workflows.payloads import InferencePayload, TrainingPayload
from ptycho_data.workflows.prepared_scan import ScanView

Summary = dict[str, Any]
Residual = Callable[[NDArray[np.int64]], tuple[float | None, float | None]]
"""Indices of patterns to their residual and its Poisson floor; None for no patterns."""


class Outcome(Protocol):
    """What a training came to, as its backend tells it."""

    @property
    def epochs(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def losses(self) -> Mapping[str, float]: ...
    @property
    def device(self) -> str: ...
    @property
    def stopped_by(self) -> str: ...
    @property
    def flat_loss(self) -> float: ...
    @property
    def collapsed(self) -> bool: ...
    @property
    def patch_variance(self) -> float: ...
    @property
    def restarts(self) -> int: ...
    @property
    def restart_reason(self) -> str | None: ...


def training_summary(
    payload: TrainingPayload,
    outcome: Outcome,
    stages: Stages,
    *,
    packages: Sequence[str],
    used: int,
    held_out: int,
    groups: tuple[int, int],
    mean_counts: Mapping[int, float],
    probe: Summary,
    parameters: int,
) -> Summary:
    """Of a training.

    Args:
        packages: Distributions of the backend.
        used, held_out: Numbers of patterns.
        groups: Numbers of groups that were trained on, and that gave ``val_loss``.
        mean_counts: By scan, of the used patterns.
        probe: From :func:`ptycho_data.fitting.probe_estimation.training_probe`.
        parameters: Number of the network's.
    """
    seen = outcome.steps * payload.pt_training_config.batch_size * payload.execution_config.accum_steps
    names = ("epochs", "steps", "stopped_by", "flat_loss", "collapsed", "patch_variance", "restarts", "restart_reason")
    return _of_payload(payload, payload.pt_training_config, stages, outcome.device, packages) | {
        "patterns": {"used": used, "held_out": held_out},
        "groups": dict(zip(("training", "validation"), groups, strict=True)),
        "mean_counts": {str(scan): value for scan, value in mean_counts.items()},
        "measurement": payload.scan.metadata.get("measurement"),
        "probe": probe,
        "parameters": parameters,
        "training": {name: getattr(outcome, name) for name in names} | {"losses": dict(outcome.losses)},
        "patterns_per_cpu_second": stages.rate(seen * payload.pt_data_config.C, "training"),
    }


def imaging_summary(
    payload: InferencePayload[Any],
    view: ScanView,
    probe: NDArray[np.complex64],
    stages: Stages,
    *,
    packages: Sequence[str],
    device: str,
    found: Summary,
) -> Summary:
    """Of imaging with a network.

    Args:
        view: The scan that was imaged.
        probe: (K, N, N), what it was imaged with in the end.
        packages: Distributions of the backend.
        found: ``assembly``, residuals of the network's image as ``network``, those of the final one, and what a
            refinement found.
    """
    config, own = payload.pt_inference_config, payload.scan.probe
    return (
        _of_payload(payload, config, stages, device, packages)
        | _of_view(view, payload.scan)
        | {
            "mean_counts_of_training": payload.bundle.mean_counts,
            "training_collapsed": told_collapsed(payload.bundle.provenance),
            "probe": {
                "source": config.probe_source,
                "mode_powers": mode_powers(probe),
                "overlap_with_file": None if own is None else overlap(probe, own),
            },
            "patterns_per_cpu_second": stages.rate(len(view.used), "imaging"),
            **found,
        }
    )


def descent_summary(
    scan: Scan,
    view: ScanView,
    fit: JointFit,
    stages: Stages,
    *,
    config: ReconstructionConfig,
    execution: ExecutionConfig,
    packages: Sequence[str],
    device: str,
    fitted: int,
    search: Summary | None,
    found: Summary,
) -> Summary:
    """Of a joint descent without a network.

    Args:
        scan: What was read.
        view: The scan as it was fitted.
        packages: Distributions of the backend.
        fitted: Number of patterns that were fitted.
        search: From :func:`ptycho_data.fitting.probe_estimation.find_probe`, where the scan has no probe.
        found: From :func:`after_descent` and :func:`residuals`.
    """
    epochs = len(fit.losses)
    return (
        common_summary((config, execution), config.seed, stages, device, packages)
        | _of_view(view, scan)
        | {
            "probe": {
                "mode_powers": mode_powers(fit.probe),
                "search": search,
                "overlap_with_file": None if scan.probe is None else overlap(fit.probe, scan.probe),
            },
            "epochs": epochs,
            "patterns_per_cpu_second": stages.rate(fitted * (epochs - fit.course.resumed_from_epoch), "descent"),
            **found,
        }
    )


def common_summary(
    sections: Sequence[Section], seed: int, stages: Stages, device: str, packages: Sequence[str]
) -> Summary:
    """What every run says of itself.

    Args:
        sections: Of the configuration, in their order.
        packages: Distributions of the backend, whose versions are told.
    """
    return {
        "settings": {section.section: to_dict(section) for section in sections},
        "versions": versions(packages),
        "seed": seed,
        "device": device,
        "seconds": stages.seconds,
        "cpu_seconds": stages.cpu_seconds,
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of a backend's distributions, and of what every backend stands on."""
    return {name: version(name) for name in ("ptycho-contracts", "ptycho-data", *packages, "numpy")}


def residuals(view: ScanView, residual: Residual) -> Summary:
    """R and its Poisson floor, on used and held-out patterns, from a function of indices."""
    used, used_floor = residual(view.used)
    unseen, unseen_floor = residual(view.held_out)
    return {
        "residual": {"used": used, "held_out": unseen},
        "poisson_floor": {"used": used_floor, "held_out": unseen_floor},
    }


def after_descent(view: ScanView, fit: JointFit, fitted: NDArray[np.int64]) -> tuple[ScanView, Summary]:
    """The scan with its corrected positions, and what a descent found and how it went, for the summary.

    Args:
        view: The scan before.
        fit: Outcome of the descent.
        fitted: Patterns that were fitted; the other used ones judged.
    """
    shifts_yx_px, course = fit.shifts_yx_px, fit.course
    rms = float(np.sqrt((shifts_yx_px[fitted] ** 2).sum(1).mean()))
    judged = {
        "patterns": len(view.used) - len(fitted),
        "losses": list(course.val_losses),
        "best_epoch": course.best_epoch,
    }
    found = {
        "losses": list(fit.losses),
        "stopped_by": course.stopped_by,
        "validation": judged if course.val_losses else None,
        "resumed_from_epoch": course.resumed_from_epoch,
        "checkpoints_written": course.checkpoints_written,
        "position_correction_rms_px": rms,
        "background_counts_per_pattern": float(fit.background.sum(dtype=np.float64)) * view.mean_counts,
    }
    moved = view.positions_px + shifts_yx_px[:, ::-1]
    return (view if rms == 0 else replace(view, positions_px=moved)), found


def _of_payload(
    payload: TrainingPayload | InferencePayload[Any], own: Section, stages: Stages, device: str, packages: Sequence[str]
) -> Summary:
    sections = (payload.pt_data_config, payload.pt_model_config, own, payload.execution_config)
    summary = common_summary(sections, own.seed, stages, device, packages)  # type: ignore[attr-defined]
    return summary | {"overrides_applied": {name: dict(entry) for name, entry in payload.overrides_applied.items()}}


def _of_view(view: ScanView, scan: Scan) -> Summary:
    return {
        "patterns": {"used": len(view.used), "held_out": len(view.held_out)},
        "mean_counts": view.mean_counts,
        "measurement": scan.metadata.get("measurement"),
    }
