"""What the user tells, put into the tables of a mapping (specs/files.md, DOOR-7)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptycho_contracts.import_options import ImportOptions
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.door.options import geometry_tables, numbers_of
from ptycho_data.files.door.positions import orientation_of
from ptycho_data.files.formats.mapping_axes import SLICE, ZERO_FREQUENCIES

Tables = dict[str, dict[str, Any]]
_WAVELENGTHS = ("photon_energy_ev", "wavelength_m", "electron_kv")
_DETECTOR_PIXELS = ("detector_pixel_size_m", "detector_pixel_rad")


def told(tables: Mapping[str, Mapping[str, Any]], options: ImportOptions) -> Tables:
    """The tables with the user's answers, which take precedence.

    Raises:
        ContractError: illegal answers, all at once.
    """
    result: Tables = {name: dict(table) for name, table in tables.items()}
    problems: list[Problem] = []
    for part in (_geometry, _patterns, _detector, _positions):
        try:
            part(result, options)
        except ContractError as error:
            problems += error.problems
    if problems:
        raise ContractError(problems)
    return {name: table for name, table in result.items() if table}


def _geometry(tables: Tables, options: ImportOptions) -> None:
    given = geometry_tables(options)
    table = tables.setdefault("geometry", {})
    for names in (_WAVELENGTHS, _DETECTOR_PIXELS):
        if set(names) & set(given):
            for name in names:
                table.pop(name, None)
    if "object_pixel_size_m" in given:
        # It decides; a distance or pixel that the file has beside it may belong to something else.
        for name in ("detector_distance_m", *_DETECTOR_PIXELS):
            table.pop(name, None)
    elif given and "object_pixel_size_m" in table:
        del table["object_pixel_size_m"]
    table |= given


def _patterns(tables: Tables, options: ImportOptions) -> None:
    table = tables.setdefault("patterns", {})
    if options.patterns is not None:
        table["dataset"] = options.patterns.strip("/")
    for name in ("axes", "select"):
        if getattr(options, name) is not None:
            table[name] = getattr(options, name)
    if options.select is not None and SLICE.fullmatch(options.select) is None:
        expected = "START:STOP or START:STOP:STEP, whole numbers"
        raise ContractError(Problem("select", "door.select", expected, repr(options.select), "correct `select`"))
    place = options.zero_frequency
    if place is not None:
        table["zero_frequency"] = _pixel("zero_frequency", place) if "," in place else place
        if isinstance(table["zero_frequency"], str) and place not in ZERO_FREQUENCIES:
            expected = f"{', '.join(ZERO_FREQUENCIES)} or Y,X"
            raise ContractError(
                Problem("zero_frequency", "door.zero_frequency", expected, repr(place), "correct `zero_frequency`")
            )


def _detector(tables: Tables, options: ImportOptions) -> None:
    table = tables.setdefault("detector", {})
    for name in ("crop", "bin", "pad", "threshold"):
        if getattr(options, name) is not None:
            table[name] = getattr(options, name)
    if options.centre is not None:
        table["centre"] = "auto" if options.centre == "auto" else _pixel("centre", options.centre)
    if options.mask == "auto":
        table["mask"] = "auto"
    elif options.mask is not None:
        table.pop("mask", None)
        tables["mask"] = {"file": Path(options.mask).name}
    for name in ("dark", "flat"):
        if getattr(options, name) is not None:
            table[name] = Path(getattr(options, name)).name


def _positions(tables: Tables, options: ImportOptions) -> None:
    table = tables.setdefault("positions", {})
    if options.position_unit is not None:
        table["unit"] = options.position_unit
    generated = options.raster is not None or options.step is not None
    if options.positions is not None and generated:
        raise ContractError(
            Problem(
                "positions",
                "door.raster",
                "`positions` that are stored, or a `raster` with its `step` that is generated",
                "both",
                "give one of them",
            )
        )
    if options.serpentine and not generated and "raster" not in table:
        raise ContractError(
            Problem("serpentine", "door.raster", "a raster that is generated", "none", "give `raster=ROWS,COLUMNS`")
        )
    if generated:
        for name in ("file", "dataset", "columns", "axes", "x", "y", "sign"):
            table.pop(name, None)
    if options.raster is not None:
        table["raster"] = [int(value) for value in numbers_of("raster", options.raster, (2,), whole=True)]
    if options.step is not None:
        steps = numbers_of("step", options.step, (1, 2))
        table["step"] = steps if len(steps) == 2 else steps * 2
    if options.serpentine:
        table["serpentine"] = True
    if options.turn is not None:
        orientation_of(options.turn)
        table["turn"] = options.turn
    if options.rotate is not None:
        table["rotate_deg"] = float(options.rotate)


def _pixel(name: str, text: str) -> list[float]:
    return numbers_of(name, text, (2,))
