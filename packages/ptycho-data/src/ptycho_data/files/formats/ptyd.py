"""PtyPy's prepared data, .ptyd: a group of metadata and chunks of patterns (specs/files.md, PTYD)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.files.containers.hdf5 import Hdf5File, root_names
from ptycho_data.files.interpret.assemble import Raw, scan_of
from ptycho_data.files.interpret.optics import ENERGY_UNITS_EV, energy_problems, object_pixel_m, spacing_problems
from ptycho_data.files.sources import refuse_companion

NAME = "ptyd"
SUFFIXES = (".ptyd",)
_NAMES = ("data", "indices", "positions", "weights")


def matches(path: Path) -> bool:
    """Whether the file is HDF5 with the groups ``meta`` and ``chunks``."""
    return {"meta", "chunks"} <= root_names(path)


def read(
    path: Path,
    *,
    measurement: str = "auto",
    nphotons: float | None = None,
    companion: Path | None = None,
    object_is_truth: bool = False,
) -> Scan:
    """Read one scan: all chunks, in the order of their indices.

    Args:
        path: The file.
        measurement: What the patterns hold, or ``"auto"`` (specs/files.md, UNIT).
        nphotons: Mean photons per pattern, for normalised amplitude.
        companion: Refused: the file holds the whole scan.
        object_is_truth: It holds no object.

    Raises:
        ContractError: with all problems of the file.
    """
    refuse_companion(path, companion)
    with Hdf5File(path) as file:
        chunks = _chunks(file)
        joined = _joined(file, chunks)
        geometry, centre, problems = _geometry(file)
    patterns = joined["data"]
    N = patterns.shape[-1]
    if patterns.shape[-2] != N or problems:
        problems += (
            []
            if patterns.shape[-2] == N
            else [
                Problem(f"{path}: data", "scan.not_square", "square patterns", f"shape {patterns.shape}", "crop them")
            ]
        )
        raise ContractError(problems)
    pixels = np.array(
        [
            object_pixel_m(geometry["photon_energy_ev"], geometry["detector_distance_m"], geometry[f"pixel_{axis}"], N)
            for axis in "xy"
        ]
    )
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        positions = joined["positions"].astype(np.float64)[:, ::-1] / pixels
    problems = spacing_problems(f"{path}: positions", positions, N)
    if problems:
        raise ContractError(problems)
    scalars = {key: value for key, value in geometry.items() if not key.startswith("pixel_")}
    if math.isclose(*pixels.tolist(), rel_tol=1e-6):
        scalars |= {"detector_pixel_size_m": geometry["pixel_x"], "object_pixel_size_m": float(pixels[0])}
    raw = Raw(
        path=path,
        format=NAME,
        patterns=patterns,
        positions=positions,
        bad_pixels=_bad(joined.get("weights"), N),
        scalars=scalars,
        zero_frequency=centre,
        decisions={
            "units": {"positions": "m", "energy": "keV", "decided_by": "format"},
            "positions": {
                "stored_unit": "m",
                "columns": "y x",
                "object_pixel_m": pixels.tolist(),
                "decided_by": "format",
            },
            "chunks": len(chunks),
        },
    )
    return scan_of(raw, measurement=measurement, nphotons=nphotons)


def _chunks(file: Hdf5File) -> list[str]:
    names = file.children("chunks")
    chunks = sorted((name for name in names if name.isdecimal()), key=int)
    if not chunks:
        raise ContractError(
            Problem(
                f"{file.path}: chunks",
                "scan.no_patterns",
                "numbered chunks of patterns",
                ", ".join(names[:9]) or "none",
                "prepare the data with save='append' or 'merge'",
            )
        )
    return chunks


def _joined(file: Hdf5File, chunks: list[str]) -> dict[str, NDArray[Any]]:
    """Arrays of all chunks, by ascending index."""
    parts: list[dict[str, NDArray[Any]]] = []
    for chunk in chunks:
        arrays = {name: file.array(f"chunks/{chunk}/{name}") for name in _NAMES}
        parts.append(_checked(file.path, chunk, arrays))
    shapes = {part["data"].shape[1:] for part in parts}
    weights = [part for part in parts if "weights" in part]
    if len(shapes) != 1 or len({part["positions"].shape[1] for part in parts}) != 1:
        raise ContractError(
            Problem(
                f"{file.path}: chunks",
                "array.shape",
                "chunks of one pattern size",
                str(sorted(shapes)),
                "write it again",
            )
        )
    joined = {name: np.concatenate([part[name] for part in parts]) for name in ("data", "indices", "positions")}
    order = np.argsort(joined["indices"], kind="stable")
    if len(np.unique(joined["indices"])) != len(order):
        raise ContractError(
            Problem(f"{file.path}: indices", "ptyd.indices", "each index once", "repeated indices", "write it again")
        )
    joined = {name: array[order] for name, array in joined.items()}
    if weights:
        N = joined["data"].shape[-2:]
        # A pixel without weight in any pattern is bad in all: Scan has one mask.
        joined["weights"] = np.logical_and.reduce(
            [(part["weights"] > 0).reshape(-1, *N).all(axis=0) for part in weights]
        )
    return joined


def _checked(path: Path, chunk: str, arrays: Mapping[str, NDArray[Any] | None]) -> dict[str, NDArray[Any]]:
    where = f"{path}: chunks/{chunk}"
    data, indices, positions, weights = (arrays[name] for name in _NAMES)
    problems = []
    if data is None or data.ndim != 3 or data.size == 0:
        problems.append(_shape_problem(f"{where}/data", "(pattern, y, x)", data))
    if positions is None or positions.ndim != 2 or positions.shape[1] != 2 or positions.dtype.kind not in "fiu":
        problems.append(_shape_problem(f"{where}/positions", "(pattern, 2), y and x in metres", positions))
    if indices is None or indices.ndim != 1 or indices.dtype.kind not in "iu":
        problems.append(_shape_problem(f"{where}/indices", "(pattern,) integer", indices))
    if problems:
        raise ContractError(problems)
    assert data is not None and positions is not None and indices is not None  # noqa: PT018
    if not len(data) == len(positions) == len(indices):
        raise ContractError(
            Problem(
                where,
                "scan.counts_differ",
                "as many positions and indices as patterns",
                f"{len(data)} patterns, {len(positions)} positions, {len(indices)} indices",
                "write it again",
            )
        )
    out = {"data": data, "positions": positions, "indices": indices}
    if weights is None or weights.size == 0:
        return out
    if weights.shape[-2:] != data.shape[-2:] or weights.ndim > 3 or weights.dtype.kind not in "biuf":
        raise ContractError(_shape_problem(f"{where}/weights", f"(..., {data.shape[-2]}, {data.shape[-1]})", weights))
    return {**out, "weights": weights}


def _shape_problem(where: str, expected: str, array: NDArray[Any] | None) -> Problem:
    found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
    return Problem(where, "array.shape", expected, found, "prepare the data again")


def _geometry(file: Hdf5File) -> tuple[dict[str, float], tuple[float, float] | None, list[Problem]]:
    """Energy (keV in the file), distance and detector pixels (y, x); the declared centre (y, x), if there is one."""
    values = {name: _numbers(file, f"meta/{name}") for name in ("energy", "distance", "psize", "center")}
    problems = []
    for name in ("energy", "distance", "psize"):
        value = values[name]
        if value is None or not (value > 0).all() or not np.isfinite(value).all():
            problems.append(
                Problem(
                    f"{file.path}: meta/{name}",
                    "geometry.missing",
                    "positive numbers",
                    "nothing" if value is None else str(value.tolist()),
                    "prepare the data again with this parameter",
                )
            )
    if problems:
        return {}, None, problems
    energy, distance, psize = (np.asarray(values[name]) for name in ("energy", "distance", "psize"))
    energy_ev = float(energy[0]) * ENERGY_UNITS_EV["keV"]
    geometry = {
        "photon_energy_ev": energy_ev,
        "detector_distance_m": float(distance[0]),
        "pixel_y": float(psize[0]),
        "pixel_x": float(psize[-1]),
    }
    centre = values["center"]
    declared = None if centre is None or centre.size != 2 else (float(centre[0]), float(centre[1]))
    return geometry, declared, energy_problems(f"{file.path}: meta/energy", energy_ev)


def _numbers(file: Hdf5File, path: str) -> NDArray[np.float64] | None:
    """One or two numbers; None if there is nothing, or text such as 'auto'."""
    if not file.is_dataset(path) or file.text(path) is not None:
        return None
    array = file.array(path)
    if array is None or array.size not in (1, 2) or array.dtype.kind not in "iuf":
        return None
    return array.astype(np.float64).reshape(-1)


def _bad(weights: NDArray[Any] | None, N: int) -> NDArray[np.bool_] | None:
    return None if weights is None else ~weights.reshape(N, N)
