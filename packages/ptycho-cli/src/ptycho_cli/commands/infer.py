"""The command ``infer`` (specs/cli.md, CLI-11, CLI-27)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from ptycho_contracts.config import PRETRAINED, ExecutionConfig, InferenceConfig, resolve
from ptycho_contracts.effects import require_effects

from ptycho_cli.backends import DEFAULT, load_backend
from ptycho_cli.commands.parameters import (
    BackendFlag,
    ConfigFile,
    Formats,
    MappingFile,
    OutputDir,
    Overwrite,
    Resume,
    Typed,
    chosen_backend,
    progress_for,
    reading,
)
from ptycho_cli.config_file import read_config
from ptycho_cli.options import INFER_OPTIONS, INFER_SECTIONS, with_options
from ptycho_cli.output.checkpoints import CHECKPOINT, checkpoint_arguments
from ptycho_cli.output.earlier import results_folder
from ptycho_cli.output.outcome import say
from ptycho_cli.output.progress import Progress
from ptycho_cli.output.publish import require_files, require_output_dir
from ptycho_cli.output.report import Summary, described_files, image_files, published

if TYPE_CHECKING:
    from ptycho_contracts.records import Reconstruction


@with_options(INFER_OPTIONS)
def infer(
    model: Annotated[
        Path,
        Parameter(help="Bundle written by `train`, or `pretrained`: the learned prior that is shipped, for any scan."),
    ],
    data: Annotated[Path, Parameter(help="Scan to infer.")],
    /,
    *,
    output_dir: OutputDir,
    resume: Resume = False,
    overwrite: Overwrite = False,
    backend: BackendFlag = None,
    config: ConfigFile = None,
    mapping: MappingFile = None,
    format: Formats = (),
    typed: Typed = (),
    overrides: dict[str, Any],
) -> None:
    """Infer the object of a scan with a trained model; writes object.npz, pictures and summary.json."""
    settings = {**read_config(config, INFER_OPTIONS, extra=("backend",)), **overrides}
    _, summary = run_infer(
        model,
        data,
        output_dir=output_dir,
        overrides=settings,
        resume=resume,
        overwrite=overwrite,
        backend=chosen_backend(backend, settings),
        mapping=mapping,
        formats=format,
        command=typed,
    )
    if summary.get("training_collapsed"):
        print(f"ptycho-cli: warning: {model}: its training collapsed; the image shows no object", file=sys.stderr)
    say("infer", settings, f"wrote {output_dir / 'object.npz'}", summary)


def run_infer(
    model: Path,
    data: Path,
    *,
    output_dir: Path,
    overrides: Mapping[str, Any],
    resume: bool = False,
    overwrite: bool = False,
    backend: str = DEFAULT,
    mapping: Path | None = None,
    formats: Collection[str] = (),
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Reconstruction, Summary]:
    """Infer the object of a scan with a trained model and write the reconstruction's files.

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
    with results_folder(output_dir, command, writes=writes, overwrite=overwrite, resume=resume):
        worker = load_backend(backend)
        from ptycho_data.files import geometry_of, read_scan, require_reconstruction_formats

        scan = read_scan(data, **reading(overrides, mapping))
        require_reconstruction_formats(formats, geometry_of(scan), N=scan.N, where=str(data))
        payload = worker.create_inference_payload(
            model, scan, output_dir, overrides=dict(overrides), execution_config=None
        )
        inputs = described_files([*files, *([] if mapping is None else [mapping])])
        with progress_for(payload.execution_config, progress) as callback:
            result, report = worker.infer(payload, **kept, progress=callback)
        return published(
            output_dir, command, inputs, result, report, checkpoint=kept["checkpoint"], formats=formats, scan=scan
        )
