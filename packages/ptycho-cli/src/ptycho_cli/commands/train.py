"""The command ``train`` (specs/cli.md, CLI-6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from ptycho_contracts.config import ExecutionConfig, TrainingConfig, resolve
from ptycho_contracts.effects import require_effects
from ptycho_contracts.problems import ContractError, Problem, WorkFailedError
from ptycho_data.deadline import Deadline
from ptycho_data.run_folder import is_first_process
from ptycho_data.signals import Interrupted
from ptycho_data.stages import Progress

from ptycho_cli.backends import DEFAULT, load_backend, require_backend
from ptycho_cli.commands.parameters import (
    BackendFlag,
    ConfigFile,
    MappingFile,
    OutputDir,
    Overwrite,
    PreviewFlag,
    Resume,
    Turn,
    Typed,
    before_publishing,
    chosen_backend,
    preview_in,
    progress_for,
    reading,
    scan_in,
)
from ptycho_cli.config_file import read_config
from ptycho_cli.options import TRAIN_OPTIONS, TRAIN_SECTIONS, with_options
from ptycho_cli.output.checkpoints import TRAINING, checkpoint_arguments, discard_checkpoint
from ptycho_cli.output.earlier import results_folder
from ptycho_cli.output.outcome import say
from ptycho_cli.output.publish import require_files, require_output_dir
from ptycho_cli.output.report import MODEL_FILES, MODEL_NAME, Summary, described_files, full_summary, publish_training


@with_options(TRAIN_OPTIONS)
def train(
    *data: Annotated[Path, Parameter(help="Training scans, in any format that `inspect` reads.")],
    output_dir: OutputDir,
    validation: Annotated[
        tuple[Path, ...],
        Parameter(
            name="--validation",
            negative=(),
            help="Scan for val_loss, instead of some of the training groups; repeat it for several.",
        ),
    ] = (),
    resume: Resume = False,
    overwrite: Overwrite = False,
    preview: PreviewFlag = False,
    backend: BackendFlag = None,
    config: ConfigFile = None,
    mapping: MappingFile = None,
    turn: Turn = None,
    typed: Typed = (),
    overrides: dict[str, Any],
) -> None:
    """Train a network on scans; writes OUT/model.safetensors and OUT/summary.json."""
    if not data:
        raise ContractError(Problem("train", "usage.data", "at least one DATA file", "none", "name a training scan"))
    settings = {**read_config(config, TRAIN_OPTIONS, extra=("backend", "validation")), **overrides}
    configured = _paths(config, settings.pop("validation", []))
    summary = run_train(
        data,
        output_dir=output_dir,
        overrides=settings,
        validation=validation or configured,
        resume=resume,
        overwrite=overwrite,
        preview=preview,
        backend=chosen_backend(backend, settings),
        mapping=mapping,
        turn=turn,
        command=typed,
    )
    written = f"wrote {output_dir / MODEL_NAME}" if summary.get("outputs") else "the first process writes the results"
    say("train", settings, written, summary)


def _paths(config: Path | None, value: Any) -> list[Path]:
    """Files that a configuration file names: a text, or a list of them."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        where, remedy = f"{config}: validation", "write it as text, or as a list of texts"
        raise ContractError(Problem(where, "config.value", "one or more paths", repr(value), remedy))
    return [Path(word) for word in words]


def run_train(
    data: Sequence[Path],
    *,
    output_dir: Path,
    overrides: Mapping[str, Any],
    validation: Sequence[Path] = (),
    resume: bool = False,
    overwrite: bool = False,
    preview: bool = False,
    backend: str = DEFAULT,
    mapping: Path | None = None,
    turn: str | None = None,
    command: Sequence[str] = (),
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Train on scans and write ``model.safetensors`` and ``summary.json``; returns the summary.

    Raises:
        ContractError, MissingFileError: bad input, reported before any work.
        WorkFailedError: the training failed, or collapsed; in that case the files are written.
    """
    resolved = resolve(TRAIN_SECTIONS, {"explicit": overrides})
    require_effects("train", resolved.applied, resolved.sections.values(), validation=bool(validation))
    execution = resolved[ExecutionConfig]
    until = Deadline(resolved[TrainingConfig].max_seconds) if deadline is None else deadline
    require_output_dir(output_dir)
    earlier = [] if overrides.get("start_from") is None else [Path(str(overrides["start_from"]))]
    requested = [("Training data file", data), ("Validation file", validation), ("Model archive", earlier)]
    require_files([(what, path) for what, paths in requested for path in paths])
    keeps = execution.enable_checkpointing
    kept = checkpoint_arguments(output_dir, keeps=keeps, resume=resume, name=TRAINING)
    alone = is_first_process(execution.devices * execution.num_nodes)
    writes = (*MODEL_FILES, *([str(TRAINING)] if keeps else []))
    require_backend(backend)
    drawn = preview_in(output_dir, preview and alone)
    reported = progress_for(execution, progress, [*data, *validation], limit_s=until.max_seconds(), preview=drawn)
    folder = results_folder(output_dir, command, writes=writes, overwrite=overwrite, resume=resume)
    with folder if alone else nullcontext(), reported as callback:
        from ptycho_data.checks.advice import collapsed
        from ptycho_data.files import combine_scans
        from ptycho_data.workflows.options import default_group_count

        given = dict(overrides)
        # Every file is read once, here.
        how = reading(given, mapping)
        scan = combine_scans([scan_in(path, how, turn) for path in data])
        validating = combine_scans([scan_in(path, how, turn) for path in validation]) if validation else None
        if given.get("n_groups") is None and given.get("oversampling") is None:
            given["n_groups"] = default_group_count(scan, given.get("subsample"))
        inputs = described_files([*data, *validation, *earlier, *([] if mapping is None else [mapping])])
        worker = load_backend(backend, callback)
        payload = worker.create_training_payload(scan, output_dir, overrides=given, execution_config=None)
        bundle, report = worker.train(
            payload, validation=validating, **kept, deadline=before_publishing(until), progress=callback
        )
        summary = full_summary(command, inputs, report)
        if bundle is not None:  # of several processes that train together, one writes the results
            summary = publish_training(output_dir, summary)
            training = summary.get("training", {})
            if training.get("stopped_by") != "max_seconds":  # it may be given more time (CLI-27)
                discard_checkpoint(kept["checkpoint"])
            if training.get("stopped_by") == "interrupted":
                words = f"the model after {training['steps']} steps is {output_dir / MODEL_NAME}"
                raise Interrupted(training["interrupted_by"], words)
            problem = collapsed(summary, str(output_dir / MODEL_NAME))
            if problem is not None:
                raise WorkFailedError(problem)
        return summary
