"""Any HDF5 file by a small TOML mapping that declares paths, axes and units (specs/files.md, MAP)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ptycho_contracts.problems import ContractError, MissingFileError, Problem, nearest
from ptycho_contracts.records import Scan

from ptycho_data.files.door.applied import Images, scan_by
from ptycho_data.files.door.sources import Source, frames_in
from ptycho_data.files.formats.mapping_axes import layout_problems
from ptycho_data.files.interpret.optics import GEOMETRY_KEYS
from ptycho_data.files.sources import file_sha256
from ptycho_data.foreign_content import from_toml_bytes
from ptycho_data.input_files import checked_file

NAME = "mapping"
SUFFIXES: tuple[str, ...] = ()
LARGEST_BYTES = 1 << 20
_NUMBER = (int, float)
_WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
    bool: "true or false",
}
TABLES: dict[str, dict[str, tuple[type, ...]]] = {
    "file": {"path": (str,)},
    "frames": {"names": (str,)},
    "patterns": {
        "dataset": (str,),
        "axes": (str,),
        "unit": (str,),
        "nphotons": _NUMBER,
        "zero_frequency": (str, list),
        "select": (str,),
    },
    "detector": {
        "mask": (str,),
        "dark": (str,),
        "flat": (str,),
        "threshold": _NUMBER,
        "centre": (str, list),
        "crop": (int,),
        "bin": (int,),
        "pad": (int,),
    },
    "positions": {
        "file": (str,),
        "dataset": (str,),
        "axes": (str,),
        "columns": (str,),
        "x": (str,),
        "y": (str,),
        "raster": (list,),
        "step": (list,),
        "serpentine": (bool,),
        "unit": (str,),
        "sign": (list,),
        "turn": (str,),
        "rotate_deg": _NUMBER,
    },
    "probe": {"dataset": (str,), "axes": (str,), "kind": (str,)},
    "mask": {"dataset": (str,), "file": (str,), "bad": (str,)},
    "geometry": {
        **{key: (*_NUMBER, str, dict) for key in (*GEOMETRY_KEYS, "wavelength_m", "electron_kv", "detector_pixel_rad")},
        "energy_unit": (str,),
        "length_unit": (str,),
    },
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
    path: Path,
    *,
    measurement: str = "auto",
    nphotons: float | None = None,
    companion: Path | None = None,
    object_is_truth: bool = False,
) -> Scan:
    """Read the scan that a mapping declares.

    Args:
        path: The mapping.
        measurement: Overrules the mapping's ``unit``; ``"auto"`` keeps it.
        nphotons: Mean photons per pattern, for normalised amplitude.
        companion: The data, anywhere: a file or a folder of frames; else ``file.path``, in the mapping's own
            folder or below.
        object_is_truth: It holds no object.

    Raises:
        ContractError: with all problems of the mapping, then of the data.
        MissingFileError: the data file does not exist.
    """
    tables = checked(path, parsed(path))
    main, other, images = located(path, tables, companion)
    decisions = {"mapping": {"source": str(path), "sha256": file_sha256(path), **tables}}
    with Source(main, other) as source:
        return scan_by(
            tables,
            source,
            images=images,
            where=str(path),
            decisions=decisions,
            measurement=measurement,
            nphotons=nphotons,
        )


def parsed(path: Path) -> dict[str, Any]:
    """The tables of a mapping, unchecked.

    Raises:
        ContractError: not TOML.
    """
    try:
        return from_toml_bytes(path.read_bytes())
    except ValueError as error:
        raise ContractError(
            Problem(
                str(path),
                "mapping.toml",
                "a TOML file",
                f"{error}".split("\n")[0][:200],
                "ptycho-cli import writes one; or correct it",
            )
        ) from error


def checked(path: Path, tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tables, if they declare everything.

    Raises:
        ContractError: unknown names, wrong types and missing keys, all at once.
    """
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
            elif not _is(value, TABLES[table][key]):
                words = " or ".join(_WORDS[kind] for kind in TABLES[table][key])
                problems.append(Problem(where, "option.type", words, repr(value)[:60], "correct the value"))
    for table, keys in _REQUIRED.items():
        content = tables.get(table)
        content = content if isinstance(content, dict) else {}
        missing = [key for key in keys if key not in content]
        if missing:
            expected, remedy = (
                f"{', '.join(missing)}, declared",
                "never guessed; ptycho-cli import writes a whole mapping",
            )
            problems.append(Problem(f"{path}: {table}", "mapping.missing", expected, "nothing", remedy))
    if not problems:
        problems = layout_problems(path, tables)
    if problems:
        raise ContractError(problems)
    return tables


def located(
    path: Path, tables: dict[str, dict[str, Any]], data: Path | None
) -> tuple[Path | Sequence[Path], Path | None, Images]:
    """The files that a mapping reads: data or frames, a second file, detector images.

    Args:
        path: The mapping.
        tables: Its content.
        data: The data that the caller names; else ``file.path``.

    Raises:
        ContractError: a path that leads out of the folder.
        MissingFileError: nothing at a path.
    """
    if data is None:
        data = _within(path.parent, tables.get("file", {}).get("path"), f"{path}: file.path")
    if not data.exists():
        raise MissingFileError(Problem(str(data), "file.missing", "an existing file", "nothing", "check the path"))
    named = {
        "other": tables["positions"].get("file"),
        "mask": tables.get("mask", {}).get("file"),
        "dark": tables.get("detector", {}).get("dark"),
        "flat": tables.get("detector", {}).get("flat"),
    }
    found = {
        name: checked_file(_within(data.parent, text.replace("{stem}", data.stem), f"{path}: file of {name}"))
        for name, text in named.items()
        if text is not None
    }
    main: Path | Sequence[Path] = frames_in(data, tables.get("frames", {}).get("names")) if data.is_dir() else data
    other = found.pop("other", None)
    return main, other, Images(**found)


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of one of the kinds; a truth value is no number."""
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)


def _within(folder: Path, text: str | None, where: str) -> Path:
    """A relative path that stays in a folder."""
    windows = PureWindowsPath(text or "")
    leads_out = PurePosixPath(text or "").is_absolute() or windows.drive or windows.root or ".." in windows.parts
    if not text or "\0" in text or leads_out:
        raise ContractError(
            Problem(
                where,
                "mapping.path",
                "a path within the mapping's own folder",
                repr(text),
                "put the mapping beside the data, or name the data as companion",
            )
        )
    data = folder / text
    if not data.resolve().is_relative_to(folder.resolve()):
        raise ContractError(
            Problem(
                where,
                "mapping.path",
                "a path within the mapping's own folder",
                f"{text!r}, a link that leads out of it",
                "name the data as companion",
            )
        )
    return data
