"""All file formats in one list; a file's format is found from its content (specs/files.md, FILE)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.files import npz
from ptycho_data.files.sources import checked_file
from ptycho_data.files.units import UNITS


class Format(Protocol):
    """What a format module offers."""

    NAME: str
    SUFFIXES: tuple[str, ...]

    def matches(self, path: Path) -> bool:
        """Whether a file is of this format, by its content."""

    def read(self, path: Path, *, measurement: str = "auto", nphotons: float | None = None) -> Scan:
        """Read one scan."""

    def write(self, path: Path, scan: Scan) -> None:
        """Write one scan, atomically."""


FORMATS: tuple[Format, ...] = (npz,)  # type: ignore[assignment]


def read_scan(path: Path | str, *, measurement: str = "auto", nphotons: float | None = None) -> Scan:
    """Read a scan from a file of any known format, found by content and not by suffix.

    Args:
        path: The file.
        measurement: What the patterns hold: ``"counts"``, ``"amplitude"``,
            ``"normalised-amplitude"``, or ``"auto"``: the file's own word, else measured, else refused.
        nphotons: Mean photons a pattern for normalised amplitude; the file's key where not given.

    Returns:
        Scan: counts or amplitude as stored; ``metadata`` holds ``source``, ``sha256``, ``format``,
        ``measurement`` (``unit``, ``decided_by``, ``evidence``), ``nphotons`` (measured), ``object``,
        ``geometry``.

    Raises:
        MissingFileError: no such file.
        ContractError: not a known format, or bad content, with all problems at once.
    """
    path = checked_file(path)
    if measurement not in ("auto", *UNITS):
        raise ContractError(
            Problem("measurement", "scan.unit", " or ".join(("auto", *UNITS)), repr(measurement), "give a legal value")
        )
    for candidate in FORMATS:
        if candidate.matches(path):
            return candidate.read(path, measurement=measurement, nphotons=nphotons)
    with path.open("rb") as stream:
        first = stream.read(8)
    raise ContractError(
        Problem(str(path), "file.format", f"a scan in a known format ({', '.join(f.NAME for f in FORMATS)})",
                f"a file that begins with {first!r}", "convert it, or check that it was copied whole")
    )  # fmt: skip


def write_scan(path: Path | str, scan: Scan, *, format: str | None = None) -> None:
    """Write a scan, atomically; an existing file is replaced only by a complete one.

    Args:
        path: The file to write.
        scan: What to write.
        format: Name of the format; by the path's suffix where not given.

    Raises:
        ContractError: unknown format.
        MissingFileError: the folder does not exist.
    """
    path = Path(path)
    for candidate in FORMATS:
        if format == candidate.NAME or (format is None and path.suffix.lower() in candidate.SUFFIXES):
            candidate.write(path, scan)
            return
    suffixes = ", ".join(suffix for candidate in FORMATS for suffix in candidate.SUFFIXES)
    raise ContractError(
        Problem(str(path), "file.format", f"a suffix of a known format ({suffixes}), or the format's name",
                repr(format if format is not None else path.suffix), "name the file with such a suffix")
    )  # fmt: skip
