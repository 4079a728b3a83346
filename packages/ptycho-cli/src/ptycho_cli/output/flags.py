"""Texts of the library, which name options as in Python, for the command line, which has flags (specs/cli.md)."""

from __future__ import annotations

import re

from ptycho_contracts.config import SECTIONS, schema
from ptycho_contracts.import_options import ImportOptions

from ptycho_cli.options import negative_flag

_OPTION = re.compile(r"`([A-Za-z_]+)(?:=([^`]+))?`")
_OPTIONS = {row.name: row for section in (*SECTIONS, ImportOptions) for row in schema(section)}
_PARAMETERS = ("backend", "companion", "geometry", "mapping", "turn", "orientation", "resume", "scan", "validation")
"""Parameters of commands that are no options of the schema."""


def with_flags(text: str) -> str:
    """A text whose options in backticks are flags.

    >>> with_flags("try `modes=3`, or `correct_positions`; `enable_checkpointing=False`; not `this`")
    'try --modes 3, or --correct-positions; --disable-checkpointing; not `this`'
    """
    return _OPTION.sub(_flag, text)


def _flag(match: re.Match[str]) -> str:
    name, value = match.groups()
    row = _OPTIONS.get(name)
    if row is None and name not in _PARAMETERS:
        return match[0]
    if row is not None and row.type is bool:
        return str(negative_flag(row)) if value == "False" else row.flag
    flag = f"--{name.replace('_', '-')}" if row is None else row.flag
    return flag if value is None else f"{flag} {value}"
