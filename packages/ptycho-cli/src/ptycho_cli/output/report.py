"""What a run leaves behind: files, pictures and ``summary.json`` (specs/cli.md, CLI-11, CLI-20 to CLI-23)."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_cli.output.checkpoints import discard_checkpoint
from ptycho_cli.output.publish import digests, staged, write_json

if TYPE_CHECKING:
    from ptycho_contracts.records import Reconstruction
    from ptycho_data.workflows.evaluate import Evaluation

Summary = dict[str, Any]

SUMMARY, EVALUATION = "summary.json", "evaluation.json"
"""The files that say which results belong together."""

MODEL_NAME = "model.safetensors"
MODEL_FILES = (SUMMARY, MODEL_NAME)
"""Names that a training's results may have."""
IMAGE_FILES = (SUMMARY, "object.npz", "amplitude.png", "phase.png", "coverage.png", "probe.png", "losses.png")
"""Names that an image's results may have."""
EVALUATION_FILES = (EVALUATION, "comparison.png", "frc.png", "convergence.png", "prior.png")
"""Names that an evaluation's results may have."""

_SUITE = tuple(f"ptycho-{name}" for name in ("cli", "contracts", "data", "torch", "tf"))
_PACKAGES = (*_SUITE, "numpy", "scipy", "torch", "lightning")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that shape a result."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def described_files(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Path, size and sha256 of each input."""
    from ptycho_data.files import file_sha256

    return [
        {"path": str(path), "bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in paths
        if path.is_file()
    ]


def full_summary(
    command: Sequence[str], inputs: Sequence[Mapping[str, Any]], backend_summary: Mapping[str, Any]
) -> dict[str, Any]:
    """``summary.json``: who ran what on which data, then what the backend reports; ``outputs`` are still empty."""
    head = {"command": list(command), "versions": versions(), "inputs": list(inputs), "outputs": {}}
    return {**head, **{key: value for key, value in backend_summary.items() if key not in head}}


def publish_training(output_dir: Path, summary: Mapping[str, Any]) -> Summary:
    """Write ``summary.json`` beside the model that the backend has written; returns the whole summary."""
    with staged(output_dir, summary=SUMMARY) as stage:
        whole = {**summary, "outputs": digests([output_dir / MODEL_NAME])}
        write_json(stage / SUMMARY, whole)
    return whole


def publish_reconstruction(output_dir: Path, reconstruction: Reconstruction, summary: Mapping[str, Any]) -> Summary:
    """Write ``object.npz``, the pictures and ``summary.json``, all or none; returns the whole summary."""
    from ptycho_data.files import write_reconstruction

    from ptycho_cli.plots.reconstructions import draw_run

    with staged(output_dir, summary=SUMMARY) as stage:
        write_reconstruction(stage / "object.npz", reconstruction)
        draw_run(reconstruction, summary, stage)
        whole = {**summary, "outputs": digests(sorted(stage.iterdir()))}
        write_json(stage / SUMMARY, whole)
    return whole


def published(
    output_dir: Path,
    command: Sequence[str],
    inputs: Sequence[Mapping[str, Any]],
    result: Reconstruction,
    report: Mapping[str, Any],
    *,
    checkpoint: Path | None,
) -> tuple[Reconstruction, Summary]:
    """Publish the results; returns the reconstruction and the whole summary.

    The run's checkpoint goes, unless the run ended by its time limit: it may be given more time (CLI-27).
    """
    summary = publish_reconstruction(output_dir, result, full_summary(command, inputs, report))
    is_of_this_run = report.get("checkpoints_written") or report.get("resumed_from_epoch")
    if not (is_of_this_run and report.get("stopped_by") == "max_seconds"):
        discard_checkpoint(checkpoint)
    return result, summary


def published_evaluation(
    output_dir: Path | None, command: Sequence[str], inputs: Sequence[Mapping[str, Any]], evaluation: Evaluation
) -> Summary:
    """Publish the evaluation in its folder, if there is one; returns the whole report."""
    summary = full_summary(command, inputs, evaluation.report)
    return summary if output_dir is None else publish_evaluation(output_dir, evaluation, summary)


def publish_evaluation(output_dir: Path, evaluation: Evaluation, summary: Mapping[str, Any]) -> Summary:
    """Write ``evaluation.json`` and the figures, all or none; returns the whole report."""
    from ptycho_cli.plots.comparisons import draw_comparison, draw_frc, draw_prior
    from ptycho_cli.plots.losses import draw_convergence

    image = evaluation.image
    pixel_size_m = None if image is None else image.pixel_size_m
    with staged(output_dir, summary=EVALUATION) as stage:
        draw_comparison(evaluation.comparison.alignment, stage / "comparison.png", names=evaluation.names, image=image)
        draw_frc(evaluation.curves, stage / "frc.png", pixel_size_m=pixel_size_m)
        if evaluation.convergence:
            draw_convergence(evaluation.convergence, evaluation.floor, stage / "convergence.png")
        if evaluation.prior is not None:
            maps = evaluation.report["what_the_prior_adds"]["residual_map"]
            draw_prior(evaluation.prior.alignment, maps, stage / "prior.png", image=image)
        whole = {**summary, "outputs": digests(sorted(stage.iterdir()))}
        write_json(stage / EVALUATION, whole)
    return whole
