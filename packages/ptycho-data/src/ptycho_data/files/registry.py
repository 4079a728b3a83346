"""All file formats in one list; a file's format is detected from its content (specs/files.md, FILE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ptycho_contracts.import_options import ImportOptions
from ptycho_contracts.problems import ContractError, Problem, nearest
from ptycho_contracts.records import Scan

from ptycho_data.files.containers.opened import first_bytes, kind_in_words
from ptycho_data.files.door.applied import NORMALISED_INTENSITY
from ptycho_data.files.door.corrected_scan import CORRECTIONS, SET_UP, corrected_scan, with_set_up
from ptycho_data.files.door.imported import Imported, detector_images, imported
from ptycho_data.files.door.options import options_of
from ptycho_data.files.formats import cxi, mapping, npz, ptychodus, ptyd, unknown_hdf5
from ptycho_data.files.interpret.optics import GEOMETRY_KEYS
from ptycho_data.files.interpret.units import UNITS
from ptycho_data.files.sources import refuse_companion
from ptycho_data.foreign_content import reading
from ptycho_data.input_files import checked_file
from ptycho_data.tensor_files import is_safetensors


class Format(Protocol):
    """What a format module offers."""

    NAME: str
    SUFFIXES: tuple[str, ...]

    def matches(self, path: Path) -> bool:
        """Whether a file is of this format, by its content."""

    def read(
        self,
        path: Path,
        *,
        measurement: str = "auto",
        nphotons: float | None = None,
        companion: Path | None = None,
        object_is_truth: bool = False,
    ) -> Scan:
        """Read one scan."""


class WritableFormat(Format, Protocol):
    """What a format module offers that also writes."""

    def write(self, path: Path, scan: Scan, *, geometry: Mapping[str, float] | None = None) -> None:
        """Write one scan, atomically."""


FORMATS: tuple[Format, ...] = (ptychodus, npz, cxi, ptyd, mapping, unknown_hdf5)  # type: ignore[assignment]
"""In the order in which they are tried."""


def read_scan(
    path: Path | str,
    *,
    measurement: str = "auto",
    nphotons: float | None = None,
    companion: Path | str | None = None,
    mapping: Path | str | None = None,
    object_is_truth: bool = False,
    **options: Any,
) -> Scan:
    """Read a scan from a file of any known format, detected by content and not by suffix.

    Args:
        path: The file; with a mapping or options also a folder of frames.
        measurement: What the patterns hold: ``"counts"``, ``"amplitude"``,
            ``"normalised-amplitude"``, or ``"auto"``: as the file declares, else measured, else refused.
        nphotons: Mean photons per pattern for normalised amplitude; default: the file's key.
        companion: Second file of formats that have two: Ptychodus' product beside its diffraction
            (or the reverse), or the data file of a mapping.
        mapping: A mapping that says how to read the file, as ``import`` writes it.
        object_is_truth: Whether the file's object is the true one although the file does not say so (SCAN-3).
        options: Those of :class:`ImportOptions`, for files that do not say everything themselves.

    Returns:
        Scan: counts or amplitude as stored; ``metadata`` holds ``source``, ``sha256``, ``format``,
        ``measurement`` (``unit``, ``decided_by``, ``evidence``), ``nphotons`` (measured), ``object``,
        ``geometry``.

    Raises:
        MissingFileError: no such file.
        ContractError: not a known format, or bad content, with all problems at once.
    """
    if mapping is not None or options:
        refuse_companion(Path(path), None if companion is None else Path(companion), beside="a mapping or options")
        given = options_of(options)
        by = None if mapping is None else Path(mapping)
        return import_scan([path], options=given, mapping=by, measurement=measurement, nphotons=nphotons).scan
    path = checked_file(path)
    _check_measurement(measurement, UNITS)
    second = None if companion is None else checked_file(companion)
    with reading(path):
        for candidate in FORMATS:
            if candidate.matches(path):
                return candidate.read(
                    path, measurement=measurement, nphotons=nphotons, companion=second, object_is_truth=object_is_truth
                )
    raise _no_scan(path)


def _no_scan(path: Path) -> ContractError:
    """What a file of no format of scans is, and what it is for."""
    found, remedy = kind_in_words(path), "ptycho-cli import FILE OUT makes a scan of it and of its positions"
    if is_safetensors(path):
        found, remedy = "a trained model", "name the scan; infer takes the model first, then the scan"
    elif found is None:
        found, remedy = first_bytes(path), "check the path, and that the file was copied whole"
    known = ", ".join(candidate.NAME for candidate in FORMATS)
    return ContractError(Problem(str(path), "file.format", f"a scan in a known format ({known})", found, remedy))


def import_scan(
    files: Sequence[Path | str],
    *,
    options: ImportOptions | None = None,
    mapping: Path | str | None = None,
    measurement: str = "auto",
    nphotons: float | None = None,
) -> Imported:
    """Read a scan from any files of patterns and positions (specs/files.md, DOOR).

    A file of a known format says what it holds; where it does not, and for all other files, arrays are
    taken for what their names, shapes and content speak for, and as the options say.

    Args:
        files: A file; a file with that of its positions; the frames of a scan, or their folder.
        options: What the files leave open.
        mapping: A mapping that was written for another scan of the same kind.
        measurement: As in :func:`read_scan`, or ``"normalised-intensity"``.
        nphotons: Mean photons per pattern, for normalised patterns.

    Raises:
        MissingFileError: no such file.
        ContractError: what cannot be known, each with the option that says it; or bad content.
    """
    _check_measurement(measurement, (*UNITS, NORMALISED_INTENSITY))
    paths = [Path(path) for path in files]
    options = options or ImportOptions()
    told: dict[str, Any] = {"measurement": measurement, "nphotons": nphotons}
    with reading(", ".join(map(str, paths[:3]))):
        return _imported(paths, options, None if mapping is None else checked_file(mapping), told)


def _imported(paths: list[Path], options: ImportOptions, mapping: Path | None, told: dict[str, Any]) -> Imported:
    """By a mapping, by the file's own format, or by guesses."""
    if mapping is not None:
        return imported(paths, options, mapping=mapping, **told)
    known = _known_format(paths[0]) if len(paths) <= 2 else None
    takes = CORRECTIONS | SET_UP if known is not None and known.NAME == npz.NAME else CORRECTIONS
    if known is None or not set(options.given) <= takes or told["measurement"] == NORMALISED_INTENSITY:
        return imported(paths, options, **told)
    try:
        second = checked_file(paths[1]) if len(paths) == 2 else None
        scan = known.read(paths[0], companion=second, **told)
    except ContractError as error:
        if not set(error.codes) <= _SAYS_TOO_LITTLE:
            raise
        return imported(paths, options, **told)
    lines = (f"{known.NAME}: the file says what it holds; no mapping is needed",)
    scan = corrected_scan(with_set_up(scan, options), options, detector_images(options))
    return Imported(scan, {}, lines, paths[0])


_SAYS_TOO_LITTLE = frozenset(
    {
        "array.shape",
        "array.not_finite",
        "array.minimum",
        "geometry.energy",
        "geometry.missing",
        "geometry.positions",
        "geometry.unit",
        "scan.companion",
        "scan.counts_differ",
        "scan.no_patterns",
        "scan.no_positions",
        "scan.not_square",
        "scan.pattern_axis",
        "scan.positions_axis",
        "scan.positions_shape",
    }
)
"""Problems of a known format after which arrays are sought by name, shape and content."""


def _known_format(path: Path) -> Format | None:
    """The format of a file that can hold a whole scan in a known layout."""
    if path.is_dir() or not path.exists():
        return None
    path = checked_file(path)
    found = next((candidate for candidate in FORMATS if candidate.matches(path)), None)
    return None if found is None or found.NAME in ("mapping", "hdf5") else found


def _check_measurement(measurement: str, legal: Sequence[str]) -> None:
    if measurement not in ("auto", *legal):
        raise ContractError(
            Problem("measurement", "scan.unit", " or ".join(("auto", *legal)), repr(measurement), "give a legal value")
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
