"""From any files to a scan and the mapping that reads the next ones (specs/files.md, DOOR)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape, glob
from itertools import takewhile
from pathlib import Path
from typing import Any

from ptycho_contracts.import_options import ImportOptions
from ptycho_contracts.problems import ContractError, MissingFileError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.files.door.applied import Images, scan_by
from ptycho_data.files.door.guess import guessed
from ptycho_data.files.door.guess_patterns import guessed_patterns
from ptycho_data.files.door.sources import Source, frames_in, natural_order
from ptycho_data.files.door.told import Tables, told
from ptycho_data.files.formats import mapping as mappings
from ptycho_data.input_files import checked_file

NORMALISED = ("normalised-amplitude", "normalised-intensity")


@dataclass(frozen=True, eq=False)
class Imported:
    """A scan, its mapping, and what was taken for what.

    Attributes:
        scan: The scan.
        tables: The mapping that makes it of its files; empty if the files say everything themselves.
        lines: What was taken for what, one readable line each.
        data: The data's file, or the folder of the frames.
    """

    scan: Scan
    tables: Tables
    lines: tuple[str, ...]
    data: Path


def imported(
    files: Sequence[Path],
    options: ImportOptions,
    *,
    mapping: Path | None = None,
    measurement: str = "auto",
    nphotons: float | None = None,
) -> Imported:
    """The scan of some files, by a mapping or by guesses; what the options say takes precedence.

    Args:
        files: A file; a file and that of its positions; the frames of a scan, their folder, or a pattern
            of their names.
        options: What the files leave open.
        mapping: A mapping that was written for another scan of the same kind.
        measurement: What the patterns hold, ``"normalised-intensity"`` among it; ``"auto"``: measured.
        nphotons: Mean photons per pattern, for normalised patterns.

    Raises:
        MissingFileError: no such file.
        ContractError: what cannot be known, each with the option that says it; or bad content.
    """
    named = options.positions
    given = None if named is None or not Path(named).is_file() else Path(named)
    keys = None if named is None or given is not None else str(named)
    images = detector_images(options)
    if mapping is None:
        main, other = _roles(files, given, options.patterns)
        with Source(main, other) as source:
            guess = guessed(source, options, keys, measurement)
            tables, lines = guess.tables, guess.lines
            tables = _with_files(tables, source, files, nphotons)
            return _applied(tables, source, images, lines, "the guess", nphotons, data_of(main, files))
    tables = mappings.checked(mapping, mappings.parsed(mapping))
    tables = _renamed(told(tables, options), keys)
    if measurement != "auto":
        tables["patterns"]["unit"] = measurement
    tables = mappings.checked(mapping, tables)
    expanded, beside = _expanded(files), given
    if beside is None and len(expanded) == 2 and "file" in tables["positions"]:
        beside = expanded.pop()
    main = expanded[0] if len(expanded) == 1 else expanded
    data = data_of(main, files)
    located = mappings.located(mapping, _without_named(tables, images, beside), data)
    if data.is_dir() and files[0].is_dir():
        main = located[0]
    beside_data = located[2]
    images = Images(
        mask=images.mask or beside_data.mask, dark=images.dark or beside_data.dark, flat=images.flat or beside_data.flat
    )
    with Source(main, beside or located[1]) as source:
        tables = _with_files(tables, source, files, nphotons)
        return _applied(tables, source, images, (f"by mapping {mapping}",), str(mapping), nphotons, data)


def data_of(main: Path | Sequence[Path], files: Sequence[Path]) -> Path:
    """The file, or the folder of the frames."""
    if isinstance(main, Path):
        return main
    return files[0] if files[0].is_dir() else main[0].parent


def _applied(
    tables: Tables,
    source: Source,
    images: Images,
    lines: tuple[str, ...],
    where: str,
    nphotons: float | None,
    data: Path,
) -> Imported:
    mappings.checked(Path(where), tables)
    scan = scan_by(
        tables,
        source,
        images=images,
        where=where,
        decisions={"mapping": {"source": where, **tables}},
        nphotons=nphotons,
    )
    done = scan.metadata.get("detector")
    lines = (*lines, *([f"detector   {_words(done)}"] if done else []))
    return Imported(scan, tables, lines, data)


def _words(record: Mapping[str, Any]) -> str:
    """What was done, such as ``mask (marked 3, dead 0), centre 8 9``."""
    words = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            value = f"({_words(value)})"
        elif isinstance(value, list | tuple):
            value = " ".join(map(str, value))
        words.append(f"{key.replace('_', ' ')} {value}")
    return ", ".join(words)


def _roles(
    files: Sequence[Path], positions: Path | None, patterns_key: str | None
) -> tuple[Path | Sequence[Path], Path | None]:
    """Which files hold patterns, and which is the second one."""
    expanded = _expanded(files)
    if len(expanded) == 1:
        return expanded[0], positions
    if len({path.suffix.lower() for path in expanded}) == 1 and len(expanded) > 2:
        return expanded, positions
    if positions is None and len(expanded) == 2:
        holds = [_holds_patterns(path, patterns_key) for path in expanded]
        if holds.count(True) == 1:
            main = expanded[holds.index(True)]
            return main, next(path for path in expanded if path != main)
    if len({path.suffix.lower() for path in expanded}) == 1:
        return expanded, positions
    raise ContractError(
        Problem(
            ", ".join(path.name for path in expanded[:4]),
            "door.files",
            "one file, a file with that of its positions, or frames of one kind",
            f"{len(expanded)} files of different kinds",
            "give the file with the patterns, and `positions=FILE`",
        )
    )


def _holds_patterns(path: Path, key: str | None) -> bool:
    try:
        with Source(path) as source:
            guessed_patterns(source, key, None, set())
    except ContractError as error:
        if not all(code.startswith("door.") for code in error.codes):
            raise  # a file that cannot be read has no role
        return "door.patterns" in error.codes and "one array" in str(error)
    return True


def _expanded(files: Sequence[Path]) -> list[Path]:
    """Files of folders and patterns of names, in natural order; others as they are given."""
    found: list[Path] = []
    for path in files:
        if path.is_dir():
            found += frames_in(path)
        elif path.exists():
            found.append(path)
        else:
            matching = sorted(map(Path, glob(str(path))), key=natural_order)
            if not matching:
                raise MissingFileError(
                    Problem(str(path), "file.missing", "an existing file or folder", "nothing", "check the path")
                )
            found += matching
    if not found:
        raise MissingFileError(Problem("files", "file.missing", "a file or folder", "nothing", "name one"))
    return sorted(found, key=natural_order) if len(found) > 2 else found


def detector_images(options: ImportOptions) -> Images:
    """Files of detector images that the user names.

    Raises:
        MissingFileError: no such file.
    """
    return Images(mask=_image(options.mask), dark=_image(options.dark), flat=_image(options.flat))


def _image(given: str | Path | None) -> Path | None:
    return None if given is None or given == "auto" else checked_file(Path(given))


def _with_files(tables: Tables, source: Source, files: Sequence[Path], nphotons: float | None) -> Tables:
    """The mapping with what the next scan's files will be called."""
    tables = {name: dict(table) for name, table in tables.items()}
    if source.frames and "frames" not in tables:
        names = [path.name for path in source.frames]
        same_letters = takewhile(lambda letters: letters[0] == letters[1], zip(min(names), max(names), strict=False))
        prefix = "".join(first for first, _ in same_letters).rstrip("0123456789")
        prefix = "" if files[0].is_dir() else prefix
        suffix = source.frames[0].suffix
        same = all(path.suffix == suffix for path in source.frames)
        tables["frames"] = {"names": escape(prefix) + "*" + (suffix if same else "")}
    if source.other is not None and "raster" not in tables["positions"]:
        tables["positions"]["file"] = source.other.name.replace(source.path.stem, "{stem}")
    if nphotons is not None and tables["patterns"]["unit"] in NORMALISED:
        tables["patterns"]["nphotons"] = float(nphotons)
    return tables


def _renamed(tables: Tables, keys: str | None) -> Tables:
    """The mapping with other keys of the positions."""
    if keys is None:
        return tables
    parts = [part.strip().strip("/") for part in keys.split(",")]
    table = {key: value for key, value in tables["positions"].items() if key not in ("x", "y", "raster", "step")}
    if len(parts) == 2:
        table = {key: value for key, value in table.items() if key not in ("dataset", "columns", "axes")}
        table |= {"x": parts[0], "y": parts[1]}
    else:
        table |= {"dataset": parts[0], "columns": table.get("columns", "x y")}
    return {**tables, "positions": table}


def _without_named(tables: Tables, images: Images, beside: Path | None) -> Tables:
    """The mapping without the files that the caller names."""
    tables = {name: dict(table) for name, table in tables.items()}
    if images.mask is not None:
        tables.pop("mask", None)
    for name in ("dark", "flat"):
        if getattr(images, name) is not None:
            tables.get("detector", {}).pop(name, None)
    if beside is not None:
        tables["positions"].pop("file", None)
    return tables
