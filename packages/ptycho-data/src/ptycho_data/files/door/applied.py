"""A mapping applied to the files of one scan (specs/files.md, MAP and DOOR)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.files.door.detector import Corrected, corrected
from ptycho_data.files.door.geometry import geometry_by
from ptycho_data.files.door.positions import raster, turned
from ptycho_data.files.door.sources import Source
from ptycho_data.files.formats.mapping_axes import ordered
from ptycho_data.files.interpret.assemble import Raw, scan_of
from ptycho_data.files.interpret.optics import GEOMETRY_KEYS, LENGTH_UNITS_M, spacing_problems
from ptycho_data.files.interpret.quantities import factor_of
from ptycho_data.files.interpret.units import decide_unit

Tables = Mapping[str, Mapping[str, Any]]
_LARGEST_WHOLE = 2.0**32
NORMALISED_INTENSITY = "normalised-intensity"
"""Patterns in any linear unit: their scale comes from ``nphotons``."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Files of detector images that the caller names."""

    mask: Path | None = None
    dark: Path | None = None
    flat: Path | None = None


def scan_by(
    tables: Tables,
    source: Source,
    *,
    images: Images | None = None,
    where: str,
    decisions: Mapping[str, Any],
    measurement: str = "auto",
    nphotons: float | None = None,
) -> Scan:
    """The scan that a checked mapping makes of its files.

    Args:
        tables: The mapping.
        source: Its open files.
        images: Files of detector images.
        where: The mapping, for messages.
        decisions: JSON values for ``Scan.metadata``.
        measurement: Overrules the mapping's ``unit``; ``"auto"`` keeps it.
        nphotons: Overrules the mapping's ``nphotons``.

    Raises:
        ContractError: with the problems of the data.
    """
    images = images or Images()
    declared = tables["patterns"]
    stored = ordered(_array(source, declared["dataset"], "patterns"), declared["axes"], f"{source.path}: patterns")
    if stored.dtype.kind not in "biuf" or stored.ndim != 3:
        found = f"{stored.dtype} of shape {stored.shape}"
        raise _bad_array(f"{source.path}: {declared['dataset']}", "an array of real numbers", found, "`patterns=KEY`")
    count, height, width = stored.shape
    positions = _positions(source, tables["positions"], count)
    kept = selected(stored, declared.get("select"))
    stored, positions = compact(stored[kept]), positions[kept]
    unit = measurement if measurement != "auto" else declared["unit"]
    if unit == "auto" and stored.dtype.kind in "iu" and (images.dark or images.flat):
        unit = "counts"  # which the images make fractions of
    done = corrected(
        stored,
        _mask(source, tables.get("mask")),
        tables.get("detector", {}),
        zero_frequency=_place(declared["zero_frequency"]),
        dark=None if images.dark is None else image_of(images.dark),
        flat=None if images.flat is None else image_of(images.flat),
        mask=None if images.mask is None else image_of(images.mask) != 0,
        is_amplitude=lambda frames, bad: _is_amplitude(frames, bad, unit, str(source.path)),
        where=str(source.path),
    )
    patterns = done.patterns
    if unit == NORMALISED_INTENSITY:
        patterns, unit = np.sqrt(np.clip(patterns, 0, None).astype(np.float32)), "normalised-amplitude"
    side = height if height == width else done.window
    scalars = geometry_by(source, tables.get("geometry", {}), done, side)
    photons = nphotons if nphotons is not None else declared.get("nphotons")
    several = bool(source.frames) or source.other is not None
    raw = Raw(
        path=source.path,
        sha256=_sha256(stored, positions) if several else None,
        format="mapping",
        patterns=patterns,
        positions=_in_pixels(positions, tables["positions"], scalars, done, side, where, str(source.path)),
        probe=_probe(source, tables.get("probe"), done, side),
        bad_pixels=done.bad_pixels,
        scalars={key: scalars[key] for key in GEOMETRY_KEYS if key in scalars},
        texts={
            **({} if unit == "auto" else {"measurement": unit}),
            "probe_kind": tables.get("probe", {}).get("kind", "guess"),
        },
        zero_frequency=None if done.zero.get("place") is None else "centre",
        decisions={
            **decisions,
            **({"zero_frequency": done.zero} if done.zero else {}),
            **({"detector": done.record} if done.record else {}),
            **({"frames": len(source.frames)} if source.frames else {}),
        },
    )
    return scan_of(raw, nphotons=photons)


def image_of(path: Path) -> NDArray[Any]:
    """The largest image of a file, the mean of several.

    Raises:
        ContractError: none in it.
    """
    with Source(path) as source:
        images = [one for one in source.entries if one.dtype is not None and len(one.shape) in (2, 3)]
        if not images:
            raise _bad_array(str(path), "an image (y, x)", "; ".join(source.listing()[:6]) or "nothing", "another file")
        array = _array(source, max(images, key=lambda one: one.size).key, "image")
    return array if array.ndim == 2 else np.asarray(array.mean(axis=0))


def _positions(source: Source, declared: Mapping[str, Any], count: int) -> NDArray[np.float64]:
    """(M, 2) ``[x, y]`` in the declared unit, turned."""
    if "raster" in declared:
        rows, columns = declared["raster"]
        step = declared["step"]
        xy = raster(rows, columns, (float(step[0]), float(step[1])), serpentine=declared.get("serpentine", False))
    elif "dataset" in declared:
        xy = _table(source, declared)
    else:
        x, y = (_numbers(source, declared[axis], f"positions {axis}").reshape(-1) for axis in "xy")
        if x.shape != y.shape and x.size * y.size == count:
            y, x = (grid.ravel() for grid in np.meshgrid(y, x, indexing="ij"))
        if x.shape != y.shape:
            found = f"{x.dtype} {x.shape} and {y.dtype} {y.shape}"
            raise _bad_array(f"{source.path}: positions", "as many x as y, numbers", found, "`positions=X,Y`")
        xy = np.stack([x, y], axis=1).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        signed = xy * np.array(declared.get("sign", [1, 1]), np.float64)
        positions = turned(signed, declared.get("turn"), float(declared.get("rotate_deg", 0)))
    if len(positions) != count:
        raise ContractError(
            Problem(
                f"{source.path}: positions",
                "scan.counts_differ",
                f"as many positions as patterns: {count}",
                f"{len(positions)} positions for {count} patterns",
                "pair each pattern with its position: other `positions`, or `raster=ROWS,COLUMNS`",
            )
        )
    return positions


def _table(source: Source, declared: Mapping[str, Any]) -> NDArray[np.float64]:
    table = _numbers(source, declared["dataset"], "positions")
    columns = declared["columns"].split()
    if declared.get("axes", "pattern column") == "column pattern":
        table = table.T
    if table.ndim != 2 or table.shape[1] != len(columns):
        raise ContractError(
            Problem(
                f"{source.path}: {declared['dataset']}",
                "array.shape",
                f"(pattern, {len(columns)}), columns {declared['columns']}",
                f"shape {table.shape}",
                "correct the declaration 'columns'",
            )
        )
    return np.stack([table[:, columns.index("x")], table[:, columns.index("y")]], axis=1).astype(np.float64)


def _numbers(source: Source, key: str, what: str) -> NDArray[Any]:
    """An array of positions: of the second file, if there is one, otherwise of the main one."""
    found = source.other_array(key)
    array = found if found is not None else _array(source, key, what)
    if array.dtype.kind not in "fiu":
        raise _bad_array(f"{source.path}: {key}", "numbers", f"{array.dtype} of shape {array.shape}", "`positions=KEY`")
    return array


def _in_pixels(
    positions: NDArray[np.float64],
    declared: Mapping[str, Any],
    scalars: Mapping[str, float],
    done: Corrected,
    side: int,
    where: str,
    data: str,
) -> NDArray[np.float64]:
    """Positions in object pixels of the final patterns."""
    if declared["unit"] == "px":
        return positions * (done.window / side)
    factor = factor_of(declared["unit"], LENGTH_UNITS_M, where=f"{where}: positions.unit")
    if "object_pixel_size_m" not in scalars:
        raise ContractError(
            Problem(
                f"{data}: geometry",
                "geometry.missing",
                "the size of an object pixel, for positions in " + declared["unit"],
                ", ".join(scalars) or "nothing",
                "give `energy` (or `kv`), `distance` and `detector_pixel`, or `object_pixel`",
            )
        )
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = positions * factor / scalars["object_pixel_size_m"]
    problems = spacing_problems(f"{data}: positions", pixels, done.patterns.shape[-1])
    if problems:
        raise ContractError(problems)
    return np.asarray(pixels)


def _probe(source: Source, declared: Mapping[str, Any] | None, done: Corrected, side: int) -> NDArray[Any] | None:
    """The probe, unless the patterns were cropped or binned: then it has another pixel than they."""
    if declared is None:
        return None
    array = _array(source, declared.get("dataset"), "probe")
    probe = ordered(array, declared.get("axes", "mode y x"), f"{source.path}: probe")
    return probe if done.window == side and done.binned == 1 else None


def _mask(source: Source, declared: Mapping[str, Any] | None) -> NDArray[np.bool_] | None:
    if declared is None or "dataset" not in declared:
        return None
    mask = _array(source, declared["dataset"], "mask")
    if mask.dtype.kind not in "biuf" or mask.ndim < 2:
        raise _bad_array(
            f"{source.path}: mask",
            "(y, x) or (pattern, y, x)",
            f"{mask.dtype} of shape {mask.shape}",
            "another path of the mask",
        )
    bad = np.asarray((mask != 0) if declared["bad"] == "nonzero" else (mask == 0), bool)
    return np.asarray(bad.reshape(-1, *bad.shape[-2:]).any(axis=0))


def _is_amplitude(frames: NDArray[Any], bad: NDArray[np.bool_] | None, unit: str, where: str) -> bool:
    if unit == "auto":
        unit = decide_unit(frames, bad_pixels=bad, where=where).unit
    return unit in ("amplitude", "normalised-amplitude")


def _place(declared: Any) -> str | tuple[float, float] | None:
    if isinstance(declared, list):
        return float(declared[0]), float(declared[1])
    return None if declared == "measured" else str(declared)


def _sha256(*arrays: NDArray[Any]) -> str:
    """Of what several files hold together."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def compact(patterns: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers that are stored as floats, as integers."""
    if patterns.dtype.kind != "f":
        return patterns
    blocks = np.array_split(patterns, max(1, min(len(patterns), patterns.nbytes >> 25)))
    highest = 0.0
    for block in blocks:
        # Comparisons with NaN are false.
        if not bool(((block >= 0) & (block < _LARGEST_WHOLE) & (block == np.floor(block))).all()):
            return patterns
        highest = max(highest, float(block.max(initial=0)))
    return patterns.astype(np.min_scalar_type(int(highest)))


def selected(patterns: NDArray[Any], text: str | None) -> slice:
    """The slice ``START:STOP`` or ``START:STOP:STEP`` of the patterns.

    Raises:
        ContractError: another form, or nothing in it.
    """
    parts = (text or ":").split(":")
    try:
        chosen = slice(*(None if not part.strip() else int(part) for part in parts))
        found = "none" if len(parts) in (2, 3) and not len(patterns[chosen]) else None
    except (TypeError, ValueError):
        found = repr(text)
    if found is None and len(parts) in (2, 3):
        return chosen
    raise ContractError(
        Problem(
            "select",
            "door.select",
            f"some of the {len(patterns)} patterns, as START:STOP or START:STOP:STEP",
            found or repr(text),
            "give another `select`",
        )
    )


def _array(source: Source, name: str | None, what: str) -> NDArray[Any]:
    array = source.array(name.strip("/")) if name else None
    if array is None:
        raise ContractError(
            Problem(
                f"{source.path}: {name or what}",
                "mapping.dataset",
                f"the dataset of {what}",
                "nothing there",
                "correct the path; the file holds " + "; ".join(source.listing()[:8]),
            )
        )
    return array


def _bad_array(where: str, expected: str, found: str, remedy: str) -> ContractError:
    return ContractError(Problem(where, "array.shape", expected, found, f"correct it, or give {remedy}"))
