"""The command ``convert``: a scan or an image in another format (specs/cli.md, CLI-25)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.atomic_files import make_folder

from ptycho_cli.commands.parameters import Measurement, Overwrite, Quiet
from ptycho_cli.output.earlier import require_new_files
from ptycho_cli.output.publish import require_files, require_output_dir

FormatName = Literal["npz", "ptychodus", "cxi"]
PRODUCT_SUFFIXES = (".h5", ".hdf5")


def convert(
    source: Annotated[Path, Parameter(help="Scan in any format that `inspect` reads, or an object.npz.")],
    target: Annotated[Path, Parameter(help="File to write: .npz, .h5 (Ptychodus) or .cxi.")],
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
    quiet: Quiet = False,
) -> None:
    """Write a scan, or an image, in another format; the target is replaced only by a complete file."""
    from ptycho_data.files import is_reconstruction

    require_files([("File", source)] + ([("Companion", companion)] if companion else []))
    scalars = parsed_geometry(geometry)
    is_image = is_reconstruction(source)
    written_as = _check_target(source, target, format, is_image=is_image)
    require_new_files([target], overwrite=overwrite)
    if is_image:
        words = _write_image(source, target, companion, scalars, measurement, nphotons)
    else:
        words = _write_scan(source, target, written_as, companion, scalars, measurement, nphotons)
    if not quiet:
        print(f"wrote {target} ({written_as}): {words}")


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
    from ptycho_data.files import FORMATS

    suffix = target.suffix.lower()
    writable = {entry.NAME: entry.SUFFIXES for entry in FORMATS if callable(getattr(entry, "write", None))}
    problems = []
    if target.is_dir():
        problems.append(Problem(str(target), "output.is_a_folder", "a file name", "a folder", "choose another name"))
    elif target.exists() and target.samefile(source):
        problems.append(Problem(str(target), "convert.same_file", "another file than IN", "IN", "choose another name"))
    if is_image:
        name = "ptychodus product"
        if (format is None and suffix not in PRODUCT_SUFFIXES) or format not in (None, "ptychodus"):
            problems.append(
                Problem(
                    str(target),
                    "convert.image",
                    "an image to become Ptychodus' product, a .h5 file",
                    format or repr(suffix),
                    "name it .h5, or convert the scan",
                )
            )
    else:
        name = format or next((name for name, suffixes in writable.items() if suffix in suffixes), "")
        if name not in writable:
            known = ", ".join(f"{end} for {name}" for name, suffixes in writable.items() for end in suffixes)
            problems.append(
                Problem(
                    str(target),
                    "file.format",
                    f"a suffix of a writable format ({known}), or --format",
                    repr(suffix),
                    "rename it or give --format",
                )
            )
    if problems:
        raise ContractError(problems)
    require_output_dir(target.parent)
    return name


def _write_scan(
    source: Path,
    target: Path,
    written_as: str,
    companion: Path | None,
    geometry: Mapping[str, float],
    measurement: str,
    nphotons: float | None,
) -> str:
    from ptycho_data.files import read_scan, write_scan

    scan = read_scan(source, measurement=measurement, nphotons=nphotons, companion=companion)
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
    companion: Path | None,
    geometry: Mapping[str, float],
    measurement: str,
    nphotons: float | None,
) -> str:
    from ptycho_data.files import read_reconstruction, read_scan, write_product

    image = read_reconstruction(source)
    known: dict[str, Any] = {}
    if companion is not None:
        known = dict(read_scan(companion, measurement=measurement, nphotons=nphotons).metadata.get("geometry") or {})
    make_folder(target.parent)
    write_product(target, image, geometry={**known, **geometry}, name=source.stem)
    height, width = image.object.shape
    return f"object of {width} x {height} px, {len(image.probe)} probe mode(s), {len(image.positions_px)} positions"
