"""A mapping as TOML (specs/files.md, MAP)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptycho_data.atomic_files import atomic_write


def write_mapping(path: Path, tables: Mapping[str, Mapping[str, Any]], *, note: str) -> None:
    """Write the tables of a mapping, atomically, under a comment."""
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(_lines(tables, note)) + "\n", encoding="utf-8")


def _lines(tables: Mapping[str, Mapping[str, Any]], note: str) -> Iterator[str]:
    yield from (f"# {line}" for line in note.splitlines())
    for name, table in tables.items():
        yield from ("", f"[{name}]")
        yield from (f"{key} = {_value(value)}" for key, value in table.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # Strings of JSON are those of TOML, which also forbids a bare DEL.
        return json.dumps(value).replace("\x7f", "\\u007f")
    return repr(value)
