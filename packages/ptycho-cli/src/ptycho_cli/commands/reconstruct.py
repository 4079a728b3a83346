"""The command ``reconstruct`` (specs/cli.md, CLI-11, CLI-27)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from ptycho_contracts.config import DataConfig, ExecutionConfig, ReconstructionConfig, resolve
from ptycho_contracts.effects import require_effects
from ptycho_data.deadline import Deadline
from ptycho_data.stages import Progress, begin

from ptycho_cli.backends import DEFAULT, load_backend, require_backend
from ptycho_cli.commands.parameters import (
    BackendFlag,
    ConfigFile,
    Formats,
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
from ptycho_cli.commands.several_scans import are_several, run_each, scans_of, way_on
from ptycho_cli.config_file import read_config
from ptycho_cli.options import RECONSTRUCT_OPTIONS, RECONSTRUCT_SECTIONS, with_options
from ptycho_cli.output.checkpoints import CHECKPOINT, checkpoint_arguments
from ptycho_cli.output.earlier import results_folder
from ptycho_cli.output.outcome import say
from ptycho_cli.output.publish import require_files, require_output_dir
from ptycho_cli.output.report import Summary, described_files, image_files, published

if TYPE_CHECKING:
    from ptycho_contracts.records import Reconstruction


@with_options(RECONSTRUCT_OPTIONS)
def reconstruct(
    *data: Annotated[
        Path,
        Parameter(
            help="Scan to reconstruct. Several, or a folder of them: each gets its own folder in OUT, its own "
            "--max-seconds, and a line in a table."
        ),
    ],
    output_dir: OutputDir,
    resume: Resume = False,
    overwrite: Overwrite = False,
    preview: PreviewFlag = False,
    backend: BackendFlag = None,
    config: ConfigFile = None,
    mapping: MappingFile = None,
    turn: Turn = None,
    format: Formats = (),
    typed: Typed = (),
    overrides: dict[str, Any],
) -> None:
    """Joint reconstruction of object and probe, without a network; writes the same files as infer."""
    settings = {**read_config(config, RECONSTRUCT_OPTIONS, extra=("backend",)), **overrides}
    options: dict[str, Any] = {
        "overrides": settings,
        "resume": resume,
        "overwrite": overwrite,
        "preview": preview,
        "backend": chosen_backend(backend, settings),
        "mapping": mapping,
        "turn": turn,
        "formats": format,
        "command": typed,
    }
    scans = scans_of("reconstruct", data, mapping)
    if are_several(data, scans):
        _reconstruct_each(scans, output_dir, options)
        return
    _, summary = run_reconstruct(scans[0], output_dir=output_dir, **options)
    say("reconstruct", settings, f"wrote {output_dir / 'object.npz'}", summary)


def _reconstruct_each(scans: list[Path], output_dir: Path, options: dict[str, Any]) -> None:
    """Reconstruct several scans; bad options end the command before any work."""
    resolved = resolve(RECONSTRUCT_SECTIONS, {"explicit": options["overrides"]})
    require_effects("reconstruct", resolved.applied, resolved.sections.values(), validation=False)
    require_output_dir(output_dir)
    require_backend(options["backend"])

    mapped = [] if options["mapping"] is None else [options["mapping"]]

    def one(data: Path, folder: Path) -> Mapping[str, Any]:
        earlier, way = way_on(folder, [data, *mapped], resolved[ReconstructionConfig], options)
        return earlier or run_reconstruct(data, output_dir=folder, **way)[1]

    run_each("reconstruct", scans, output_dir, one, quiet=not resolved[ExecutionConfig].enable_progress_bar)


def run_reconstruct(
    data: Path,
    *,
    output_dir: Path,
    overrides: Mapping[str, Any],
    resume: bool = False,
    overwrite: bool = False,
    preview: bool = False,
    backend: str = DEFAULT,
    mapping: Path | None = None,
    turn: str | None = None,
    formats: Collection[str] = (),
    command: Sequence[str] = (),
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> tuple[Reconstruction, Summary]:
    """Joint reconstruction of object and probe; writes the reconstruction's files.

    Raises:
        ContractError, MissingFileError: bad input, reported before any work.
        WorkFailedError: the reconstruction diverged.
    """
    resolved = resolve(RECONSTRUCT_SECTIONS, {"explicit": overrides})
    config, execution = resolved[ReconstructionConfig], resolved[ExecutionConfig]
    until = Deadline(config.max_seconds) if deadline is None else deadline
    require_effects("reconstruct", resolved.applied, resolved.sections.values(), validation=False)
    require_output_dir(output_dir)
    require_files([("Data file", data)])
    kept = checkpoint_arguments(output_dir, keeps=execution.enable_checkpointing, resume=resume)
    writes = (*image_files(formats), *([str(CHECKPOINT)] if kept["checkpoint"] else []))
    require_backend(backend)
    drawn = preview_in(output_dir, preview)
    reported = progress_for(execution, progress, [data], limit_s=until.max_seconds(), preview=drawn)
    folder = results_folder(output_dir, command, writes=writes, overwrite=overwrite, resume=resume)
    with folder, reported as callback:
        from ptycho_data.files import geometry_of, require_reconstruction_formats

        scan = scan_in(data, reading(overrides, mapping), turn)
        require_reconstruction_formats(formats, geometry_of(scan), N=scan.N, where=str(data))
        inputs = described_files([data, *([] if mapping is None else [mapping])])
        worker = load_backend(backend, callback)
        result, report = worker.reconstruct(
            scan,
            config=config,
            execution_config=execution,
            measurement=resolved[DataConfig].measurement,
            nphotons=overrides.get("nphotons"),
            **kept,
            deadline=before_publishing(until, scan),
            progress=callback,
        )
        begin(callback, "pictures")
        return published(
            output_dir, command, inputs, result, report, checkpoint=kept["checkpoint"], formats=formats, scan=scan
        )
