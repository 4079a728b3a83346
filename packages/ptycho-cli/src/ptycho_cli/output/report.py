"""What a run leaves behind: files, pictures, page and summary (specs/cli.md, CLI-11, CLI-20 to CLI-23, CLI-70)."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_cli.output.checkpoints import discard_checkpoint
from ptycho_cli.output.publish import digests, plain, staged, write_json
from ptycho_cli.output.run_page import Run, pictures_in, write_page

if TYPE_CHECKING:
    from ptycho_contracts.records import Reconstruction, Scan
    from ptycho_data.workflows.evaluate import Evaluation

Summary = dict[str, Any]

SUMMARY, EVALUATION = "summary.json", "evaluation.json"
"""The files that say which results belong together."""
REPORT, EVALUATION_REPORT = "report.html", "evaluation.html"
"""Pages of a run, and of an evaluation in the folder of a run."""

MODEL_NAME = "model.safetensors"
MODEL_FILES = (SUMMARY, MODEL_NAME, REPORT)
"""Names that a training's results may have."""
OBJECT_FILES = {"npz": "object.npz", "cxi": "object.cxi", "ptychodus": "product.h5", "tiff": "object.tif"}
"""The image's file in each format."""
PICTURES = ("amplitude.png", "phase.png", "coverage.png", "probe.png", "losses.png")
IMAGE_FILES = (SUMMARY, OBJECT_FILES["npz"], *PICTURES, REPORT)
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


def finished() -> str:
    """This moment, ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


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
    head = {
        "command": list(command),
        "finished": finished(),
        "versions": versions(),
        "inputs": list(inputs),
        "outputs": {},
    }
    return {**head, **{key: value for key, value in backend_summary.items() if key not in head}}


def publish_training(output_dir: Path, summary: Mapping[str, Any]) -> Summary:
    """Write page and ``summary.json`` beside the model that the backend has written; returns the whole summary."""
    with staged(output_dir, summary=SUMMARY) as stage:
        whole = with_page(stage, {**summary, "outputs": digests([output_dir / MODEL_NAME])})
        write_json(stage / SUMMARY, whole)
    return whole


def image_files(formats: Collection[str]) -> tuple[str, ...]:
    """Names that an image's results may have, with those of further formats."""
    return (*IMAGE_FILES, *(OBJECT_FILES[name] for name in sorted(set(formats) - {"npz"})))


def evaluation_page(output_dir: Path) -> str:
    """Name of an evaluation's page: not that of the page of a run in the same folder."""
    return EVALUATION_REPORT if (output_dir / SUMMARY).exists() else REPORT


def publish_reconstruction(
    output_dir: Path,
    reconstruction: Reconstruction,
    summary: Mapping[str, Any],
    *,
    formats: Collection[str] = (),
    scan: Scan | None = None,
) -> Summary:
    """Write the image, pictures, page and ``summary.json``, all or none; returns the whole summary.

    Args:
        output_dir: Folder for them.
        reconstruction: The image.
        summary: All of it but ``outputs``.
        formats: In which the image is written besides ``object.npz``.
        scan: What was imaged: its set-up and the numbers of its patterns go into these formats.
    """
    from ptycho_data.files import geometry_of, pattern_indexes, write_reconstruction

    from ptycho_cli.plots.reconstructions import draw_run

    with staged(output_dir, summary=SUMMARY) as stage:
        told: dict[str, Any] = {"losses": summary.get("losses") or (), "name": output_dir.name}
        told |= {} if scan is None else {"geometry": geometry_of(scan), "indexes": pattern_indexes(scan)}
        write_reconstruction(stage / OBJECT_FILES["npz"], reconstruction)
        for name in set(formats) - {"npz"}:
            write_reconstruction(stage / OBJECT_FILES[name], reconstruction, format=name, **told)
        draw_run(reconstruction, summary, stage)
        whole = with_page(stage, {**summary, "outputs": digests(sorted(stage.iterdir()))})
        write_json(stage / SUMMARY, whole)
    return whole


def with_page(
    stage: Path,
    whole: Summary,
    *,
    evaluation: bool = False,
    name: str = REPORT,
    pictures: Mapping[str, bytes] | None = None,
) -> Summary:
    """Write the page of a run into its stage; returns the summary that names it, too.

    Args:
        stage: With the pictures of the run.
        whole: The summary, with the sha256 of all other outputs.
        evaluation: Whether it is one of an evaluation.
        name: Of the page.
        pictures: Of other folders.
    """
    outputs = dict(sorted(whole["outputs"].items()))
    content = plain({**whole, "outputs": outputs})
    write_page(stage / name, Run(content, content if evaluation else {}, {**(pictures or {}), **pictures_in(stage)}))
    page = digests([stage / name] if (stage / name).exists() else [])
    return {**whole, "outputs": dict(sorted({**outputs, **page}.items()))}


def published(
    output_dir: Path,
    command: Sequence[str],
    inputs: Sequence[Mapping[str, Any]],
    result: Reconstruction,
    report: Mapping[str, Any],
    *,
    checkpoint: Path | None,
    formats: Collection[str] = (),
    scan: Scan | None = None,
) -> tuple[Reconstruction, Summary]:
    """Publish the results; returns the reconstruction and the whole summary.

    The run's checkpoint goes, unless the run ended by its time limit: it may be given more time (CLI-27).
    """
    whole = full_summary(command, inputs, report)
    summary = publish_reconstruction(output_dir, result, whole, formats=formats, scan=scan)
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
    """Write ``evaluation.json``, figures and page, all or none; returns the whole report.

    The page of a run in the same folder stays: that of the evaluation has another name then.
    """
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
        whole = with_page(stage, whole, evaluation=True, name=evaluation_page(output_dir))
        write_json(stage / EVALUATION, whole)
    return whole
