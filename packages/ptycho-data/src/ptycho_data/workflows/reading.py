"""Scans in memory or their files, read as the options ``measurement`` and ``nphotons`` say (CFG-28)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptycho_contracts.effects import CODE
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.files import combine_scans, read_scan

ScanOrFile = Scan | str | Path

_READING = ("measurement", "nphotons")
_DOSE_TOLERANCE = 1e-3
"""Relative; a scan's recorded dose is measured in single precision."""


def several(scans: ScanOrFile | Sequence[ScanOrFile]) -> list[ScanOrFile]:
    """One scan or file, or several, as a list."""
    return [scans] if isinstance(scans, Scan | str | Path) else list(scans)


def combined_scan(scans: ScanOrFile | Sequence[ScanOrFile], given: Mapping[str, Any]) -> Scan:
    """Scans, or their files, as one dataset; each file is read once.

    Args:
        scans: One scan or file, or several.
        given: Options; of these ``measurement``, ``nphotons`` and ``object_is_truth`` say how files are read.

    Raises:
        MissingFileError, ContractError: as :func:`ptycho_data.files.read_scan`.
    """
    reading = {name: given[name] for name in (*_READING, "object_is_truth") if given.get(name) is not None}
    return combine_scans([scan if isinstance(scan, Scan) else read_scan(scan, **reading) for scan in several(scans)])


def opened_scan(scan: ScanOrFile, *, measurement: str, nphotons: float | None, object_is_truth: bool = False) -> Scan:
    """A scan, read from its file if it is one.

    Raises:
        MissingFileError, ContractError: as :func:`ptycho_data.files.read_scan` and :func:`require_read_so`.
    """
    given = {"measurement": measurement, "nphotons": nphotons}
    require_read_so(scan, given)
    if object_is_truth and isinstance(scan, Scan):
        require_no_reading({"object_is_truth": True}, "the scan in memory says itself what its object is")
    return combined_scan(scan, {**given, "object_is_truth": object_is_truth or None})


def require_read_so(scans: ScanOrFile | Sequence[ScanOrFile], given: Mapping[str, Any]) -> None:
    """Refuse options of reading for scans in memory that were not read so: nothing obeys them.

    Args:
        scans: Files pass: they are read with the options.
        given: Options; of these ``measurement`` and ``nphotons`` count.

    Raises:
        ContractError: ``config.no_effect``.
    """
    parts = [part for scan in several(scans) if isinstance(scan, Scan) for part in _parts(scan)]
    units = {unit for unit, _ in parts}
    problems = []
    measurement, nphotons = (given.get(name) for name in _READING)
    if measurement not in (None, "auto") and units - {measurement}:
        problems.append(_problem("measurement", measurement, f"the scan in memory holds {' and '.join(sorted(units))}"))
    if nphotons is not None:
        if units - {"normalised-amplitude"}:
            reason = f"the scan in memory holds {' and '.join(sorted(units))}, with a dose of its own"
            problems.append(_problem("nphotons", nphotons, reason))
        elif not all(math.isclose(dose, nphotons, rel_tol=_DOSE_TOLERANCE) for _, dose in parts):
            problems.append(_problem("nphotons", nphotons, "the scan in memory was read with another dose"))
    if problems:
        raise ContractError(problems)


def require_no_reading(given: Mapping[str, Any], reason: str) -> None:
    """Refuse options of reading where no patterns are read.

    Raises:
        ContractError: ``config.no_effect``.
    """
    problems = [_problem(name, value, reason) for name, value in given.items() if value not in (None, False, "auto")]
    if problems:
        raise ContractError(problems)


def _parts(scan: Scan) -> list[tuple[str, float]]:
    """What each file of a scan held, and its mean photons per pattern."""
    facts = [fact for fact in scan.metadata.get("scans", [scan.metadata]) if isinstance(fact, Mapping)]
    read = [(fact.get("measurement"), fact.get("nphotons")) for fact in facts]
    return [
        (str(decided["unit"]) if isinstance(decided, Mapping) and "unit" in decided else scan.unit, float(dose or 0))
        for decided, dose in read
    ]


def _problem(name: str, value: Any, reason: str) -> Problem:
    found = f"{value!r}, which has none: {reason}"
    return Problem(
        f"data.{name}" if name in _READING else name, CODE, "an option that has an effect", found, f"leave `{name}` out"
    )
