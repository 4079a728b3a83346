"""The command ``report``: the page of a run again, or of several runs beside each other (specs/cli.md, CLI-71)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from ptycho_contracts.problems import ContractError, Problem

from ptycho_cli.commands.parameters import Overwrite, Quiet
from ptycho_cli.output.earlier import require_new_files
from ptycho_cli.output.publish import require_files, require_output_dir
from ptycho_cli.output.terminal import show

DEFAULT = Path("report.html")


def report(
    *results: Annotated[Path, Parameter(help="Folders of results, of train, infer, reconstruct, evaluate or demo.")],
    output: Annotated[Path, Parameter(name="--output", help="Page to write, outside of folders of results.")] = DEFAULT,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained HTML page of a run, or of several beside each other, from their results."""
    if not results:
        problem = Problem("report", "usage.results", "at least one folder of results", "none", "name one: report OUT")
        raise ContractError(problem)
    require_files([("Results", folder) for folder in results])
    from ptycho_data.atomic_files import atomic_write, make_folder

    from ptycho_cli.output.finished_runs import page_of, read_run

    _check_output(output, overwrite=overwrite)
    page = page_of([read_run(folder) for folder in results])
    make_folder(output.parent)
    with atomic_write(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    if not quiet:
        show(f"wrote {output}: {len(results)} run{'s' if len(results) > 1 else ''}, {len(page) / 1e6:.1f} MB")


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse a page that would replace something, or become a stranger in a set of results."""
    from ptycho_cli.output.report import EVALUATION, SUMMARY

    problems = []
    if output.is_dir():
        problems.append(Problem(str(output), "output.is_a_folder", "a file name", "a folder", "add a file name"))
    elif any((output.parent / name).is_file() for name in (SUMMARY, EVALUATION)):
        found = f"{output.parent}, whose files are one set with its own report.html"
        remedy = "give --output a name outside of it"
        problems.append(Problem(str(output), "report.in_results", "a folder without results", found, remedy))
    if problems:
        raise ContractError(problems)
    require_new_files([output], overwrite=overwrite)
    require_output_dir(output.parent)
