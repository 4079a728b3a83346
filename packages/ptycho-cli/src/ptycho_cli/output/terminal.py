"""Text for a terminal: wrapped, and nothing that a stranger wrote can steer it (specs/cli.md, CLI-38, CLI-39)."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TextIO

_LEAST_WIDTH = 20


def printable(text: str) -> str:
    """The text with control characters, marks of writing direction and broken characters spelled out; one line.

    >>> printable("a\\x1b[2J  b\\n\\u202ec")
    'a\\\\x1b[2J  b\\\\n\\\\u202ec'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at a stream through a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def width_of(stream: TextIO) -> int:
    """Columns of a terminal."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no real terminal
        columns = 0
    return max(columns or shutil.get_terminal_size().columns, _LEAST_WIDTH)


def show(line: str) -> None:
    """Print a line of an outcome on stdout, wrapped on a terminal."""
    print(wrapped(line, sys.stdout))


def wrapped(text: str, stream: TextIO, *, indent: str = "  ") -> str:
    """A line, broken between words where a terminal is too narrow; paths and flags stay whole.

    Args:
        text: One line.
        stream: Where it will be written; in a file or a pipe it stays one line.
        indent: Of all lines but the first.
    """
    if not stream.isatty():
        return text
    return textwrap.fill(
        text, width_of(stream), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
