"""Text for a terminal: nothing that a stranger wrote can steer it (specs/cli.md, CLI-38)."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with control characters, marks of writing direction and broken characters spelled out; one line.

    >>> printable("a\\x1b[2J  b\\n\\u202ec")
    'a\\\\x1b[2J  b\\\\n\\\\u202ec'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
