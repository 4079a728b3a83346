"""A mapping for files that nobody described, with what was taken for what (specs/files.md, DOOR-6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.import_options import ImportOptions
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.door.guess_patterns import Patterns, guessed_patterns
from ptycho_data.files.door.guess_positions import Positions, counts_in, guessed_positions, unit_of, xy_of
from ptycho_data.files.door.set_up import guessed_set_up, guessed_step, said_values
from ptycho_data.files.door.sources import Source, grid_of_names
from ptycho_data.files.door.told import Tables, told
from ptycho_data.files.door.words import leaf, tokens
from ptycho_data.files.interpret.optics import HC_EV_M, electron_energy_ev, object_pixel_m

_SAMPLE = 64
_MASKS = {"mask", "badpixels", "badpixel", "bad", "pixelmask"}
_PROBES = {"probe", "probes", "probeguess", "prb", "illumination", "guess"}


@dataclass(frozen=True)
class Guess:
    """A mapping, and one line for each thing that was taken for another."""

    tables: Tables
    lines: tuple[str, ...]


def guessed(source: Source, options: ImportOptions, named: str | None, measurement: str) -> Guess:
    """The mapping of files by name, shape and content; what the user tells takes precedence.

    Args:
        source: Open files.
        options: What the user tells.
        named: Keys of the positions that the user says.
        measurement: What the patterns hold, or ``"auto"``.

    Raises:
        ContractError: what cannot be known, as questions that name the option to give.
    """
    patterns = guessed_patterns(source, options.patterns, options.axes, counts_in(source))
    # What the user tells is checked first: it explains the questions that come after.
    answers = told({}, options)
    found, values = guessed_set_up(source)
    geometry, values, dropped = _set_up(found, values, answers.get("geometry", {}), min(patterns.image))
    tables: Tables = {
        "patterns": {
            "dataset": patterns.entry.key,
            "axes": patterns.axes,
            "unit": measurement,
            "zero_frequency": "measured",
        },
        "geometry": geometry,
    }
    many = f", {len(source.frames)} files" if source.frames else ""
    lines = [f"patterns   {patterns.entry}, axes {patterns.axes}{many}"]
    tables["positions"], words = _positions(source, patterns, options, named, values, answers)
    lines.append(f"positions  {words}")
    lines.append(f"set-up     {said_values(values) or 'not known: positions stay in pixels'}")
    lines += [f"left out   {text}" for text in dropped]
    for name, pair in (("probe", _probe(source, patterns)), ("mask", _mask(source, patterns))):
        if pair is not None and not (name == "mask" and options.mask is not None):
            tables[name], text = pair
            lines.append(f"{name:<10} {text}")
    if options.mask is None and _is_marked(source, patterns):
        tables["detector"] = {"mask": "auto"}
        lines.append("mask       auto: the detector marks pixels by negative, highest or missing values")
    return Guess(told(tables, options), tuple(lines))


def _set_up(
    found: Mapping[str, Any], values: dict[str, float], given: Mapping[str, float], side: int
) -> tuple[dict[str, Any], dict[str, float], list[str]]:
    """One wave, and lengths that agree with each other; what the user gives replaces what the file says."""
    geometry = dict(told({"geometry": dict(found)}, ImportOptions()).get("geometry", {}))
    if "electron_kv" in given or "photon_energy_ev" in given:
        geometry = {key: value for key, value in geometry.items() if key not in _WAVELENGTHS}
    wavelengths = [key for key in _WAVELENGTHS if key in geometry]
    for key in wavelengths[1:]:
        del geometry[key]
    if set(given) & {"object_pixel_size_m"}:
        geometry = {key: value for key, value in geometry.items() if key in _WAVELENGTHS}
    elif given:
        geometry.pop("object_pixel_size_m", None)
    values = {**{key: value for key, value in values.items() if key in geometry}, **given}
    dropped = []
    stored = values.get("object_pixel_size_m")
    expected = _object_pixel({key: value for key, value in values.items() if key != "object_pixel_size_m"}, side)
    if stored is not None and expected is not None and abs(stored / expected - 1) > 0.01:
        name = found["object_pixel_size_m"]["dataset"] if "object_pixel_size_m" in found else "object_pixel"
        dropped.append(
            f"{name}: an object pixel of {stored * 1e9:.4g} nm contradicts {expected * 1e9:.4g} nm of the set-up"
        )
        geometry.pop("object_pixel_size_m", None)
        values.pop("object_pixel_size_m")
    return geometry, values, dropped


_WAVELENGTHS = ("electron_kv", "wavelength_m", "photon_energy_ev")


def _object_pixel(values: Mapping[str, float], side: int) -> float | None:
    """Side of an object pixel of the patterns as stored, if the set-up is known."""
    if "object_pixel_size_m" in values:
        return values["object_pixel_size_m"]
    energy = values.get("photon_energy_ev")
    if "electron_kv" in values:
        energy = electron_energy_ev(values["electron_kv"])
    elif "wavelength_m" in values:
        energy = HC_EV_M / values["wavelength_m"]
    if energy is None:
        return None
    if "detector_pixel_rad" in values:
        return HC_EV_M / energy / (values["detector_pixel_rad"] * side)
    distance, pixel = values.get("detector_distance_m"), values.get("detector_pixel_size_m")
    return None if distance is None or pixel is None else object_pixel_m(energy, distance, pixel, side)


def _positions(
    source: Source,
    patterns: Patterns,
    options: ImportOptions,
    named: str | None,
    values: Mapping[str, float],
    answers: Tables,
) -> tuple[dict[str, Any], str]:
    """The table ``[positions]``, and its line.

    Raises:
        ContractError: what is missing: their place, their unit, or the set-up that a length needs.
    """
    pixel = _object_pixel(values, min(patterns.image))
    if options.step is not None or options.raster is not None:
        table, words = _raster(source, patterns, options, answers["positions"])
        _require_pixel(table["unit"], pixel, words)
        return table, words
    told_by_file = guessed_step(source) if patterns.grid is not None and named is None else None
    if told_by_file is not None and options.position_unit in (None, told_by_file[1]):
        step, unit = told_by_file
        _require_pixel(unit, pixel, "positions")
        rows, columns = patterns.grid or (0, 0)
        words = f"generated raster of {rows} rows and {columns} columns, step {step:g} {unit} (said by the file)"
        return {"raster": [rows, columns], "step": [step, step], "unit": unit}, words
    positions = guessed_positions(source, patterns, named)
    xy = xy_of(source, positions)
    if options.position_unit is not None:
        unit, said = options.position_unit, "as told"
    else:
        unit, said = unit_of(positions, xy, min(patterns.image), pixel)
    _require_pixel(unit, pixel, str(positions))
    extent = " x ".join(f"{size:.4g}" for size in np.ptp(xy, axis=0)) if len(xy) else "0"
    where = f" of {source.other.name}" if source.other is not None and _in_other(source, positions) else ""
    return {**positions.declared, "unit": unit}, f"{positions}{where} in {unit} ({said}), field {extent} {unit}"


def _require_pixel(unit: str, object_pixel: float | None, where: str) -> None:
    if unit != "px" and object_pixel is None:
        raise ContractError(
            Problem(
                where,
                "door.set_up",
                f"the size of an object pixel, for positions in {unit}",
                "no set-up",
                "give `energy` (or `kv`), `distance` and `detector_pixel`, or `object_pixel`",
            )
        )


def _raster(
    source: Source, patterns: Patterns, options: ImportOptions, answers: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    grid = answers.get("raster") or patterns.grid or grid_of_names(source.frames)
    side = round(patterns.count**0.5)
    if grid is None and side**2 == patterns.count:
        grid = (side, side)
    problems = []
    if grid is None or int(grid[0]) * int(grid[1]) != patterns.count:
        found = "no raster" if grid is None else f"{grid[0]} x {grid[1]}"
        problems.append(
            Problem(
                "raster",
                "door.raster",
                f"rows x columns = {patterns.count} patterns",
                found,
                "give `raster=ROWS,COLUMNS`",
            )
        )
    if options.step is None:
        problems.append(Problem("step", "door.raster", "the step of the raster", "nothing", "give `step=STEP`"))
    if options.position_unit is None:
        problems.append(
            Problem(
                "position_unit", "door.raster", "the unit of `step`", "nothing", "give `position_unit=um` (or nm, px)"
            )
        )
    if problems:
        raise ContractError(problems)
    assert grid is not None
    rows, columns = int(grid[0]), int(grid[1])
    return (
        {"raster": [rows, columns], "unit": options.position_unit},
        f"generated raster of {rows} rows and {columns} columns, step {options.step} {options.position_unit}",
    )


def _in_other(source: Source, positions: Positions) -> bool:
    key = positions.declared.get("dataset") or positions.declared["x"]
    return any(one.key == key for one in source.other_entries)


def _probe(source: Source, patterns: Patterns) -> tuple[dict[str, Any], str] | None:
    """A complex array of the patterns' side, by the name of a probe."""
    height, width = patterns.image
    for one in (*source.entries, *source.other_entries):
        if one.dtype is None or one.dtype.kind != "c" or not _PROBES & set(tokens(leaf(one.key))):
            continue
        if height == width and len(one.shape) in (2, 3) and one.shape[-2:] == (height, width):
            words = "x y" if source.axes_reversed else "y x"
            return {"dataset": one.key, "axes": words if len(one.shape) == 2 else f"mode {words}"}, str(one)
    return None


def _mask(source: Source, patterns: Patterns) -> tuple[dict[str, Any], str] | None:
    """An image by the name of a mask; the rarer of its two answers is bad."""
    for one in source.entries:
        if one.dtype is None or one.dtype.kind not in "biu" or not _MASKS & set(tokens(leaf(one.key))):
            continue
        if one.shape[-2:] == patterns.image and len(one.shape) in (2, 3) and one.key != patterns.entry.key:
            array = source.array(one.key)
            bad = "zero" if array is not None and np.count_nonzero(array) * 2 > array.size else "nonzero"
            return {"dataset": one.key, "bad": bad}, f"{one}: {bad} is bad, as the rarer answer"
    return None


def _is_marked(source: Source, patterns: Patterns) -> bool:
    """Whether a sample of the patterns has values by which detectors mark pixels."""
    array = source.array(patterns.entry.key)
    assert array is not None
    sample = _sampled(array)
    if sample.dtype.kind == "f":
        return bool((~np.isfinite(sample)).any() or (sample < 0).any())
    if (sample < 0).any() or sample.dtype.itemsize < 2:
        return bool((sample < 0).any())
    # A bright pixel reaches the highest value now and then; a marked one always has it.
    return bool(((sample == np.iinfo(sample.dtype).max).mean(axis=0) > 0.5).any())


def _sampled(array: NDArray[Any]) -> NDArray[Any]:
    flat: NDArray[Any] = array.reshape(-1, *array.shape[-2:])
    return np.asarray(flat[np.unique(np.linspace(0, len(flat) - 1, min(len(flat), _SAMPLE)).round().astype(int))])
