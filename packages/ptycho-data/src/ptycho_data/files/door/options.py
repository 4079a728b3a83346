"""What a user can tell about a file that does not say it itself (specs/files.md, DOOR-7)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ptycho_contracts.import_options import ImportOptions
from ptycho_contracts.options import check_names, schema
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.interpret.optics import ENERGY_UNITS_EV, LENGTH_UNITS_M
from ptycho_data.files.interpret.quantities import factor_of

_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-zµμ]*)\s*")
POSITION_UNITS = ("px", *LENGTH_UNITS_M)
ANGLE_UNITS_RAD = {"rad": 1.0, "mrad": 1e-3, "urad": 1e-6}


def options_of(given: Mapping[str, Any]) -> ImportOptions:
    """Options by name; numbers, pairs and paths may stand for the texts of the command line.

    Raises:
        ContractError: unknown names, or illegal values; all at once.
    """
    rows = {row.name: row for row in schema(ImportOptions)}
    check_names(given, rows, where="read_scan")
    texts = {name for name, row in rows.items() if row.type is str}
    return ImportOptions(**{name: _text(value) if name in texts else value for name, value in given.items()})


def _text(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, int | float | PurePath) and not isinstance(value, bool) else value


def geometry_tables(options: ImportOptions) -> dict[str, Any]:
    """The table ``[geometry]`` of the scalars that were given, in SI units and eV.

    Raises:
        ContractError: no numbers, unknown units, or an energy of unknown magnitude; all at once.
    """
    table: dict[str, Any] = {}
    problems: list[Problem] = []
    wanted: tuple[tuple[str, str | None, dict[str, float], str], ...] = (
        ("energy", options.energy, ENERGY_UNITS_EV, "photon_energy_ev"),
        ("distance", options.distance, LENGTH_UNITS_M, "detector_distance_m"),
        ("detector_pixel", options.detector_pixel, {**LENGTH_UNITS_M, **ANGLE_UNITS_RAD}, "detector_pixel_size_m"),
        ("object_pixel", options.object_pixel, LENGTH_UNITS_M, "object_pixel_size_m"),
    )
    for name, value, units, key in wanted:
        if value is None:
            continue
        try:
            number, unit = _quantity(name, value, units)
        except ContractError as error:
            problems += error.problems
            continue
        table["detector_pixel_rad" if unit in ANGLE_UNITS_RAD else key] = number
    if options.kv is not None:
        if options.energy is not None:
            problems.append(
                Problem("kv", "door.quantity", "`energy` of photons or `kv` of electrons", "both", "give one of them")
            )
        table["electron_kv"] = float(options.kv)
    if problems:
        raise ContractError(problems)
    return table


def _quantity(name: str, value: str, units: Mapping[str, float]) -> tuple[float, str]:
    match = _NUMBER.fullmatch(value)
    number, unit = (float(match[1]), match[2]) if match else (math.nan, "")
    default = "eV" if units is ENERGY_UNITS_EV else "m"
    example = "8.8keV" if units is ENERGY_UNITS_EV else "75um"
    if not (math.isfinite(number) and number > 0):
        raise ContractError(
            Problem(name, "door.quantity", "a positive number with its unit", repr(value), f"write `{name}={example}`")
        )
    if default == "eV" and not unit and number < 100:
        raise ContractError(
            Problem(
                name,
                "door.quantity",
                "an energy with its unit",
                f"{number:g}: eV or keV?",
                f"write `energy={number:g}keV` or `energy={number:g}eV`",
            )
        )
    unit = unit or default
    return number * factor_of(unit, units, where=name), unit


def numbers_of(name: str, text: str, count: tuple[int, ...], *, whole: bool = False) -> list[float]:
    """Numbers divided by commas.

    Raises:
        ContractError: another count, or no numbers.
    """
    try:
        values = [float(int(part) if whole else part) for part in text.split(",")]
    except (ValueError, OverflowError):
        values = []
    if len(values) not in count or not all(math.isfinite(value) for value in values):
        kind = "whole numbers" if whole else "numbers"
        words = " or ".join(map(str, count))
        raise ContractError(
            Problem(name, "door.numbers", f"{words} {kind}, divided by commas", repr(text), f"correct `{name}`")
        )
    return values
