"""The command ``infer`` (specs/cli.md, CLI-11, CLI-27)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from ptycho_contracts.config import PRETRAINED, ExecutionConfig, InferenceConfig, resolve
from ptycho_contracts.effects import require_effects
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
    chosen_backend,
    preview_in,
    progress_for,
    reading,
    scan_in,
)
from ptycho_cli.commands.several_scans import are_several, run_each, scans_of, way_on
from ptycho_cli.config_file import read_config
from ptycho_cli.options import INFER_OPTIONS, INFER_SECTIONS, with_options
from ptycho_cli.output.checkpoints import CHECKPOINT, checkpoint_arguments
from ptycho_cli.output.earlier import results_folder
from ptycho_cli.output.outcome import say
from ptycho_cli.output.publish import require_files, require_output_dir
from ptycho_cli.output.report import Summary, described_files, image_files, published
from ptycho_cli.output.terminal import wrapped

if TYPE_CHECKING:
    from ptycho_contracts.records import Reconstruction
    from ptycho_data.bundle_file import Bundle


@with_options(INFER_OPTIONS)
def infer(
    model: Annotated[
        Path,
        Parameter(help="Bundle written by `train`, or `pretrained`: the learned prior that is shipped, for any scan."),
    ],
    /,
    *data: Annotated[
        Path,
        Parameter(
            help="Scan to infer. Several, or a folder of them: each gets its own folder in OUT, and a line in a table."
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
    """Infer the object of a scan with a trained model; writes object.npz, pictures and summary.json."""
    settings = {**read_config(config, INFER_OPTIONS, extra=("backend",)), **overrides}
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
    scans = scans_of("infer", data, mapping)
    if are_several(data, scans):
        _infer_each(model, scans, output_dir, options)
        return
    _, summary = run_infer(model, scans[0], output_dir=output_dir, **options)
    if summary.get("training_collapsed"):
        line = f"ptycho-cli: warning: {model}: its training collapsed; the image shows no object"
        print(wrapped(line, sys.stderr), file=sys.stderr)
    say("infer", settings, f"wrote {output_dir / 'object.npz'}", summary)


def _infer_each(model: Path, scans: list[Path], output_dir: Path, options: dict[str, Any]) -> None:
    """Infer several scans; the model is loaded once, and its problems end the command before any work."""
    resolved = resolve(INFER_SECTIONS, {"explicit": options["overrides"]})
    require_effects("infer", resolved.applied, resolved.sections.values(), validation=False)
    execution = resolved[ExecutionConfig]
    require_output_dir(output_dir)
    require_backend(options["backend"])
    bundle = None
    if str(model) != PRETRAINED:
        require_files([("Model archive", model)])
        with progress_for(execution, None, [model]) as callback:
            bundle = load_backend(options["backend"], callback).load(model)

    mapped = [] if options["mapping"] is None else [options["mapping"]]

    def one(data: Path, folder: Path) -> Mapping[str, Any]:
        files = [data, *([] if bundle is None else [model]), *mapped]
        earlier, way = way_on(folder, files, resolved[InferenceConfig], options)
        return earlier or run_infer(model, data, output_dir=folder, bundle=bundle, **way)[1]

    run_each("infer", scans, output_dir, one, quiet=not execution.enable_progress_bar)


def run_infer(
    model: Path,
    data: Path,
    *,
    output_dir: Path,
    overrides: Mapping[str, Any],
    resume: bool = False,
    overwrite: bool = False,
    preview: bool = False,
    bundle: Bundle | None = None,
    backend: str = DEFAULT,
    mapping: Path | None = None,
    turn: str | None = None,
    formats: Collection[str] = (),
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Reconstruction, Summary]:
    """Infer the object of a scan with a trained model and write the reconstruction's files.

    Args:
        bundle: The model, if it is open already.

    Raises:
        ContractError, MissingFileError: bad input, reported before any work.
        WorkFailedError: the refinement diverged.
    """
    resolved = resolve(INFER_SECTIONS, {"explicit": overrides})
    require_effects("infer", resolved.applied, resolved.sections.values(), validation=False)
    require_output_dir(output_dir)
    files = [data] if str(model) == PRETRAINED else [model, data]
    require_files([(what, file) for what, file in (("Model archive", model), ("Data file", data)) if file in files])
    keeps = resolved[ExecutionConfig].enable_checkpointing and resolved[InferenceConfig].refine > 0
    kept = checkpoint_arguments(output_dir, keeps=keeps, resume=resume)
    writes = (*image_files(formats), *([str(CHECKPOINT)] if kept["checkpoint"] else []))
    require_backend(backend)
    drawn = preview_in(output_dir, preview)
    reported = progress_for(resolved[ExecutionConfig], progress, [data], preview=drawn)
    folder = results_folder(output_dir, command, writes=writes, overwrite=overwrite, resume=resume)
    with folder, reported as callback:
        from ptycho_data.files import geometry_of, require_reconstruction_formats

        scan = scan_in(data, reading(overrides, mapping), turn)
        require_reconstruction_formats(formats, geometry_of(scan), N=scan.N, where=str(data))
        inputs = described_files([*files, *([] if mapping is None else [mapping])])
        worker = load_backend(backend, callback)
        payload = worker.create_inference_payload(
            bundle or model, scan, output_dir, overrides=dict(overrides), execution_config=None
        )
        result, report = worker.infer(payload, **kept, progress=callback)
        begin(callback, "pictures")
        return published(
            output_dir, command, inputs, result, report, checkpoint=kept["checkpoint"], formats=formats, scan=scan
        )
