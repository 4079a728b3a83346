"""Options from a TOML file (specs/cli.md, CLI-4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptycho_contracts.config import Option
from ptycho_contracts.problems import ContractError, MissingFileError, Problem, nearest
from ptycho_data.foreign_content import from_toml_bytes


def read_config(path: Path | None, rows: tuple[Option, ...], *, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """Options of a configuration file by option name, without its tables.

    Args:
        path: A TOML file, or None for no options.
        rows: The options that the command reads.
        extra: Further names that are legal at the top level; their values pass unchecked.

    Raises:
        MissingFileError: no such file.
        ContractError: not TOML, unknown or repeated names, illegal values; all at once.
    """
    if path is None:
        return {}
    content = _parse(path)
    by_key = {key: row for row in rows for key in (_key(row.name), _key(row.flag.removeprefix("--")), *row.aliases)}
    sections = {row.section for row in rows}
    options: dict[str, Any] = {}
    problems: list[Problem] = []
    for section, key, value in _entries(content, sections):
        where = f"{path}: {'.'.join(filter(None, (section, key)))}"
        row = by_key.get(_key(key))
        if section == "" and key in extra:
            options[key] = value
        elif section not in ("", *sections):
            problems.append(
                _problem(where, "config.unknown", "a known table", repr(section), nearest(section, sections))
            )
        elif row is None:
            names = {row.name for row in rows if section in ("", row.section)} | set(() if section else extra)
            problems.append(
                _problem(where, "config.unknown", "an option of this command", repr(key), nearest(key, names))
            )
        elif section not in ("", row.section):
            problems.append(
                _problem(where, "config.table", f"'{row.name}' in [{row.section}]", f"[{section}]", "move it")
            )
        elif row.name in options:
            problems.append(_problem(where, "config.repeated", f"'{row.name}' once", "it twice", "remove one"))
        elif not row.accepts(value):
            problems.append(_problem(where, "config.value", row.legal, repr(value), "give a legal value"))
        else:
            options[row.name] = float(value) if row.type is float else value
    if problems:
        raise ContractError(problems)
    return options


def _parse(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no file"
        raise MissingFileError(
            _problem(str(path), "file.missing", "a configuration file", found, "check the path after --config")
        )
    try:
        return from_toml_bytes(path.read_bytes())
    except ValueError as error:
        raise ContractError(_problem(str(path), "config.toml", "a TOML file", str(error), "correct it")) from error


def _entries(content: Mapping[str, Any], sections: set[str]) -> Iterator[tuple[str, str, Any]]:
    """Each (table, key, value); the table of a top-level key is the empty string."""
    for name, value in content.items():
        if not isinstance(value, Mapping):
            yield "", name, value
            continue
        if name not in sections:
            yield name, "", None
            continue
        for key, inner in value.items():
            yield name, key, inner


def _key(name: str) -> str:
    return name.replace("-", "_")


def _problem(where: str, code: str, expected: str, found: str, remedy: str) -> Problem:
    return Problem(where=where, code=code, expected=expected, found=found, remedy=remedy)
