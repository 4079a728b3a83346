"""Whether the files of a results folder are one set (specs/cli.md, CLI-34, CLI-35)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.checks.quality import Check
from ptycho_data.foreign_content import from_json
from ptycho_data.run_folder import running_in

from ptycho_cli.output.report import EVALUATION, REPORT, SUMMARY

RESULTS = (
    "object.npz",
    "amplitude.png",
    "phase.png",
    "coverage.png",
    "losses.png",
    "model.safetensors",
    "comparison.png",
    "frc.png",
    "report.md",
    "object.cxi",
    "object.tif",
    "product.h5",
)
_FACTS = ("command", "versions", "seed", "device")


def is_results_folder(path: Path) -> bool:
    """Whether a folder holds results of a command, whole or not."""
    return path.is_dir() and any((path / name).is_file() for name in (SUMMARY, EVALUATION, *RESULTS))


def verified(path: Path) -> tuple[dict[str, Any], tuple[Check, ...]]:
    """Facts of a folder of results, and a check of each output beside its sha256 in the summary.

    Raises:
        ContractError: ``results.mixed``, files that do not belong together, all at once; ``results.incomplete``,
            results without a summary; ``results.summary``, a summary that cannot be read.
    """
    running = running_in(path)
    facts: dict[str, Any] = {} if running is None else {"running": f"{running}: its results are not here yet"}
    checks, problems = list[Check](), list[Problem]()
    declared = set[str]()
    for name in (SUMMARY, EVALUATION):
        if not (path / name).is_file():
            continue
        report = read_summary(path / name)
        facts |= {key: report[key] for key in _FACTS if key in report and key not in facts}
        for output, expected in _outputs(path / name, report).items():
            if output == REPORT and output in declared:  # the summary's: its run came after the evaluation
                continue
            declared.add(output)
            found = _digest(path / output)
            checks.append(Check(output, "ok", f"sha256 {expected[:16]}..., as {name} says"))
            if found != expected:
                words = "no such file" if found is None else f"sha256 {found[:16]}..., of another run"
                problems.append(_mixed(path / output, f"sha256 {expected[:16]}..., as {name} says", words))
        if name == EVALUATION:
            problems += _evaluated_before(path, report)
    stray = [name for name in (*RESULTS, REPORT) if name not in declared and (path / name).is_file()]
    if stray and not (path / SUMMARY).is_file():
        problems.append(
            Problem(
                str(path),
                "results.incomplete",
                f"{SUMMARY}, which is written last",
                f"none beside {', '.join(stray)}",
                "the run that wrote them did not finish; run it again",
            )
        )
    elif stray:
        problems += [
            _mixed(path / name, "a file that the summary names", "one that it does not name") for name in stray
        ]
    if problems:
        raise ContractError(problems)
    return facts, tuple(checks)


def _evaluated_before(path: Path, report: Mapping[str, Any]) -> list[Problem]:
    """The problem of an evaluation whose image beside it has been replaced."""
    image, inputs = path / "object.npz", report.get("inputs")
    for entry in inputs if isinstance(inputs, list) else []:
        where = Path(str(entry.get("path"))) if isinstance(entry, dict) else Path()
        is_image = where.name == image.name and where.is_file() and image.is_file() and where.samefile(image)
        if is_image and entry.get("sha256") != _digest(image):
            return [_mixed(path / EVALUATION, "an evaluation of object.npz as it is", "one of an earlier object.npz")]
    return []


def _mixed(path: Path, expected: str, found: str) -> Problem:
    return Problem(
        str(path), "results.mixed", expected, found, "these files do not belong together; run the command again"
    )


def _digest(path: Path) -> str | None:
    from ptycho_data.files import file_sha256

    return file_sha256(path) if path.is_file() else None


def read_summary(path: Path) -> dict[str, Any]:
    """Content of a summary or evaluation.

    Raises:
        ContractError: ``results.summary``, it cannot be read.
    """
    try:
        report = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(report, dict):
        raise _unreadable(path, type(report).__name__)
    return report


def _outputs(path: Path, report: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of each output; names of other folders are no outputs."""
    outputs = report.get("outputs")
    if not isinstance(outputs, dict):
        raise _unreadable(path, "outputs without sha256")
    for name, value in outputs.items():
        if not isinstance(value, str) or Path(name).name != name:
            raise _unreadable(path, f"output {name!r}")
    return outputs


def _unreadable(path: Path, found: str) -> ContractError:
    return ContractError(
        Problem(
            str(path),
            "results.summary",
            "the summary of a run, with the sha256 of its outputs",
            " ".join(found.split())[:200],
            "run the command again",
        )
    )
