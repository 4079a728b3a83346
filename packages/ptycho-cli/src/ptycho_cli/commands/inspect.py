"""The command ``inspect`` (specs/cli.md, CLI-13)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ptycho_cli.commands.parameters import Json, MappingFile, Measurement, Overwrite, require_output_to_overwrite
from ptycho_cli.output.earlier import require_new_files
from ptycho_cli.output.outcome import print_json
from ptycho_cli.output.progress import progress_on, reading_words
from ptycho_cli.output.publish import require_output_dir
from ptycho_cli.output.terminal import printable


def inspect(
    file: Annotated[
        Path, Parameter(help="Scan, bundle (model.safetensors), reconstruction (object.npz), or the folder of a store.")
    ],
    /,
    *,
    as_json: Json = False,
    output_dir: Annotated[
        Path | None, Parameter(name="--output-dir", help="Draw previews into this folder (scans and reconstructions).")
    ] = None,
    overwrite: Overwrite = False,
    measurement: Annotated[
        Measurement | None, Parameter(name="--measurement", help="What the patterns are (default: auto).")
    ] = None,
    nphotons: Annotated[
        float | None, Parameter(name="--nphotons", help="Mean photons per pattern, for normalised amplitude.")
    ] = None,
    companion: Annotated[
        Path | None,
        Parameter(name="--companion", help="Second file: Ptychodus' product beside its diffraction, a mapping's data."),
    ] = None,
    mapping: MappingFile = None,
    orientation: Annotated[
        bool,
        Parameter(
            name="--orientation", negative=(), help="Rank the eight orientations of the positions by a few iterations."
        ),
    ] = False,
) -> None:
    """Show what a file holds and whether it is fit for use; a bundle and a store are verified. Changes nothing."""
    require_output_to_overwrite(output_dir, overwrite=overwrite)
    if output_dir is not None:
        require_output_dir(output_dir)
    with progress_on(first=reading_words([file])) as progress:
        from ptycho_cli.output.inspection import PREVIEWS, draw_previews, inspect_file, lines

        if output_dir is not None:
            require_new_files([output_dir / name for name in PREVIEWS], overwrite=overwrite)
        content = inspect_file(
            file,
            measurement=measurement,
            nphotons=nphotons,
            companion=companion,
            mapping=mapping,
            orientation=orientation,
            progress=progress,
        )
        written = draw_previews(content, output_dir) if output_dir is not None else []
    report = {**content.report(), "previews": [str(path) for path in written]}
    if as_json:
        print_json(report)
        return
    for line in lines(report):
        print(printable(line))
