"""Which arrays are the positions, and in which unit (specs/files.md, DOOR-6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from scipy.spatial import cKDTree

from ptycho_data.files.containers.opened import Entry
from ptycho_data.files.door.guess_patterns import Patterns
from ptycho_data.files.door.sources import Source, grid_of_names
from ptycho_data.files.door.words import leaf, partners, position_score, tokens, unit_in
from ptycho_data.files.interpret.optics import LENGTH_UNITS_M
from ptycho_data.files.interpret.quantities import spelled

_Y_FIRST = ("encoder", "scan")
"""Names under which tike and PtyLab store (y, x)."""
_PIXEL_NAMES = ("xcoords", "coords")
_STEPS_PX = (1.0, 0.6)
"""Least step in object pixels, and largest as a fraction of a pattern's side, that a scan is likely to have."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Arrays that can be positions, as keys of a table ``[positions]``."""

    score: int
    declared: Mapping[str, str]
    unit: str | None

    def __str__(self) -> str:
        if "dataset" in self.declared:
            return f"{self.declared['dataset']}, columns {self.declared['columns']}"
        return f"{self.declared['x']}, {self.declared['y']}"


def counts_in(source: Source) -> set[int]:
    """Numbers of positions that the files could hold."""
    counts = set()
    for one in (*source.entries, *source.other_entries):
        sizes = [size for size in one.shape if size != 1]
        if one.dtype is not None and len(sizes) in (1, 2) and (len(sizes) == 1 or min(sizes) in (2, 3)):
            counts.add(max(sizes))
    return counts


def guessed_positions(source: Source, patterns: Patterns, named: str | None) -> Positions:
    """The arrays of the positions.

    Args:
        source: Open files; in a second one positions are sought first.
        patterns: The patterns to which they belong.
        named: A key, or ``"X,Y"``, that the user says.

    Raises:
        ContractError: none, or several that are as likely.
    """
    if named is not None:
        return _named(source, patterns, named)
    for entries, least in ((source.other_entries, -2), (source.entries, 1)):
        found = [one for one in _candidates(entries, patterns) if one.score >= least]
        best = [one for one in found if one.score == max(other.score for other in found)]
        if len(best) > 1 and not _same(source, best):
            raise ContractError(
                Problem(
                    str(source.path),
                    "door.positions",
                    "one pair of arrays of positions",
                    "; ".join(map(str, best[:6])),
                    "say which: `positions=KEY` or `positions=X,Y`",
                )
            )
        if best:
            return min(best, key=lambda one: len(str(one)))
    raise _none(source, patterns)


def xy_of(source: Source, positions: Positions) -> NDArray[np.float64]:
    """(M, 2) ``[x, y]`` as stored, for a look at their steps; of axes of a grid, their first points."""
    if "dataset" in positions.declared:
        table = np.asarray(_array(source, positions.declared["dataset"]), np.float64)
        table = table.T if positions.declared.get("axes") == "column pattern" else table
        columns = positions.declared["columns"].split()
        return table[:, [columns.index("x"), columns.index("y")]]
    x, y = (np.asarray(_array(source, positions.declared[axis]), np.float64).reshape(-1) for axis in "xy")
    if x.size != y.size:
        y, x = (axis.ravel() for axis in np.meshgrid(y, x, indexing="ij"))
    return np.stack([x, y], axis=1)


def unit_of(positions: Positions, xy: NDArray[np.float64], side: int, object_pixel_m: float | None) -> tuple[str, str]:
    """The unit of positions, and how it is known.

    Args:
        positions: Where they are.
        xy: (M, 2), as stored.
        side: Of a pattern, in pixels.
        object_pixel_m: Where the set-up is known.

    Raises:
        ContractError: neither the file nor the step tells.
    """
    first = positions.declared.get("dataset") or positions.declared["x"]
    for unit, said in ((positions.unit, "said by the file"), (unit_in(first), "by the name")):
        if unit is not None and spelled(unit) in ("px", *LENGTH_UNITS_M):
            return spelled(unit), said
    if leaf(first).lower().startswith(_PIXEL_NAMES):
        return "px", "by the name"
    if len(xy) > 1 and np.isfinite(xy).all() and bool((xy == np.round(xy)).all()) and object_pixel_m is None:
        return "px", "whole numbers"
    step = _step(xy)
    factors = {"px": 1.0} | (
        {}
        if object_pixel_m is None
        else {unit: LENGTH_UNITS_M[unit] / object_pixel_m for unit in ("m", "mm", "um", "nm")}
    )
    steps = {unit: step * factor for unit, factor in factors.items()}
    likely = [unit for unit, size in steps.items() if _STEPS_PX[0] <= size <= _STEPS_PX[1] * side]
    if len(likely) == 1 and object_pixel_m is not None:
        return likely[0], f"guessed: a step of {steps[likely[0]]:.3g} object pixels"
    meant = ", ".join(
        f"{unit}: {size:.3g} object pixels" for unit, size in steps.items() if unit in likely or unit == "px"
    )
    lengths = (
        "" if object_pixel_m is not None else "; a length also needs `energy` (or `kv`), `distance`, `detector_pixel`"
    )
    raise ContractError(
        Problem(
            f"{positions}",
            "door.position_unit",
            "positions of a known unit",
            f"steps of {step:.4g}, which would be ({meant})",
            f"say it: `position_unit=px`, or m, um, nm{lengths}",
        )
    )


def _step(xy: NDArray[np.float64]) -> float:
    """Median distance to the nearest other position."""
    if len(xy) < 2 or not np.isfinite(xy).all():
        return 0.0
    distances = cKDTree(xy).query(xy, k=2)[0][:, 1]
    moved = distances[distances > 0]
    return float(np.median(moved)) if moved.size else 0.0


def _named(source: Source, patterns: Patterns, named: str) -> Positions:
    held = {one.key: one for one in (*source.entries, *source.other_entries) if one.dtype is not None}
    keys = (
        [part.strip().strip("/") for part in named.split(",")] if named.strip("/") not in held else [named.strip("/")]
    )
    missing = [key for key in keys if key not in held]
    if len(keys) not in (1, 2) or missing:
        raise ContractError(
            Problem(
                f"{source.path}: positions",
                "door.positions",
                "a key of the file, two keys X,Y, or the path of an existing file",
                f"{named!r}; the file holds {'; '.join(source.listing()[:10])}",
                "correct `positions`",
            )
        )
    if len(keys) == 2:
        return Positions(0, {"x": keys[0], "y": keys[1]}, held[keys[0]].unit)
    tables = list(_tables([held[keys[0]]], patterns.count))
    if not tables:
        raise ContractError(
            Problem(
                f"{source.path}: {keys[0]}",
                "door.positions",
                f"{patterns.count} positions, as many as patterns, in an array ({patterns.count}, 2)",
                f"shape {held[keys[0]].shape}",
                "give `positions=X,Y`, two arrays of one number per pattern",
            )
        )
    return tables[0]


def _candidates(entries: Sequence[Entry], patterns: Patterns) -> list[Positions]:
    numbers = [one for one in entries if one.dtype is not None and one.dtype.kind in "iuf"]
    return [*_tables(numbers, patterns.count), *_pairs(numbers, patterns), *_dimensions(numbers, patterns)]


def _tables(entries: Iterable[Entry], count: int) -> Iterable[Positions]:
    """Arrays (M, 2), (M, 3) and their transposes."""
    for one in entries:
        if len(one.shape) != 2 or count not in one.shape:
            continue
        width = one.shape[1] if one.shape[0] == count else one.shape[0]
        if width not in (2, 3):
            continue
        turned = one.shape[0] != count
        y_first = leaf(one.key).lower() in _Y_FIRST or "yx" in tokens(leaf(one.key))
        columns = ("y x" if y_first else "x y") + (" z" if width == 3 else "")
        declared = {"dataset": one.key, "columns": columns} | ({"axes": "column pattern"} if turned else {})
        yield Positions(position_score(one.key), declared, one.unit)


def _pairs(entries: Sequence[Entry], patterns: Patterns) -> Iterable[Positions]:
    """Two arrays whose names differ by x and y; of a raster also its two axes."""
    held = {one.key: one for one in entries}
    for one in entries:
        for name in partners(one.key):
            other = held.get(name)
            if other is None or other.key == one.key:
                continue
            whole = one.size == other.size == patterns.count
            axes = patterns.grid is not None and (other.size, one.size) == patterns.grid
            if (whole or axes) and len([size for size in one.shape if size != 1]) <= 2:
                yield Positions(position_score(one.key) + 1, {"x": one.key, "y": other.key}, one.unit)


def _dimensions(entries: Sequence[Entry], patterns: Patterns) -> Iterable[Positions]:
    """The axes of a raster in EMD: dim1, dim2 and so on (or from dim0) beside the patterns."""
    if patterns.grid is None:
        return
    held = {one.key: one for one in entries}
    words = patterns.axes.split()
    beside = patterns.entry.key.removesuffix(leaf(patterns.entry.key))
    first = 0 if f"{beside}dim0" in held else 1
    y, x = (held.get(f"{beside}dim{words.index(word) + first}") for word in ("row", "column"))
    if x is not None and y is not None and (y.size, x.size) == patterns.grid:
        yield Positions(4, {"x": x.key, "y": y.key}, x.unit)


def _same(source: Source, candidates: Sequence[Positions]) -> bool:
    """Whether the same numbers are stored under all names."""
    first, *others = (xy_of(source, one) for one in candidates)
    return all(first.shape == other.shape and np.array_equal(first, other) for other in others)


def _none(source: Source, patterns: Patterns) -> ContractError:
    """One question: where the positions are, or which raster they are."""
    grid = patterns.grid or grid_of_names(source.frames)
    side = round(patterns.count**0.5)
    if grid is None and side > 1 and side**2 == patterns.count:
        grid = (side, side)
    raster = f"raster={grid[0]},{grid[1]}" if grid else "raster=ROWS,COLUMNS"
    found = "none of that number"
    others = sorted(counts_in(source) - {1, patterns.count})
    likely = [one for one in (*source.entries, *source.other_entries) if position_score(one.key) >= 4]
    if likely and others:
        found = "; ".join(str(one) for one in likely[:4])
    generated = "`step=STEP`" if patterns.grid else f"`{raster}` with `step=STEP`"
    return ContractError(
        Problem(
            str(source.path),
            "door.positions",
            f"{patterns.count} positions, one per pattern",
            found,
            f"give `positions=KEY`, `positions=FILE`, or for a raster {generated} and `position_unit=um` (or nm, px)",
        )
    )


def _array(source: Source, key: str) -> NDArray[Any]:
    found = source.other_array(key)
    array = found if found is not None else source.array(key)
    assert array is not None
    return array
