"""One run of training, imaging, joint descent or evaluation, from files to files; what commands and demo call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_contracts.config import DataConfig, ExecutionConfig, InferenceConfig, ReconstructionConfig, resolve
from ptycho_contracts.problems import WorkFailedError
from ptycho_contracts.records import Reconstruction
from ptycho_data.checks.advice import collapsed

from ptycho_cli.backends import DEFAULT, load_backend
from ptycho_cli.options import INFER_SECTIONS, RECONSTRUCT_SECTIONS, TRAIN_SECTIONS
from ptycho_cli.output.checkpoints import checkpoint_arguments, discard_checkpoint, require_judges
from ptycho_cli.output.progress import Progress, progress_on
from ptycho_cli.output.publish import require_files, require_output_dir
from ptycho_cli.output.report import (
    described_files,
    full_summary,
    publish_evaluation,
    publish_reconstruction,
    publish_training,
)

if TYPE_CHECKING:
    from ptycho_data.workflows.evaluate import Evaluated

Summary = dict[str, Any]
MODEL_NAME = "model.safetensors"


def train(
    data: Sequence[Path],
    *,
    output_dir: Path,
    overrides: Mapping[str, Any],
    validation: Sequence[Path] = (),
    backend: str = DEFAULT,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Summary:
    """Train on scans and write ``model.safetensors`` and ``summary.json``; returns the summary.

    Raises:
        ContractError, MissingFileError: bad input, found before any work.
        WorkFailedError: the training failed, or collapsed; in that case the files are written.
    """
    resolve(TRAIN_SECTIONS, {"explicit": overrides})
    require_output_dir(output_dir)
    earlier = [] if overrides.get("start_from") is None else [Path(str(overrides["start_from"]))]
    wanted = [("Training data file", data), ("Validation file", validation), ("Model archive", earlier)]
    require_files([(what, path) for what, paths in wanted for path in paths])
    worker = load_backend(backend)
    given = dict(overrides)
    if given.get("n_groups") is None and given.get("oversampling") is None:
        most = given.get("subsample")
        counts = (_pattern_count(path, given) for path in data)
        given["n_groups"] = sum(count if most is None else min(count, most) for count in counts)
    payload = worker.create_training_payload(
        data[0] if len(data) == 1 else list(data), output_dir, overrides=given, execution_config=None
    )
    inputs = described_files([*data, *validation, *earlier])
    with _progress(payload.execution_config, progress) as callback:
        report = worker.train(payload, validation_files=list(validation), progress=callback)
    first_rank = report.pop("first_rank", True)
    summary = full_summary(command, inputs, [MODEL_NAME, "summary.json"], report)
    if first_rank:  # of several processes that train together, one writes the results
        publish_training(output_dir, summary)
        problem = collapsed(summary, str(output_dir / MODEL_NAME))
        if problem is not None:
            raise WorkFailedError(problem)
    return summary


def infer(
    model: Path,
    data: Path,
    *,
    output_dir: Path,
    overrides: Mapping[str, Any],
    resume: bool = False,
    backend: str = DEFAULT,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Reconstruction, Summary]:
    """Image a scan with a trained model and write the reconstruction's files.

    Raises: as :func:`train`.
    """
    resolved = resolve(INFER_SECTIONS, {"explicit": overrides})
    require_judges(overrides, resolved[InferenceConfig].val_fraction)
    require_output_dir(output_dir)
    require_files([("Model archive", model), ("Data file", data)])
    wanted = resolved[ExecutionConfig].enable_checkpointing and resolved[InferenceConfig].refine > 0
    kept = checkpoint_arguments(output_dir, wanted=wanted, resume=resume)
    worker = load_backend(backend)
    payload = worker.create_inference_payload(model, data, output_dir, overrides=dict(overrides), execution_config=None)
    inputs = described_files([model, data])
    with _progress(payload.execution_config, progress) as callback:
        result, report = worker.infer(payload, **kept, progress=callback)
    return _published(output_dir, command, inputs, result, report)


def reconstruct(
    data: Path,
    *,
    output_dir: Path,
    overrides: Mapping[str, Any],
    resume: bool = False,
    backend: str = DEFAULT,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Reconstruction, Summary]:
    """Joint descent on object and probe, without a network; writes the reconstruction's files.

    Raises: as :func:`train`.
    """
    resolved = resolve(RECONSTRUCT_SECTIONS, {"explicit": overrides})
    require_judges(overrides, resolved[ReconstructionConfig].val_fraction)
    require_output_dir(output_dir)
    require_files([("Data file", data)])
    wanted = resolved[ExecutionConfig].enable_checkpointing
    kept = checkpoint_arguments(output_dir, wanted=wanted, resume=resume)
    worker = load_backend(backend)
    inputs = described_files([data])
    with _progress(resolved[ExecutionConfig], progress) as callback:
        result, report = worker.reconstruct(
            data,
            config=resolved[ReconstructionConfig],
            execution_config=resolved[ExecutionConfig],
            measurement=resolved[DataConfig].measurement,
            nphotons=overrides.get("nphotons"),
            **kept,
            progress=callback,
        )
    return _published(output_dir, command, inputs, result, report)


def evaluate_image(
    image: Path, truth: Path, *, output_dir: Path | None, overrides: Mapping[str, Any], command: Sequence[str] = ()
) -> Summary:
    """Score an image beside a truth; writes ``evaluation.json`` and figures where a folder is given.

    Args:
        image, truth: An object.npz, and a scan with its truth or another object.npz.
        output_dir: Folder for the results, or None.
        overrides: Of the options, ``measurement`` and ``nphotons``.
        command: The words of the command line.

    Raises:
        ContractError, MissingFileError: bad input.
    """
    from ptycho_data.workflows.evaluate import beside_truth

    resolved = resolve(RECONSTRUCT_SECTIONS, {"explicit": overrides})
    require_files([("Image", image), ("Truth", truth)])
    if output_dir is not None:
        require_output_dir(output_dir)
    evaluated = beside_truth(
        image, truth, measurement=resolved[DataConfig].measurement, nphotons=overrides.get("nphotons")
    )
    return _evaluated(output_dir, command, described_files([image, truth]), evaluated)


def evaluate_scan(
    data: Path,
    *,
    output_dir: Path | None,
    overrides: Mapping[str, Any],
    backend: str = DEFAULT,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Summary:
    """R beside its floor and the FRC of two half scans; writes as :func:`evaluate_image`.

    Raises: as :func:`train`.
    """
    from ptycho_data.workflows.evaluate import without_truth

    resolved = resolve(RECONSTRUCT_SECTIONS, {"explicit": overrides})
    require_judges(overrides, resolved[ReconstructionConfig].val_fraction)
    execution = resolved[ExecutionConfig]
    if output_dir is not None:
        require_output_dir(output_dir)
    require_files([("Data file", data)])
    worker = load_backend(backend)
    inputs = described_files([data])
    with _progress(execution, progress) as callback:
        evaluated = without_truth(
            data,
            reconstruct=partial(worker.reconstruct, execution_config=execution),
            config=resolved[ReconstructionConfig],
            measurement=resolved[DataConfig].measurement,
            nphotons=overrides.get("nphotons"),
            progress=callback,
        )
    return _evaluated(output_dir, command, inputs, evaluated)


def _evaluated(output_dir: Path | None, command: Sequence[str], inputs: list[Summary], evaluated: Evaluated) -> Summary:
    outputs = ["comparison.png", "evaluation.json", "frc.png"] if output_dir is not None else []
    outputs += ["convergence.png"] if outputs and evaluated.convergence else []
    summary = full_summary(command, inputs, sorted(outputs), evaluated.report)
    if output_dir is not None:
        publish_evaluation(output_dir, evaluated, summary)
    return summary


def _published(
    output_dir: Path, command: Sequence[str], inputs: list[Summary], result: Reconstruction, report: Summary
) -> tuple[Reconstruction, Summary]:
    outputs = ["object.npz", "amplitude.png", "phase.png", "summary.json"]
    summary = full_summary(command, inputs, outputs, report)
    publish_reconstruction(output_dir, result, summary)
    if report.get("checkpoints_written") or report.get("resumed_from_epoch"):
        discard_checkpoint(output_dir)
    return result, summary


def _progress(execution: ExecutionConfig, given: Progress | None) -> Any:
    """The caller's callback, else progress on stderr unless the user asked for quiet."""
    return nullcontext(given) if given else progress_on(quiet=not execution.enable_progress_bar)


def _pattern_count(path: Path, overrides: Mapping[str, Any]) -> int:
    from ptycho_data.files import read_scan

    measurement = overrides.get("measurement", DataConfig().measurement)
    return len(read_scan(path, measurement=measurement, nphotons=overrides.get("nphotons")))
