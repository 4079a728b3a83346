"""The command ``import``: any files of patterns and positions to a scan (specs/cli.md, CLI-40)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from ptycho_contracts.import_options import ImportOptions
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.stages import begin

from ptycho_cli.commands.parameters import MappingFile, Overwrite, Quiet
from ptycho_cli.options import IMPORT_OPTIONS, with_options
from ptycho_cli.output.earlier import require_new_files
from ptycho_cli.output.progress import progress_on, reading_words
from ptycho_cli.output.publish import require_output_dir, staged
from ptycho_cli.output.terminal import show

if TYPE_CHECKING:
    from ptycho_contracts.records import Scan
    from ptycho_data.files import Imported

SUFFIXES = (".npz", ".h5", ".hdf5", ".cxi")
"""Of formats that can be written; all but .npz need a probe and a whole set-up."""
Measurement = Literal["auto", "counts", "amplitude", "normalised-amplitude", "normalised-intensity"]


@with_options(IMPORT_OPTIONS)
def import_(
    *files: Annotated[
        Path,
        Parameter(
            help="FILES... OUT: the file of the scan, or with it that of the positions, or all frames or their folder; "
            "last the file to write: .npz, or with a probe .h5 or .cxi."
        ),
    ],
    mapping: MappingFile = None,
    measurement: Annotated[Measurement, Parameter(name="--measurement", help="What the patterns are.")] = "auto",
    nphotons: Annotated[
        float | None, Parameter(name="--nphotons", help="Mean photons per pattern, for normalised patterns.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    overrides: dict[str, Any],
) -> None:
    """Make a scan of any files of patterns and positions; writes OUT, and a mapping for the next file beside it."""
    read = [Path(overrides[name]) for name in ("positions", "mask", "dark", "flat") if overrides.get(name)]
    read += [] if mapping is None else [mapping]
    sources, out = _sources_and_target(files, read, overwrite=overwrite)
    toml = out.with_suffix(".toml")
    with progress_on(quiet=quiet, first=reading_words(sources)) as progress:
        from ptycho_data.files import import_scan, write_mapping, write_scan

        options = ImportOptions(**overrides)
        found = import_scan(sources, options=options, mapping=mapping, measurement=measurement, nphotons=nphotons)
        _require_probe(out, found.scan)
        begin(progress, f"writing {out.name}")
        with staged(out.parent) as stage:
            try:
                write_scan(stage / out.name, found.scan)
            except ContractError as error:  # which names the temporary file
                staged_name = str(stage / out.name)
                raise ContractError(
                    replace(one, where=one.where.replace(staged_name, str(out))) for one in error.problems
                ) from error
            if found.tables:
                note = f"Written by ptycho-cli import for {found.data.name}.\nFor the next one: --mapping {toml.name}"
                write_mapping(stage / toml.name, _located(found, out.parent), note=note)
    if quiet:
        return
    for line in found.lines:
        show(line)
    scan = found.scan
    show(f"wrote {out}: {len(scan)} patterns of {scan.N} x {scan.N}, {scan.unit}")
    if found.tables:
        show(f"wrote {toml}: reads the next file of this kind, by --mapping {toml}")
    show(f"next: ptycho-cli inspect {out} --orientation")


import_.__name__ = "import"


def _sources_and_target(files: tuple[Path, ...], read: list[Path], *, overwrite: bool) -> tuple[list[Path], Path]:
    """Sources and target, with the target's problems before anything is read."""
    if len(files) < 2:
        found = "one name" if files else "none"
        raise ContractError(
            Problem("import", "usage.files", "FILES... and OUT, the file to write", found, "name both: FILES... OUT")
        )
    *sources, out = files
    written = (out, out.with_suffix(".toml"))
    problems = []
    if out.suffix.lower() not in SUFFIXES:
        legal = ", ".join(SUFFIXES)
        problems.append(
            Problem(str(out), "output.suffix", f"OUT, a name ending in {legal}", repr(out.name), "name OUT last")
        )
    elif out.is_dir():
        problems.append(Problem(str(out), "output.is_a_folder", "a file name", "a folder", "choose another name"))
    elif any(
        path.exists() and source.exists() and path.samefile(source) for path in written for source in (*sources, *read)
    ):
        expected = f"another name than what is read; beside OUT lies {written[1].name}"
        problems.append(Problem(str(out), "import.same_file", expected, "one of these files", "rename OUT"))
    if problems:
        raise ContractError(problems)
    require_new_files(written, overwrite=overwrite)
    require_output_dir(out.parent, named=str(out))
    return sources, out


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _require_probe(out: Path, scan: Scan) -> None:
    """Formats of other suites hold a probe; of the NPZ contract it is optional."""
    if scan.probe is None and out.suffix.lower() != ".npz":
        expected, remedy = f"a probe in FILES, which a {out.suffix} file must have", f"name OUT {out.stem}.npz"
        raise ContractError(Problem(str(out), "scan.no_probe", expected, "none", remedy))


def _located(found: Imported, folder: Path) -> dict[str, dict[str, Any]]:
    """The mapping with the path of its data, if they lie in or below its own folder."""
    data = Path(os.path.relpath(found.data, folder))
    if data.is_absolute() or ".." in data.parts:
        return found.tables
    return {"file": {"path": data.as_posix()}, **found.tables}
