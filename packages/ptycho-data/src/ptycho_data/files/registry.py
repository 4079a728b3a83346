"""All file formats in one list; a file's format is detected from its content (specs/files.md, FILE)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ptycho_contracts.problems import ContractError, Problem, nearest
from ptycho_contracts.records import Scan

from ptycho_data.files.formats import cxi, mapping, npz, ptychodus, ptyd, unknown_hdf5
from ptycho_data.files.interpret.optics import GEOMETRY_KEYS
from ptycho_data.files.interpret.units import UNITS
from ptycho_data.foreign_content import reading
from ptycho_data.input_files import checked_file


class Format(Protocol):
    """What a format module offers."""

    NAME: str
    SUFFIXES: tuple[str, ...]

    def matches(self, path: Path) -> bool:
        """Whether a file is of this format, by its content."""

    def read(
        self, path: Path, *, measurement: str = "auto", nphotons: float | None = None, companion: Path | None = None
    ) -> Scan:
        """Read one scan."""


class WritableFormat(Format, Protocol):
    """What a format module offers that also writes."""

    def write(self, path: Path, scan: Scan, *, geometry: Mapping[str, float] | None = None) -> None:
        """Write one scan, atomically."""


FORMATS: tuple[Format, ...] = (ptychodus, npz, cxi, ptyd, mapping, unknown_hdf5)  # type: ignore[assignment]
"""In the order in which they are tried."""


def read_scan(
    path: Path | str, *, measurement: str = "auto", nphotons: float | None = None, companion: Path | str | None = None
) -> Scan:
    """Read a scan from a file of any known format, detected by content and not by suffix.

    Args:
        path: The file.
        measurement: What the patterns hold: ``"counts"``, ``"amplitude"``,
            ``"normalised-amplitude"``, or ``"auto"``: as the file declares, else measured, else refused.
        nphotons: Mean photons per pattern for normalised amplitude; default: the file's key.
        companion: Second file of formats that have two: Ptychodus' product beside its diffraction
            (or the reverse), or the data file of a mapping.

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
    second = None if companion is None else checked_file(companion)
    with reading(path):
        for candidate in FORMATS:
            if candidate.matches(path):
                return candidate.read(path, measurement=measurement, nphotons=nphotons, companion=second)
    with path.open("rb") as stream:
        first = stream.read(8)
    raise ContractError(
        Problem(
            str(path),
            "file.format",
            f"a scan in a known format ({', '.join(f.NAME for f in FORMATS)})",
            f"a file that begins with {first!r}",
            "convert it, or check that it was copied whole",
        )
    )


def format_of(path: Path | str) -> str | None:
    """Name of a file's format, detected by content; None if unknown.

    Raises:
        MissingFileError: no such file.
        ContractError: no regular file, or an empty one.
    """
    path = checked_file(path)
    with reading(path):
        return next((candidate.NAME for candidate in FORMATS if candidate.matches(path)), None)


def write_scan(
    path: Path | str, scan: Scan, *, format: str | None = None, geometry: Mapping[str, float] | None = None
) -> None:
    """Write a scan, atomically; an existing file is replaced only by a complete one.

    Args:
        path: The file to write.
        scan: What to write.
        format: Name of the format; default: by the path's suffix.
        geometry: Scalars of the set-up that the scan does not know, for formats in metres:
            ``photon_energy_ev``, ``detector_distance_m``, ``detector_pixel_size_m``,
            ``object_pixel_size_m``; the fourth follows from three.

    Raises:
        ContractError: unknown format, one that needs a probe or an unknown set-up, or scans with true
            objects of their own: a file holds one.
        MissingFileError: the folder does not exist.
    """
    path = Path(path)
    writers = [candidate for candidate in FORMATS if callable(getattr(candidate, "write", None))]
    unknown = sorted(set(geometry or {}) - set(GEOMETRY_KEYS))
    if unknown:
        raise ContractError(
            [
                Problem(
                    f"geometry: {key}",
                    "option.unknown",
                    "a scalar of the set-up",
                    repr(key),
                    nearest(key, GEOMETRY_KEYS),
                )
                for key in unknown
            ]
        )
    if scan.object_truths:
        raise ContractError(
            Problem(
                "Scan: object_truths",
                "scan.several_truths",
                "at most one true object for a file",
                f"{len(scan.object_truths)}",
                "write each scan as a file of its own, or leave object_truths out",
            )
        )
    for candidate in writers:
        if format == candidate.NAME or (format is None and path.suffix.lower() in candidate.SUFFIXES):
            candidate.write(path, scan, geometry=geometry)  # type: ignore[attr-defined]
            return
    suffixes = ", ".join(f"{suffix} for {candidate.NAME}" for candidate in writers for suffix in candidate.SUFFIXES)
    raise ContractError(
        Problem(
            str(path),
            "file.format",
            f"a suffix of a known format ({suffixes}), or the format's name",
            repr(format if format is not None else path.suffix),
            "name the file with such a suffix",
        )
    )
