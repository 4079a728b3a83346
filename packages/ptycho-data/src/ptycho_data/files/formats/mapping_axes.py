"""Declared axes of a mapping: which orders are legal, and how an array is put into ours (specs/files.md, MAP)."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.door.positions import orientation_of
from ptycho_data.files.interpret.units import UNITS

_LEGAL_AXES = {
    "patterns": (("pattern", "y", "x"), ("row", "column", "y", "x")),
    "probe": (("y", "x"), ("mode", "y", "x")),
}
ZERO_FREQUENCIES = ("centre", "corner", "measured")
SLICE = re.compile(r"-?\d*:-?\d*(:-?[1-9]\d*)?")
_OURS = ("row", "column", "pattern", "mode", "y", "x")


def ordered(array: NDArray[Any], axes: str, where: str) -> NDArray[Any]:
    """The array with its declared axes in our order; a grid of views becomes a list, row by row.

    Raises:
        ContractError: another number of axes than declared.
    """
    names = axes.split()
    if array.ndim != len(names):
        raise ContractError(
            Problem(where, "array.shape", f"axes {axes}", f"shape {array.shape}", "correct the declaration 'axes'")
        )
    moved = np.transpose(array, [names.index(name) for name in _OURS if name in names])
    return moved.reshape(-1, *moved.shape[2:]) if "row" in names else moved


def layout_problems(path: Path, tables: dict[str, Any]) -> list[Problem]:
    """Unknown words of a mapping, and incomplete declarations."""
    patterns, positions = tables["patterns"], tables["positions"]
    problems = [*_axes_problems(path, tables), *_position_problems(path, positions, tables.get("geometry", {}))]
    choices = [("patterns.unit", patterns["unit"], (*UNITS, "normalised-intensity", "auto"))]
    if isinstance(patterns["zero_frequency"], str):
        choices.append(("patterns.zero_frequency", patterns["zero_frequency"], ZERO_FREQUENCIES))
    elif not _numbers(patterns["zero_frequency"]):
        problems.append(_choice(path, "patterns.zero_frequency", patterns["zero_frequency"], ("[y, x]",)))
    if "select" in patterns and SLICE.fullmatch(patterns["select"]) is None:
        problems.append(_choice(path, "patterns.select", patterns["select"], ("START:STOP", "START:STOP:STEP")))
    if "dataset" in tables.get("mask", {}):
        choices.append(("mask.bad", tables["mask"].get("bad"), ("nonzero", "zero")))
    if "probe" in tables:
        choices.append(("probe.kind", tables["probe"].get("kind", "guess"), ("exact", "guess")))
    detector = tables.get("detector", {})
    if "mask" in detector:
        choices.append(("detector.mask", detector["mask"], ("auto",)))
    centre = detector.get("centre", "auto")
    if centre != "auto" and not (isinstance(centre, list) and _numbers(centre)):
        problems.append(_choice(path, "detector.centre", centre, ("auto", "[y, x]")))
    problems += [
        _choice(path, f"detector.{key}", detector[key], ("a whole number above 0",))
        for key in ("crop", "bin", "pad")
        if detector.get(key, 1) < 1
    ]
    return problems + [_choice(path, key, value, legal) for key, value, legal in choices if value not in legal]


def _axes_problems(path: Path, tables: dict[str, Any]) -> list[Problem]:
    problems = []
    for table, legal in _LEGAL_AXES.items():
        axes = tables.get(table, {}).get("axes")
        if axes is not None and not any(sorted(axes.split()) == sorted(names) for names in legal):
            words = tuple(" ".join(names) for names in legal)
            problems.append(_choice(path, f"{table}.axes", axes, (*words, "any order of these")))
    return problems


def _position_problems(path: Path, positions: dict[str, Any], geometry: dict[str, Any]) -> list[Problem]:
    problems = []
    columns = positions.get("columns", "").split()
    whole = "dataset" in positions and {"x", "y"} <= set(columns) and len(set(columns)) == len(columns) <= 3
    if "raster" in positions:
        problems += _raster_problems(path, positions)
    elif "dataset" in positions:
        if not whole or {"x", "y"} & set(positions):
            problems.append(_choice(path, "positions.columns", positions.get("columns"), ("x y", "y x", "x y z")))
        if positions.get("axes", "pattern column") not in ("pattern column", "column pattern"):
            problems.append(_choice(path, "positions.axes", positions["axes"], ("pattern column", "column pattern")))
    elif not {"x", "y"} <= set(positions) or "columns" in positions:
        problems.append(
            Problem(
                f"{path}: positions",
                "mapping.missing",
                "'dataset' with 'columns', or 'x' and 'y', or 'raster' with 'step'",
                ", ".join(positions),
                "declare them: never guessed",
            )
        )
    sign = positions.get("sign", [1, 1])
    if len(sign) != 2 or any(isinstance(value, bool) or value not in (1, -1) for value in sign):
        problems.append(_choice(path, "positions.sign", sign, ("[1, 1]", "[-1, 1]", "[1, -1]", "[-1, -1]")))
    if "turn" in positions:
        try:
            orientation_of(positions["turn"])
        except ContractError as error:
            problems += error.problems
    problems += [
        _choice(path, f"geometry.{key}", value, ('{ dataset = "KEY", unit = "m" }',))
        for key, value in geometry.items()
        if isinstance(value, dict)
        and (set(value) - {"dataset", "unit"} or not all(isinstance(word, str) for word in value.values()))
    ]
    if positions["unit"] != "px" and not knows_the_object_pixel(geometry):
        problems.append(
            Problem(
                f"{path}: geometry",
                "geometry.missing",
                "object_pixel_size_m, or energy, distance and detector pixel",
                ", ".join(geometry) or "nothing",
                'positions in a length need them; or declare unit = "px"',
            )
        )
    return problems


def knows_the_object_pixel(geometry: Collection[str]) -> bool:
    """Whether a table ``[geometry]`` has what positions in a length need."""
    wave = {"photon_energy_ev", "wavelength_m", "electron_kv"} & set(geometry)
    lengths = {"detector_distance_m", "detector_pixel_size_m"} <= set(geometry) or "detector_pixel_rad" in geometry
    return "object_pixel_size_m" in geometry or bool(wave and lengths)


def _raster_problems(path: Path, positions: dict[str, Any]) -> list[Problem]:
    problems = []
    for key, fits in (
        ("raster", lambda value: isinstance(value, int) and value >= 1),
        ("step", lambda value: value != 0),
    ):
        values = positions.get(key, [])
        if not _numbers(values) or not all(fits(value) for value in values):
            found = positions.get(key, "nothing")
            problems.append(_choice(path, f"positions.{key}", found, ("[rows, columns]",)))
    if {"dataset", "x", "y"} & set(positions):
        problems.append(_choice(path, "positions", sorted(positions), ("raster and step alone", "dataset", "x and y")))
    return problems


def _numbers(value: Any) -> bool:
    return len(value) == 2 and all(isinstance(entry, int | float) and not isinstance(entry, bool) for entry in value)


def _choice(path: Path, key: str, value: Any, legal: tuple[str, ...]) -> Problem:
    return Problem(f"{path}: {key}", "option.choice", " | ".join(legal), repr(value), "declare one of them")
