"""CXI and NXcxi_ptycho, which share their tree (specs/files.md, CXI)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.files.containers.hdf5 import Hdf5File, is_hdf5
from ptycho_data.files.formats.cxi_writer import EXTENSION, write
from ptycho_data.files.interpret.assemble import Raw, scan_of
from ptycho_data.files.interpret.optics import (
    LENGTH_UNITS_M,
    energy_problems,
    object_pixel_m,
    pixel_problems,
    spacing_problems,
)
from ptycho_data.files.interpret.quantities import photon_energy_ev, positions_m, quantity
from ptycho_data.files.sources import refuse_companion

NAME = "cxi"
SUFFIXES = (".cxi",)
BAD_BITS = 0x00DF
"""Bits of CXI's mask that spoil a pixel: invalid, saturated, hot, dead, shadowed, to be ignored, bad."""

__all__ = ["BAD_BITS", "NAME", "SUFFIXES", "matches", "read", "write"]


def matches(path: Path) -> bool:
    """Whether the file is HDF5 with CXI's version, or an entry that holds data in CXI's or NeXus' way."""
    if not is_hdf5(path):
        return False
    try:
        with Hdf5File(path) as file:
            entry = _entry(file)
            return entry is not None and (file.has("cxi_version") or _patterns_path(file, entry) is not None)
    except ContractError:
        return False


def read(
    path: Path,
    *,
    measurement: str = "auto",
    nphotons: float | None = None,
    companion: Path | None = None,
    object_is_truth: bool = False,
) -> Scan:
    """Read one scan.

    Args:
        path: The file.
        measurement: What the patterns hold, or ``"auto"`` (specs/files.md, UNIT).
        nphotons: Mean photons per pattern, for normalised amplitude.
        companion: Refused: the file holds the whole scan.
        object_is_truth: Whether its object is the true one although it does not say so.

    Raises:
        ContractError: with all problems of the file: missing data, impossible units.
    """
    refuse_companion(path, companion)
    with Hdf5File(path) as file:
        entry = _entry(file) or "entry_1"
        raw = _raw(file, entry)
    return scan_of(raw, measurement=measurement, nphotons=nphotons, object_is_truth=object_is_truth)


def _entry(file: Hdf5File) -> str | None:
    names = file.children("/")
    preferred = [name for name in ("entry_1", "entry", "entry1") if name in names]
    nexus = [name for name in names if name not in preferred and file.attribute(name, "NX_class") == "NXentry"]
    return next(iter([*preferred, *nexus]), None)


def _patterns_path(file: Hdf5File, entry: str) -> str | None:
    """Where the patterns are: data groups that also have positions come first."""
    groups = [f"{entry}/{name}" for name in ("data_1", "instrument_1/detector_1", "data", "instrument_1/detector")]
    paths = [f"{group}/data" for group in groups if file.is_dataset(f"{group}/data")]
    return next(iter(paths), None)


def _raw(file: Hdf5File, entry: str) -> Raw:
    place = _patterns_path(file, entry)
    if place is None:
        raise ContractError(
            Problem(
                str(file.path),
                "scan.no_patterns",
                f"patterns at {entry}/data_1/data",
                "nothing there",
                "declare where they are in a mapping file",
            )
        )
    geometry, sources, problems = _geometry(file, entry)
    metres, source, grid = _positions(file, entry, place)
    shape = file.shape(place) or ()
    if len(shape) not in (3, 4) or metres is None:
        problems += _missing(file, place, shape, metres)
    elif len(shape) == 4 and grid != shape[:2] and len(metres) != shape[0] * shape[1]:
        views = shape[0] * shape[1]
        problems.append(
            Problem(
                f"{file.path}: positions",
                "scan.counts_differ",
                f"{views} for a grid of views {shape}",
                f"{len(metres)} positions",
                "pair each pattern with its position",
            )
        )
    if problems:
        raise ContractError(problems)
    assert metres is not None
    patterns = file.array(place)
    assert patterns is not None
    if patterns.ndim == 4:
        patterns = patterns.reshape(-1, *patterns.shape[2:])
    return _in_pixels(file, entry, patterns, metres, geometry, {"positions": source, **sources})


def _geometry(file: Hdf5File, entry: str) -> tuple[dict[str, float], dict[str, Any], list[Problem]]:
    """Energy in eV, distance and detector pixels in m, with their sources, and what is missing."""
    instrument = f"{entry}/instrument_1"
    detectors = [f"{instrument}/{name}" for name in ("detector_1", "detector")]
    # A NeXus source's energy is the storage ring's; the photons' is the beam's.
    energy_paths = [f"{instrument}/beam_1/{name}" for name in ("energy", "incident_energy")]
    energy_paths += [f"{entry}/sample_1/beam_1/incident_energy", f"{instrument}/source_1/energy"]
    values: dict[str, float | None] = {}
    sources: dict[str, Any] = {}
    values["photon_energy_ev"], sources["photon_energy"] = photon_energy_ev(file, energy_paths)
    for key, name in (("distance", "distance"), ("x", "x_pixel_size"), ("y", "y_pixel_size")):
        values[key], sources[name] = quantity(file, [f"{path}/{name}" for path in detectors], LENGTH_UNITS_M, "m")
    problems = []
    for key, value in values.items():
        where = f"{file.path}: {key}"
        if value is None:
            problems.append(
                Problem(
                    where,
                    "geometry.missing",
                    "a number",
                    "nothing",
                    "store it at CXI's place, or declare it in a mapping file",
                )
            )
        elif not value > 0 or not np.isfinite(value):
            problems.append(Problem(where, "scan.scalar", "one positive number", repr(value), "correct the value"))
        elif key == "photon_energy_ev":
            problems += energy_problems(where, value)
    return {key: value for key, value in values.items() if value is not None}, sources, problems


def _positions(
    file: Hdf5File, entry: str, place: str
) -> tuple[NDArray[np.float64] | None, dict[str, Any], tuple[int, ...]]:
    """(M, 2) ``[x, y]`` in metres, where they came from, and the grid they were stored in."""
    data = place.rsplit("/", 1)[0]
    for path in (f"{entry}/sample_1/geometry_1/translation", f"{data}/translation", f"{entry}/data_1/translation"):
        if file.is_dataset(path):
            array, source = positions_m(file, path)
            if array is None or array.ndim != 2 or array.shape[1] not in (2, 3):
                found = "nothing" if array is None else f"shape {array.shape}"
                raise ContractError(
                    Problem(f"{file.path}: {path}", "array.shape", "(pattern, 3), x, y and z", found, "correct it")
                )
            return array[:, :2], {**source, "columns": "x y z"}, ()
    if file.is_dataset(f"{data}/x") and file.is_dataset(f"{data}/y"):
        x, source = positions_m(file, f"{data}/x")
        y, _ = positions_m(file, f"{data}/y")
        if x is None or y is None or x.shape != y.shape or x.ndim not in (1, 2):
            raise ContractError(
                Problem(
                    f"{file.path}: {data}/x, y",
                    "scan.positions_shape",
                    "x and y of one shape",
                    f"shapes {getattr(x, 'shape', None)} and {getattr(y, 'shape', None)}",
                    "correct the file",
                )
            )
        return np.stack([x.reshape(-1), y.reshape(-1)], axis=1), source, x.shape
    return None, {}, ()


def _missing(file: Hdf5File, place: str, shape: tuple[int, ...], metres: Any) -> list[Problem]:
    problems = []
    if len(shape) not in (3, 4):
        problems.append(
            Problem(
                f"{file.path}: {place}",
                "array.shape",
                "(pattern, y, x) or (row, column, y, x)",
                f"shape {shape}",
                "one image is no scan; give the file of all patterns",
            )
        )
    if metres is None:
        problems.append(
            Problem(
                str(file.path),
                "scan.no_positions",
                "positions at sample_1/geometry_1/translation",
                "nothing there",
                "store the positions in metres, or declare where they are in a mapping file",
            )
        )
    return problems


def _in_pixels(
    file: Hdf5File,
    entry: str,
    patterns: NDArray[Any],
    metres: NDArray[np.float64],
    geometry: Mapping[str, float],
    sources: Mapping[str, Any],
) -> Raw:
    N, where = patterns.shape[-1], f"{file.path}"
    pixels = np.array(
        [object_pixel_m(geometry["photon_energy_ev"], geometry["distance"], geometry[axis], N) for axis in "xy"]
    )
    probe, object_, centre, problems = _images(file, entry, N, pixels)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        positions = metres / pixels
    origin = None
    if object_ is not None and centre is not None:
        half = N // 2 - (N - 1) / 2
        stored = file.array(f"{EXTENSION}/object_origin_yx_px")
        origin = np.zeros(2)
        if stored is not None and stored.shape == (2,) and stored.dtype.kind == "f" and np.isfinite(stored).all():
            origin = stored.astype(np.float64)
        shape = np.array(object_.shape[::-1])
        positions = (metres - centre) / pixels + (shape - 1) / 2 + half + origin[::-1]
    problems += spacing_problems(f"{where}: positions", positions, N)
    if problems:
        raise ContractError(problems)
    square = math.isclose(*pixels.tolist(), rel_tol=1e-6)
    scalars = {"photon_energy_ev": geometry["photon_energy_ev"], "detector_distance_m": geometry["distance"]}
    if square:
        scalars |= {"detector_pixel_size_m": geometry["x"], "object_pixel_size_m": float(pixels[0])}
    names = ("measurement", "probe_kind", "object_kind", "metadata")
    texts = {name: file.text(f"{EXTENSION}/{name}") for name in names}
    definition = file.text(f"{entry}/definition")
    return Raw(
        path=file.path,
        format=NAME,
        patterns=patterns,
        positions=positions,
        probe=probe,
        bad_pixels=_mask(file, entry),
        scan_index=file.array(f"{EXTENSION}/scan_index"),
        object=object_,
        object_origin_yx_px=origin,
        scalars=scalars,
        texts={name: text for name, text in texts.items() if text is not None},
        zero_frequency="centre" if texts["measurement"] is not None else None,
        compare_object=centre is not None,
        decisions={
            "units": dict(sources),
            "positions": {
                "stored_unit": "m",
                "object_pixel_m": pixels.tolist(),
                "sign": "+x, +y of the translation",
                "decided_by": "format",
            },
            **({"definition": definition} if definition else {}),
        },
    )


def _images(
    file: Hdf5File, entry: str, N: int, pixels: NDArray[np.float64]
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[np.float64] | None, list[Problem]]:
    """Probe and object as Ptychodus and this package store them, and the object's centre in metres."""
    own = file.has(f"{entry}/ptychodus") or file.has(EXTENSION)
    probe = file.array(f"{entry}/image_1/data") if own else None
    object_ = file.array(f"{entry}/image_2/data") if own else None
    if probe is None and file.is_dataset(f"{entry}/instrument_1/source_1/illumination"):
        probe = file.array(f"{entry}/instrument_1/source_1/illumination")
    problems: list[Problem] = []
    fits = probe is None or (probe.dtype.kind == "c" and probe.shape[-2:] == (N, N) and probe.ndim <= 4 and probe.size)
    if probe is not None and not fits:
        problems.append(
            Problem(
                f"{file.path}: probe",
                "array.shape",
                f"(mode, {N}, {N}) complex",
                f"{probe.dtype} of shape {probe.shape}",
                "give the probe of these patterns",
            )
        )
    if object_ is not None and object_.dtype.kind == "c" and not np.isfinite(object_).all():
        problems.append(
            Problem(f"{file.path}: object", "array.not_finite", "finite values", "NaN or infinite values", "correct it")
        )
    if probe is not None and fits and probe.ndim == 4:
        probe = probe[0]
    if object_ is not None and object_.ndim == 3:
        object_ = object_[0] if len(object_) == 1 else None
    numbers = {
        name: file.scalar(f"{entry}/ptychodus/{name}")
        for name in ("object_center_x_m", "object_center_y_m", "object_pixel_width_m", "object_pixel_height_m")
    }
    centre = None
    if numbers["object_center_x_m"] is not None and numbers["object_center_y_m"] is not None:
        centre = np.array([numbers["object_center_x_m"], numbers["object_center_y_m"]])
    for name, expected in zip(("object_pixel_width_m", "object_pixel_height_m"), pixels.tolist(), strict=True):
        stored = numbers[name]
        if stored is not None:
            problems += pixel_problems(f"{file.path}: {name}", stored_m=stored, expected_m=expected)
    return probe, object_ if object_ is not None and object_.ndim == 2 else None, centre, problems


def _mask(file: Hdf5File, entry: str) -> NDArray[Any] | None:
    """(N, N) bad pixels; of one mask per pattern, what is bad in any of them."""
    for detector in (f"{entry}/instrument_1/detector_1", f"{entry}/instrument_1/detector"):
        for name, bits in (("mask", BAD_BITS), ("pixel_mask", -1)):
            if not file.is_dataset(f"{detector}/{name}"):
                continue
            mask = file.array(f"{detector}/{name}")
            assert mask is not None
            if mask.dtype.kind not in "biu":
                raise ContractError(
                    Problem(
                        f"{file.path}: {detector}/{name}",
                        "array.dtype",
                        "integer bits",
                        str(mask.dtype),
                        "store the mask as integers",
                    )
                )
            bad = mask.astype(bool)
            if mask.dtype.kind != "b" and bits >= 0:
                bad = np.not_equal(mask & mask.dtype.type(bits & np.iinfo(mask.dtype).max), 0)
            return np.logical_or.reduce(bad.reshape(-1, *bad.shape[-2:])) if bad.ndim > 2 else bad
    return None
