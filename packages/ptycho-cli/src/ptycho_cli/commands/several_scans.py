"""One command on several scans: a folder of results for each, one table in the end (specs/cli.md, CLI-52)."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptycho_contracts.config import Section, to_dict
from ptycho_contracts.problems import ContractError, Problem, WorkFailedError
from ptycho_data.foreign_content import from_json
from ptycho_data.signals import Interrupted

from ptycho_cli.output.checkpoints import CHECKPOINT
from ptycho_cli.output.flags import with_flags
from ptycho_cli.output.report import SUMMARY
from ptycho_cli.output.scan_table import Row, finished_row, table
from ptycho_cli.output.terminal import printable, show

SUFFIXES = (".npz", ".h5", ".hdf5", ".cxi", ".nxs", ".ptyd")
"""Of the files that are scans, in a folder of them."""
Summary = Mapping[str, Any]
BUDGET = ("epochs", "max_seconds", "refine")
"""Options with which a run may resume another."""


def scans_of(command: str, data: Sequence[Path], mapping: Path | None) -> list[Path]:
    """The scans that a command line names; a folder stands for those in it, with a mapping for its own frames.

    Raises:
        ContractError: none is named, or a folder has none.
    """
    if not data:
        raise ContractError(
            Problem(command, "usage.missing", "DATA, which is required", "none", f"see ptycho-cli {command} --help")
        )
    scans: list[Path] = []
    for path in data:
        if mapping is not None or not path.is_dir():
            scans.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if _is_scan(file))
        if not inside:
            expected = f"a scan, or a folder of them ({', '.join(SUFFIXES)})"
            found, remedy = "a folder without any", "name files, or make a scan of frames: `ptycho-cli import`"
            raise ContractError(Problem(str(path), "scans.none", expected, found, remedy))
        scans += inside
    return list(dict.fromkeys(scans))


def are_several(data: Sequence[Path], scans: Sequence[Path]) -> bool:
    """Whether each scan gets a folder of its own: if one file alone is named, its results are OUT's."""
    return list(data) != list(scans) or len(scans) > 1


def folder_names(scans: Sequence[Path]) -> list[str]:
    """A name for each scan's folder: the file's without suffix, with it if that repeats, else with a number.

    >>> folder_names([Path("a/x.npz"), Path("a/x.h5"), Path("b/y.npz"), Path("c/x.npz")])
    ['x.npz', 'x.h5', 'y', 'x.npz-2']
    """
    stems = Counter(path.stem for path in scans)
    wanted = [path.stem if stems[path.stem] == 1 else path.name for path in scans]
    names: list[str] = []
    for name in wanted:
        number, free = 1, name
        while free in names or (number > 1 and free in wanted):
            number += 1
            free = f"{name}-{number}"
        names.append(free)
    return names


def run_each(
    command: str,
    scans: Sequence[Path],
    output_dir: Path,
    one: Callable[[Path, Path], Summary],
    *,
    quiet: bool,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run a command on each scan and print a table; a scan that fails does not keep the others from their turn.

    Args:
        command: ``"infer"`` or ``"reconstruct"``.
        scans: Files, each once.
        output_dir: Holds a folder for each.
        one: Runs one scan into a folder; its summary.
        quiet: Print neither table nor titles.

    Raises:
        WorkFailedError: ``scans.failed``, after all of them had their turn.
    """
    rows: list[Row] = []
    try:
        for number, (path, name) in enumerate(zip(scans, folder_names(scans), strict=True), start=1):
            if not quiet:
                print(f"scan {number} of {len(scans)}: {printable(str(path))}", file=sys.stderr, flush=True)
            began = clock()
            try:
                summary = one(path, output_dir / name)
            except Exception as error:
                rows.append(Row(path.name, "failed", seconds=clock() - began, reason=_reason(error)))
            else:
                rows.append(finished_row(path.name, summary, clock() - began, output_dir / name))
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        own = f"; of this one: {error.kept}" if isinstance(error, Interrupted) and error.kept else ""
        done = sum(not row.reason for row in rows)
        raise Interrupted(number, f"the results of {done} of {len(scans)} scans stay{own}") from error
    finally:
        # Also of those before Ctrl-C: their results stay.
        if rows and not quiet:
            for line in table(rows):
                show(line)
    failed = [row for row in rows if row.reason]
    if failed:
        each = "; ".join(f"{row.file}: {row.reason}" for row in failed) if quiet else ", ".join(r.file for r in failed)
        found = f"{len(failed)} of {len(rows)} failed: {each}"
        remedy = f"the results of the others stay; mend these, and run {command} on them alone"
        raise WorkFailedError(Problem(str(output_dir), "scans.failed", "an image of each scan", found, remedy))


def way_on(
    folder: Path, files: Sequence[Path], asked: Section, options: Mapping[str, Any]
) -> tuple[Summary | None, Mapping[str, Any]]:
    """How a scan goes on: the summary of results that are done already, and the options of a run otherwise.

    Args:
        folder, files, asked: As for :func:`earlier_results`.
        options: Of the command.
    """
    # A checkpoint beside results is of a run that its time limit ended (CLI-27).
    if not options["resume"] or (folder / CHECKPOINT).is_file():
        return None, options
    earlier = earlier_results(folder, files, asked)
    anew = options["overwrite"] or (folder / SUMMARY).is_file()
    return earlier, {**options, "resume": False, "overwrite": anew}


def earlier_results(folder: Path, files: Sequence[Path], asked: Section) -> Summary | None:
    """The summary of the results that a folder holds, for a run that is resumed: they are left as they are.

    Args:
        folder: Of one scan.
        files: What this run reads for it.
        asked: Its options; those of the budget may differ.

    Returns:
        None if there are no results, or only those that a time limit cut short.

    Raises:
        ContractError: files that do not belong together, a summary that cannot be read, or ``results.other``: results
            of other files or options.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return None
    from ptycho_data.files import file_sha256

    from ptycho_cli.output.results import verified

    verified(folder)
    content: Summary = from_json(path.read_text(encoding="utf-8"))
    settings = content.get("settings") or {}
    stored = settings.get(asked.section, {})
    expected, remedy = "an image of the same files and options", "give another folder, or --overwrite to replace it"

    def other(found: str) -> ContractError:
        return ContractError(Problem(str(folder), "results.other", expected, found, remedy))

    if "object.npz" not in content.get("outputs", {}) or (settings and asked.section not in settings):
        raise other("the results of another command")
    if {entry.get("sha256") for entry in content.get("inputs", ())} != {file_sha256(file) for file in files}:
        raise other("one of other files")
    options = {name: value for name, value in to_dict(asked).items() if name in stored and name not in BUDGET}
    changed = [name for name, value in options.items() if stored[name] != value]
    if changed:
        raise other(f"one with another {', '.join(changed)}")
    return None if content.get("stopped_by") == "max_seconds" else content


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    text = text if hasattr(error, "problems") else f"{type(error).__name__}: {text}"
    return printable(with_flags(text))


def _is_scan(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
