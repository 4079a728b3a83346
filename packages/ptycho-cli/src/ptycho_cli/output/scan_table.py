"""The table at the end of a run on several scans (specs/cli.md, CLI-52)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TITLES = ("file", "verdict", "R", "floor", "seconds", "folder")
_RIGHT = (2, 3, 4)


@dataclass(frozen=True)
class Row:
    """One scan.

    Attributes:
        file: Its name.
        verdict: In words.
        residual, floor: R of the used patterns and its Poisson floor; None: unknown.
        seconds: Wall time.
        folder: Of its results; None if it failed.
        reason: Why it failed; empty if it did not.
    """

    file: str
    verdict: str
    seconds: float
    residual: float | None = None
    floor: float | None = None
    folder: Path | None = None
    reason: str = ""


def finished_row(file: str, summary: Mapping[str, Any], seconds: float, folder: Path) -> Row:
    """The row of a scan that has its results."""
    from ptycho_data.checks.advice import standing

    residual, floor = ((summary.get(name) or {}).get("used") for name in ("residual", "poisson_floor"))
    verdict = "collapsed training" if summary.get("training_collapsed") else standing(residual, floor)
    return Row(file, verdict, seconds, residual, floor, folder)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Aligned lines; a reason stands in the place of the folder."""
    cells = [_TITLES, *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_TITLES) - 1)]
    for row in cells:
        aligned = [
            text.rjust(width) if column in _RIGHT else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=False))
        ]
        yield "  ".join([*aligned, row[-1]]).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    figures = ("-" if value is None else f"{value:.4g}" for value in (row.residual, row.floor))
    return (row.file, row.verdict, *figures, f"{row.seconds:.1f}", row.reason or str(row.folder))
