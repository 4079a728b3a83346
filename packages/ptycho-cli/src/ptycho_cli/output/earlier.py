"""Nothing that exists is overwritten unless asked (specs/cli.md, CLI-45)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.foreign_content import from_json
from ptycho_data.run_folder import run_folder

CODE = "output.exists"


@contextmanager
def results_folder(
    path: Path, command: Sequence[str], *, writes: Iterable[str], overwrite: bool = False, resume: bool = False
) -> Iterator[None]:
    """A with-block that alone writes results into a folder, in which no results of an earlier run stand.

    Args:
        path: The folder; made if missing.
        command: What runs, as others are told.
        writes: Paths below the folder that this run may write.
        overwrite: Whether it may replace them.
        resume: Whether it continues the run that left them.

    Raises:
        ContractError: ``output.exists``, or ``output.locked`` (RUN-1).
    """
    with run_folder(path, command):
        if not (overwrite or resume):
            require_free_folder(path, writes)
        yield


def require_free_folder(path: Path, writes: Iterable[str]) -> None:
    """Refuse a folder in which something stands that a run would write.

    Raises:
        ContractError: ``output.exists``, naming all of it.
    """
    standing = [name for name in writes if os.path.lexists(path / name)]
    states = [name for name in standing if len(Path(name).parts) > 1]
    if standing == states:
        expected, remedy = "a folder without the state of an unfinished run", "--resume continues it; to start again, "
    else:
        expected, remedy = "a folder without results of an earlier run", ""
    if standing:
        remedy += "give another folder, or --overwrite to replace them"
        raise ContractError(Problem(str(path), CODE, expected, ", ".join(standing), remedy))


def require_new_files(files: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to write a file where one stands, unless it may be overwritten.

    Raises:
        ContractError: ``output.exists``, for each.
    """
    problems = [
        Problem(str(file), CODE, "no file there yet", "a file", "give --overwrite, or another name")
        for file in files
        if not overwrite and os.path.lexists(file) and not file.is_dir()
    ]
    if problems:
        raise ContractError(problems)


def remove_left_out(folder: Path, summary: str, outputs: Mapping[str, str]) -> None:
    """Remove the files of an earlier set of results that a new one lacks: those that are as their summary says.

    Args:
        folder: Of both sets.
        summary: Name of the file that says what belongs to the earlier one.
        outputs: Names in the new one.
    """
    for name, expected in recorded(folder / summary).items():
        if name not in outputs and is_as_recorded(folder / name, expected):
            (folder / name).unlink()


def recorded(summary: Path) -> dict[str, str]:
    """The sha256 of each file beside a summary, as far as it says; empty for anything else."""
    return outputs_of(content_of(summary))


def outputs_of(report: Any) -> dict[str, str]:
    """The names of files beside a summary and their sha256, as far as it says."""
    outputs = report.get("outputs") if isinstance(report, Mapping) else None
    named = outputs.items() if isinstance(outputs, Mapping) else ()
    return {name: value for name, value in named if isinstance(value, str) and Path(name).name == name}


def content_of(summary: Path) -> Any:
    """What a summary says; None if it is missing or no JSON."""
    try:
        return from_json(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def is_as_recorded(file: Path, sha256: str) -> bool:
    """Whether a file is there, with this content."""
    from ptycho_data.files import file_sha256

    return file.is_file() and not file.is_symlink() and file_sha256(file) == sha256
