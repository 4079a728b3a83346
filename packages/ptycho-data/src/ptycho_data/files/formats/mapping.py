"""Any HDF5 file by a small TOML mapping that declares paths, axes and units (specs/files.md, MAP)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem, nearest
from ptycho_contracts.records import Scan

from ptycho_data.files.containers.hdf5 import Hdf5File
from ptycho_data.files.formats.mapping_axes import layout_problems, ordered
from ptycho_data.files.interpret.assemble import Raw, scan_of
from ptycho_data.files.interpret.optics import (
    ENERGY_UNITS_EV,
    GEOMETRY_KEYS,
    LENGTH_UNITS_M,
    complete_geometry,
    spacing_problems,
)
from ptycho_data.files.interpret.quantities import factor_of
from ptycho_data.files.sources import file_sha256
from ptycho_data.foreign_content import from_toml
from ptycho_data.input_files import checked_file

NAME = "mapping"
SUFFIXES: tuple[str, ...] = ()
LARGEST_BYTES = 1 << 20
TABLES: dict[str, dict[str, tuple[type, ...]]] = {
    "file": {"path": (str,)},
    "patterns": {"dataset": (str,), "axes": (str,), "unit": (str,), "zero_frequency": (str, list)},
    "positions": {"dataset": (str,), "columns": (str,), "x": (str,), "y": (str,), "unit": (str,), "sign": (list,)},
    "probe": {"dataset": (str,), "axes": (str,), "kind": (str,)},
    "mask": {"dataset": (str,), "bad": (str,)},
    "geometry": {**{key: (int, float, str) for key in GEOMETRY_KEYS}, "energy_unit": (str,), "length_unit": (str,)},
}
"""Tables of a mapping, their keys and the types of their values; nothing else is legal."""
_REQUIRED = {"patterns": ("dataset", "axes", "unit", "zero_frequency"), "positions": ("unit",)}


def matches(path: Path) -> bool:
    """Whether the file is a small text with a table ``[patterns]``."""
    if path.stat().st_size > LARGEST_BYTES:
        return False
    with path.open("rb") as stream:
        content = stream.read()
    return b"\0" not in content and any(line.strip() == b"[patterns]" for line in content.splitlines())


def read(
    path: Path, *, measurement: str = "auto", nphotons: float | None = None, companion: Path | None = None
) -> Scan:
    """Read the scan that a mapping declares.

    Args:
        path: The mapping.
        measurement: Overrules the mapping's ``unit``; ``"auto"`` keeps it.
        nphotons: Mean photons per pattern, for normalised amplitude.
        companion: The HDF5 file, anywhere; else ``file.path``, in the mapping's own folder or below.

    Raises:
        ContractError: with all problems of the mapping, then of the data.
        MissingFileError: the data file does not exist.
    """
    tables = _checked(path, _parsed(path))
    data = companion if companion is not None else _data_path(path, tables)
    with Hdf5File(data) as file:
        raw = _raw(path, file, tables)
    return scan_of(raw, measurement=measurement, nphotons=nphotons)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return from_toml(path.read_bytes().decode())
    except ValueError as error:
        raise ContractError(
            Problem(str(path), "mapping.toml", "a TOML file", f"{error}".split("\n")[0][:200], "correct the syntax")
        ) from error


def _checked(path: Path, tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Unknown names, wrong types and missing keys, all at once."""
    problems = []
    for table, content in tables.items():
        if table not in TABLES or not isinstance(content, dict):
            problems.append(
                Problem(
                    f"{path}: {table}", "option.unknown", "a table of a mapping", repr(table), nearest(table, TABLES)
                )
            )
            continue
        for key, value in content.items():
            where = f"{path}: {table}.{key}"
            if key not in TABLES[table]:
                problems.append(Problem(where, "option.unknown", "a known key", repr(key), nearest(key, TABLES[table])))
            elif not isinstance(value, TABLES[table][key]) or isinstance(value, bool):
                words = " or ".join(kind.__name__ for kind in TABLES[table][key])
                problems.append(Problem(where, "option.type", words, type(value).__name__, "correct the value"))
    for table, keys in _REQUIRED.items():
        content = tables.get(table)
        content = content if isinstance(content, dict) else {}
        problems += [
            Problem(f"{path}: {table}.{key}", "mapping.missing", "a declaration", "nothing", "it is never guessed")
            for key in keys
            if key not in content
        ]
    if not problems:
        problems = layout_problems(path, tables)
    if problems:
        raise ContractError(problems)
    return tables


def _data_path(path: Path, tables: dict[str, dict[str, Any]]) -> Path:
    """The data file: a relative path that stays in the mapping's folder."""
    text = tables.get("file", {}).get("path")
    windows = PureWindowsPath(text or "")
    leads_out = PurePosixPath(text or "").is_absolute() or windows.drive or windows.root or ".." in windows.parts
    if not text or "\0" in text or leads_out:
        raise ContractError(
            Problem(
                f"{path}: file.path",
                "mapping.path",
                "a path within the mapping's own folder",
                repr(text),
                "put the mapping beside the data, or name the data as companion",
            )
        )
    data = path.parent / text
    if not data.resolve().is_relative_to(path.parent.resolve()):
        raise ContractError(
            Problem(
                f"{path}: file.path",
                "mapping.path",
                "a path within the mapping's own folder",
                f"{text!r}, a link that leads out of it",
                "name the data as companion",
            )
        )
    return checked_file(data)


def _raw(path: Path, file: Hdf5File, tables: dict[str, dict[str, Any]]) -> Raw:
    declared = tables["patterns"]
    patterns = ordered(_array(file, declared["dataset"], "patterns"), declared["axes"], f"{file.path}: patterns")
    N = patterns.shape[-1]
    scalars = _geometry(file, tables.get("geometry", {}), N)
    probe = None
    if "probe" in tables:
        probe = ordered(
            _array(file, tables["probe"].get("dataset"), "probe"),
            tables["probe"].get("axes", "mode y x"),
            f"{file.path}: probe",
        )
    return Raw(
        path=file.path,
        format=NAME,
        patterns=patterns,
        positions=_positions(path, file, tables["positions"], scalars, N),
        probe=probe,
        bad_pixels=_mask(file, tables.get("mask")),
        scalars={key: scalars[key] for key in GEOMETRY_KEYS if key in scalars},
        texts={
            **({} if declared["unit"] == "auto" else {"measurement": declared["unit"]}),
            "probe_kind": tables.get("probe", {}).get("kind", "guess"),
        },
        zero_frequency=_place(declared["zero_frequency"]),
        decisions={"mapping": {"source": str(path), "sha256": file_sha256(path), **tables}},
    )


def _place(declared: Any) -> str | tuple[float, float] | None:
    if isinstance(declared, list):
        return float(declared[0]), float(declared[1])
    return None if declared == "measured" else str(declared)


def _array(file: Hdf5File, name: str | None, what: str) -> NDArray[Any]:
    array = file.array(name) if name else None
    if array is None:
        raise ContractError(
            Problem(
                f"{file.path}: {name or what}",
                "mapping.dataset",
                f"the dataset of {what}",
                "nothing there",
                "correct the path; the file holds " + "; ".join(file.listing()[:8]),
            )
        )
    return array


def _positions(
    path: Path, file: Hdf5File, declared: dict[str, Any], scalars: dict[str, float], N: int
) -> NDArray[np.float64]:
    """(M, 2) ``[x, y]`` in object pixels."""
    if "dataset" in declared:
        table = _array(file, declared["dataset"], "positions")
        columns = declared["columns"].split()
        if table.ndim != 2 or table.shape[1] != len(columns):
            raise ContractError(
                Problem(
                    f"{file.path}: {declared['dataset']}",
                    "array.shape",
                    f"(pattern, {len(columns)}), columns {declared['columns']}",
                    f"shape {table.shape}",
                    "correct the declaration 'columns'",
                )
            )
        x, y = table[:, columns.index("x")], table[:, columns.index("y")]
    else:
        x, y = (_array(file, declared[axis], f"positions {axis}").reshape(-1) for axis in "xy")
    if x.shape != y.shape or x.dtype.kind not in "fiu" or y.dtype.kind not in "fiu":
        raise ContractError(
            Problem(
                f"{file.path}: positions",
                "scan.positions_shape",
                "as many x as y, numbers",
                f"{x.dtype} {x.shape} and {y.dtype} {y.shape}",
                "correct the paths",
            )
        )
    with np.errstate(over="ignore", invalid="ignore"):
        xy = np.stack([x, y], axis=1).astype(np.float64) * np.array(declared.get("sign", [1, 1]), np.float64)
        if declared["unit"] == "px":
            return xy
        xy = xy * factor_of(declared["unit"], LENGTH_UNITS_M, where=f"{path}: positions.unit")
        xy = xy / scalars["object_pixel_size_m"]
    problems = spacing_problems(f"{file.path}: positions", xy, N)
    if problems:
        raise ContractError(problems)
    return xy


def _geometry(file: Hdf5File, declared: dict[str, Any], N: int) -> dict[str, float]:
    """Scalars in eV and m: numbers of the mapping, in those units, or datasets, in the units declared."""
    scalars: dict[str, float] = {}
    problems = []
    for key in GEOMETRY_KEYS:
        value = declared.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            scalars[key] = float(value)
            continue
        number = file.scalar(value)
        unit = declared.get("energy_unit" if key == "photon_energy_ev" else "length_unit")
        if number is None or unit is None:
            found = "nothing there" if number is None else "no declared unit"
            problems.append(
                Problem(
                    f"{file.path}: {value}",
                    "mapping.dataset",
                    f"{key}, in a declared unit",
                    found,
                    "correct the path; declare energy_unit or length_unit",
                )
            )
        else:
            table = ENERGY_UNITS_EV if key == "photon_energy_ev" else LENGTH_UNITS_M
            scalars[key] = number * factor_of(unit, table, where=f"{file.path}: {value}")
    if problems:
        raise ContractError(problems)
    enough = len(scalars) >= len(GEOMETRY_KEYS) - 1
    return complete_geometry(scalars, N, where=str(file.path)) if enough else scalars


def _mask(file: Hdf5File, declared: dict[str, Any] | None) -> NDArray[Any] | None:
    if declared is None:
        return None
    mask = _array(file, declared.get("dataset"), "mask")
    if mask.dtype.kind not in "biuf" or mask.ndim < 2:
        raise ContractError(
            Problem(
                f"{file.path}: mask",
                "array.shape",
                "(y, x) or (pattern, y, x)",
                f"{mask.dtype} of shape {mask.shape}",
                "correct the path",
            )
        )
    bad = np.asarray((mask != 0) if declared["bad"] == "nonzero" else (mask == 0), bool)
    return np.asarray(bad.reshape(-1, *bad.shape[-2:]).any(axis=0))
