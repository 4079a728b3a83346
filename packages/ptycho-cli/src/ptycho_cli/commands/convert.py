"""The command ``convert``: a scan or an image in another format (specs/cli.md, CLI-25)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from ptycho_contracts.config import DataConfig, resolve
from ptycho_contracts.effects import require_effects
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.atomic_files import make_folder

from ptycho_cli.commands.parameters import MappingFile, Measurement, Overwrite, Quiet
from ptycho_cli.output.earlier import require_new_files
from ptycho_cli.output.progress import progress_on, reading_words
from ptycho_cli.output.publish import require_files, require_output_dir
from ptycho_cli.output.report import OBJECT_FILES, SUMMARY
from ptycho_cli.output.terminal import show

FormatName = Literal["npz", "ptychodus", "cxi", "tiff"]


def convert(
    source: Annotated[
        Path, Parameter(help="Scan in any format that `inspect` reads, an object.npz, or a folder of results.")
    ],
    target: Annotated[Path, Parameter(help="File to write: .npz, .h5 (Ptychodus), .cxi, or for an image .tif.")],
    /,
    *,
    format: Annotated[
        FormatName | None, Parameter(name="--format", help="Format to write (default: by the suffix of TARGET).")
    ] = None,
    companion: Annotated[
        Path | None,
        Parameter(
            name="--companion",
            help="Second file: Ptychodus' product beside its diffraction, a mapping's data, or an object.npz's scan.",
        ),
    ] = None,
    geometry: Annotated[
        tuple[str, ...],
        Parameter(
            name="--geometry",
            negative=(),
            help="KEY=VALUE of the set-up, once each: photon_energy_ev, detector_distance_m, detector_pixel_size_m, "
            "object_pixel_size_m; three of them determine the fourth.",
        ),
    ] = (),
    measurement: Annotated[Measurement, Parameter(name="--measurement", help="What the patterns are.")] = "auto",
    nphotons: Annotated[
        float | None, Parameter(name="--nphotons", help="Mean photons per pattern, for normalised amplitude.")
    ] = None,
    overwrite: Overwrite = False,
    mapping: MappingFile = None,
    quiet: Quiet = False,
) -> None:
    """Write a scan, or an image, in another format; the target is replaced only by a complete file."""
    require_files([("File", source)] + ([("Companion", companion)] if companion else []))
    scalars = parsed_geometry(geometry)
    with progress_on(quiet=quiet, first=reading_words([source])):
        from ptycho_data.files import is_reconstruction

        image = _image_in(source, mapping=mapping)
        is_image = image != source or (source.is_file() and is_reconstruction(source))
        if is_image and mapping is not None and companion is None:
            expected, found = "`companion`, the scan that it reads", f"the reconstruction {source} alone"
            raise ContractError(Problem("--mapping", "convert.image", expected, found, "leave `mapping` out"))
        _require_effects(measurement, nphotons, patterns=not is_image or companion is not None)
        how: dict[str, Any] = {"measurement": measurement, "nphotons": nphotons, "mapping": mapping}
        written_as = _check_target(image, target, format, is_image=is_image)
        require_new_files([target], overwrite=overwrite)
        if is_image:
            words = _write_image(image, target, written_as, companion, scalars, how)
        else:
            words = _write_scan(source, target, written_as, scalars, {**how, "companion": companion})
    if not quiet:
        show(f"wrote {target} ({written_as}): {words}")


def _image_in(source: Path, *, mapping: Path | None) -> Path:
    """The image of a folder of results; any other path as it is.

    Raises:
        ContractError: a folder without an image that no mapping reads.
    """
    image = source / OBJECT_FILES["npz"]
    if not source.is_dir() or mapping is not None:
        return source
    if not image.is_file():
        expected, remedy = f"a file, or a folder of results with {image.name}", "name the file that holds the scan"
        raise ContractError(Problem(str(source), "convert.folder", expected, "a folder without it", remedy))
    return image


def _require_effects(measurement: str, nphotons: float | None, *, patterns: bool) -> None:
    """Refuse flags that only patterns obey, if none are read."""
    given = {"measurement": None if measurement == "auto" else measurement, "nphotons": nphotons}
    resolved = resolve((DataConfig,), {"explicit": {name: value for name, value in given.items() if value is not None}})
    require_effects("convert", resolved.applied, resolved.sections.values(), patterns=patterns)


def parsed_geometry(words: Sequence[str]) -> dict[str, float]:
    """Scalars of the set-up from ``KEY=VALUE`` words.

    Raises:
        ContractError: words of another form, repeated keys, values that are not numbers; all at once.
    """
    scalars: dict[str, float] = {}
    problems = []
    for word in words:
        key, _, text = word.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not key:
            problems.append(
                Problem(
                    "--geometry", "geometry.word", "KEY=VALUE, such as photon_energy_ev=8800", repr(word), "write it so"
                )
            )
        elif key in scalars:
            problems.append(Problem("--geometry", "geometry.repeated", f"'{key}' once", "it twice", "remove one"))
        scalars[key] = value
    if problems:
        raise ContractError(problems)
    return scalars


def _check_target(source: Path, target: Path, format: str | None, *, is_image: bool) -> str:
    """Name of the format that will be written; problems of the target before anything is read."""
    from ptycho_data.files import FORMATS, RECONSTRUCTION_FORMATS

    from ptycho_cli.output.results import RESULTS

    suffix = target.suffix.lower()
    scans = {entry.NAME: entry.SUFFIXES for entry in FORMATS if callable(getattr(entry, "write", None))}
    writable = RECONSTRUCTION_FORMATS if is_image else scans
    problems = []
    if target.is_dir():
        problems.append(Problem(str(target), "output.is_a_folder", "a file name", "a folder", "choose another name"))
    elif target.exists() and target.samefile(source):
        problems.append(Problem(str(target), "convert.same_file", "another file than IN", "IN", "choose another name"))
    elif target.name in RESULTS and (target.parent / SUMMARY).is_file():
        found = f"{target.parent}, whose files are one set"
        remedy = "name a file outside of it, or make it with the run: --format"
        problems.append(Problem(str(target), "convert.in_results", "a folder without results", found, remedy))
    name = format or next((name for name, suffixes in writable.items() if suffix in suffixes), "")
    if name not in writable:
        known = ", ".join(f"{end} for {name}" for name, suffixes in writable.items() for end in suffixes)
        what = "images" if is_image else "scans"
        problems.append(
            Problem(
                str(target),
                "file.format",
                f"a suffix of a format for {what} ({known}), or --format",
                repr(format or suffix),
                "rename it or give --format",
            )
        )
    if problems:
        raise ContractError(problems)
    require_output_dir(target.parent, named=str(target))
    return name


def _write_scan(
    source: Path, target: Path, written_as: str, geometry: Mapping[str, float], how: Mapping[str, Any]
) -> str:
    from ptycho_data.files import read_scan, write_scan

    scan = read_scan(source, **how)
    make_folder(target.parent)
    write_scan(target, scan, format=written_as, geometry=geometry or None)
    unit = scan.unit if written_as == "npz" else "counts"
    parts = [f"{len(scan)} patterns of {scan.N} x {scan.N}, {unit}"]
    parts += [f"{len(scan.probe)} probe mode(s)"] if scan.probe is not None else ["no probe"]
    parts += ["true object"] if scan.object_truth is not None else []
    return ", ".join(parts)


def _write_image(
    source: Path,
    target: Path,
    written_as: str,
    companion: Path | None,
    geometry: Mapping[str, float],
    how: Mapping[str, Any],
) -> str:
    from ptycho_data.files import geometry_of, pattern_indexes, read_reconstruction, read_scan, write_reconstruction

    image = read_reconstruction(source)
    summary = _summary_of(source)
    known = dict(summary.get("geometry") or {})
    indexes = None
    if companion is not None:
        scan = read_scan(companion, **how)
        known, indexes = geometry_of(scan), pattern_indexes(scan)
    make_folder(target.parent)
    write_reconstruction(
        target,
        image,
        format=written_as,
        geometry={**known, **geometry},
        indexes=indexes,
        losses=summary.get("losses") or (),
        name=source.stem,
    )
    height, width = image.object.shape
    return f"object of {width} x {height} px, {len(image.probe)} probe mode(s), {len(image.positions_px)} positions"


def _summary_of(image: Path) -> Mapping[str, Any]:
    """The summary beside an image, if it is this image's; else nothing."""
    from ptycho_data.files import file_sha256

    from ptycho_cli.output.results import read_summary

    path = image.parent / SUMMARY
    summary = read_summary(path) if path.is_file() else {}
    outputs = summary.get("outputs")
    return summary if isinstance(outputs, dict) and outputs.get(image.name) == file_sha256(image) else {}
