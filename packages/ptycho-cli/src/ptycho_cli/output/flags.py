"""Texts of the library, which name options as in Python, for the command line, which has flags (specs/cli.md)."""

from __future__ import annotations

import re

from ptycho_contracts.config import SECTIONS, schema

_OPTION = re.compile(r"`([A-Za-z_]+)(?:=([^`]+))?`")
_FLAGS = {row.name: row for section in SECTIONS for row in schema(section)}


def with_flags(text: str) -> str:
    """A text whose options in backticks are flags.

    >>> with_flags("try `modes=3`, or `correct_positions`; not `this`")
    'try --modes 3, or --correct-positions; not `this`'
    """

    def flag(match: re.Match[str]) -> str:
        row = _FLAGS.get(match[1])
        if row is None:
            return match[0]
        return row.flag if match[2] is None or match[2] == "True" else f"{row.flag} {match[2]}"

    return _OPTION.sub(flag, text)
