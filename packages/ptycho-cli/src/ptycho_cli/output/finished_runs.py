"""Runs as their folders of results tell them (specs/cli.md, CLI-71)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.foreign_content import reading

from ptycho_cli.output.comparison_page import comparison_page
from ptycho_cli.output.report import EVALUATION, SUMMARY
from ptycho_cli.output.results import is_results_folder, read_summary, verified
from ptycho_cli.output.run_page import Run, pictures_in, run_page


def read_run(folder: Path) -> Run:
    """The run whose results a folder holds, after the checks of ``inspect`` (CLI-35).

    Raises:
        ContractError: no results, or files that do not belong together.
    """
    if not is_results_folder(folder):
        found, remedy = "a folder without any" if folder.is_dir() else "a file", "name the --output-dir of a run"
        problem = Problem(str(folder), "report.no_results", "a folder of results", found, remedy)
        raise ContractError(problem)
    verified(folder)
    found_here: dict[str, dict[str, Any]] = {
        name: read_summary(folder / name) for name in (SUMMARY, EVALUATION) if (folder / name).is_file()
    }
    evaluation = found_here.get(EVALUATION, {})
    with reading(folder):
        return Run(found_here.get(SUMMARY, evaluation), evaluation, pictures_in(folder), str(folder))


def page_of(runs: Sequence[Run]) -> str:
    """The page of one run, or of several beside each other.

    Raises:
        ContractError: ``file.unreadable``, summaries that no run wrote.
    """
    with reading(", ".join(run.name for run in runs)):
        return run_page(runs[0]) if len(runs) == 1 else comparison_page(runs)
