"""The command ``evaluate`` (specs/cli.md, CLI-16 to CLI-19)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from ptycho_contracts.config import DataConfig, ExecutionConfig, ReconstructionConfig, resolve
from ptycho_contracts.effects import require_effects
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.deadline import Deadline
from ptycho_data.stages import Progress, begin

from ptycho_cli.backends import DEFAULT, load_backend, require_backend
from ptycho_cli.commands.parameters import (
    BackendFlag,
    ConfigFile,
    Json,
    MappingFile,
    Overwrite,
    Turn,
    Typed,
    before_publishing,
    chosen_backend,
    progress_for,
    reading,
    require_output_to_overwrite,
    scan_in,
)
from ptycho_cli.config_file import read_config
from ptycho_cli.options import EVALUATE_OPTIONS, RECONSTRUCT_SECTIONS, with_options
from ptycho_cli.output.earlier import results_folder
from ptycho_cli.output.evaluation import lines
from ptycho_cli.output.outcome import print_json
from ptycho_cli.output.publish import require_files, require_output_dir
from ptycho_cli.output.report import (
    EVALUATION,
    EVALUATION_FILES,
    Summary,
    described_files,
    evaluation_page,
    published_evaluation,
)
from ptycho_cli.output.terminal import show

EVALUATION_PICTURES = 2.0
"""What there is to align and draw, in units of one image's pictures."""
BESIDE_TRUTH = "evaluate beside a truth"


@with_options(EVALUATE_OPTIONS)
def evaluate(
    image: Annotated[Path | None, Parameter(help="Reconstruction (object.npz) to score; needs --truth.")] = None,
    /,
    *,
    truth: Annotated[
        Path | None, Parameter(name="--truth", help="Scan with its true object, or another object.npz.")
    ] = None,
    scan: Annotated[
        Path | None,
        Parameter(name="--scan", help="Scan to evaluate without a truth: reconstructs it and two halves of it."),
    ] = None,
    output_dir: Annotated[
        Path | None, Parameter(name="--output-dir", help="Write evaluation.json and figures into this folder.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    backend: BackendFlag = None,
    config: ConfigFile = None,
    mapping: MappingFile = None,
    turn: Turn = None,
    typed: Typed = (),
    overrides: dict[str, Any],
) -> None:
    """Score an image against a truth, or a scan without one: R and its floor, FRC of half scans, advice."""
    settings = {**read_config(config, EVALUATE_OPTIONS, extra=("backend",)), **overrides}
    _check_evaluation(image, truth, scan, backend, mapping, turn, settings)
    require_output_to_overwrite(output_dir, overwrite=overwrite)
    if image is not None and truth is not None:
        settings.pop("backend", None)
        report = run_compare(
            image, truth, output_dir=output_dir, overrides=settings, overwrite=overwrite, command=typed
        )
    else:
        assert scan is not None
        report = run_evaluate(
            scan,
            output_dir=output_dir,
            overrides=settings,
            overwrite=overwrite,
            backend=chosen_backend(backend, settings),
            mapping=mapping,
            turn=turn,
            command=typed,
        )
    if as_json:
        print_json(report)
    elif settings.get("enable_progress_bar", True):
        for line in lines(report):
            show(line)
        if output_dir is not None:
            show("wrote " + ", ".join(str(output_dir / name) for name in (EVALUATION, *report["outputs"])))


def run_compare(
    image: Path,
    truth: Path,
    *,
    output_dir: Path | None,
    overrides: Mapping[str, Any],
    overwrite: bool = False,
    command: Sequence[str] = (),
) -> Summary:
    """Score an image against a truth; writes ``evaluation.json`` and figures if a folder is given.

    Args:
        image, truth: An object.npz, and a scan with its truth or another object.npz.
        output_dir: Folder for the results, or None.
        overrides: Of the options, ``measurement`` and ``nphotons``.
        overwrite: Whether an earlier evaluation in the folder is replaced.
        command: The words of the command line.

    Raises:
        ContractError, MissingFileError: bad input.
    """
    resolved = resolve(RECONSTRUCT_SECTIONS, {"explicit": overrides})
    require_effects(BESIDE_TRUTH, resolved.applied, resolved.sections.values())
    require_files([("Image", image), ("Truth", truth)])
    if output_dir is not None:
        require_output_dir(output_dir)
    told = progress_for(resolved[ExecutionConfig], None, [image, truth])
    with _folder(output_dir, command, overwrite=overwrite), told as callback:
        from ptycho_data.workflows import compare_with_truth

        evaluation = compare_with_truth(image, truth, **reading(overrides))
        begin(callback, "pictures")
        return published_evaluation(output_dir, command, described_files([image, truth]), evaluation)


def run_evaluate(
    data: Path,
    *,
    output_dir: Path | None,
    overrides: Mapping[str, Any],
    overwrite: bool = False,
    backend: str = DEFAULT,
    mapping: Path | None = None,
    turn: str | None = None,
    command: Sequence[str] = (),
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> Summary:
    """R with its floor and the FRC of two half scans; writes as :func:`run_compare`.

    Raises:
        ContractError, MissingFileError: bad input.
        WorkFailedError: a reconstruction diverged.
    """
    resolved = resolve(RECONSTRUCT_SECTIONS, {"explicit": overrides})
    require_effects("evaluate", resolved.applied, resolved.sections.values(), validation=False)
    config, execution = resolved[ReconstructionConfig], resolved[ExecutionConfig]
    until = Deadline(config.max_seconds) if deadline is None else deadline
    if output_dir is not None:
        require_output_dir(output_dir)
    require_files([("Data file", data)])
    require_backend(backend)
    told = progress_for(execution, progress, [data], limit_s=until.max_seconds())
    with _folder(output_dir, command, overwrite=overwrite), told as callback:
        inputs = described_files([data, *([] if mapping is None else [mapping])])
        scan = scan_in(data, reading(overrides, mapping), turn)
        drawing = 1.0 if output_dir is None else EVALUATION_PICTURES
        worker = load_backend(backend, callback)
        evaluation = worker.evaluate(
            scan,
            config=config,
            execution_config=execution,
            measurement=resolved[DataConfig].measurement,
            nphotons=overrides.get("nphotons"),
            deadline=before_publishing(until, scan, pictures=drawing),
            progress=callback,
        )
        begin(callback, "pictures")
        return published_evaluation(output_dir, command, inputs, evaluation)


def _folder(path: Path | None, command: Sequence[str], *, overwrite: bool) -> AbstractContextManager[None]:
    """The folder of an evaluation's results, if there is one."""
    if path is None:
        return nullcontext()
    writes = (*EVALUATION_FILES, evaluation_page(path))
    return results_folder(path, command, writes=writes, overwrite=overwrite)


def _check_evaluation(
    image: Path | None,
    truth: Path | None,
    scan: Path | None,
    backend: str | None,
    mapping: Path | None,
    turn: str | None,
    settings: Mapping[str, Any],
) -> None:
    """Refuse what is neither an image with a truth nor a scan, and options of the other (CLI-16 to CLI-18)."""
    problems = []

    def problem(code: str, expected: str, found: str, remedy: str) -> None:
        problems.append(Problem("evaluate", code, expected, found, remedy))

    if image is None and scan is None:
        found = "only --truth" if truth else "neither"
        problem("usage.evaluate", "IMAGE with --truth, or --scan", found, "name what to evaluate")
    elif image is not None and scan is not None:
        problem("usage.evaluate", "IMAGE with --truth, or --scan", "IMAGE and --scan", "leave one of them out")
    elif image is not None and truth is None:
        problem("usage.truth", "--truth beside IMAGE", "none", "give --truth, or --scan SCAN instead of the image")
    elif scan is not None and truth is not None:
        problem("usage.truth", "no --truth beside --scan", "one", "to use it: reconstruct, then evaluate IMAGE --truth")
    elif image is not None and (backend is not None or "backend" in settings):
        found = f"{backend or settings['backend']!r}, which has none: nothing is reconstructed"
        problem("config.no_effect", "a backend that has an effect", found, "leave `backend` out")
    elif image is not None and mapping is not None:
        found = f"{mapping}, which has none: scans that are read by a mapping hold no truth"
        problem("config.no_effect", "a mapping that has an effect", found, "leave `mapping` out")
    elif image is not None and turn is not None:
        found = f"{turn!r}, which has none: no positions are read"
        problem("config.no_effect", "a turn that has an effect", found, "leave `turn` out")
    if problems:
        raise ContractError(problems)
