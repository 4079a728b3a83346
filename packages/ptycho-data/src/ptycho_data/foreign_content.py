"""Content that strangers wrote: what its readers raise, and texts of unknown depth (specs/files.md, FILE-8, FILE-9)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptycho_contracts.problems import ContractError, Problem, PtychoError

_DEEPEST = 64


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """The boundary around a reader: whatever it raises becomes one error of this suite, which names the file.

    Raises:
        PtychoError: those of the reader, as they are; ``file.unreadable`` for any other exception.
    """
    try:
        yield
    except PtychoError:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ContractError(
            Problem(
                str(path),
                "file.unreadable",
                "content that its reader understands",
                text,
                "the file is damaged or forged; copy or write it again",
            )
        ) from error


def from_json(text: str | bytes) -> Any:
    """Value of a JSON text.

    Raises:
        ValueError: not JSON, a number of too many digits, or tables and lists in more than 64 levels.
    """
    try:
        return _shallow(json.loads(text))
    except RecursionError as error:
        raise ValueError("too many levels") from error


def from_toml_bytes(content: bytes) -> dict[str, Any]:
    """As :func:`from_toml`, of a file's content; what is no text is said to be none.

    Raises:
        ValueError: no text, or as :func:`from_toml`.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError("a file that is no text") from error
    try:
        return from_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"text that is none: {error}") from error


def from_toml(text: str) -> dict[str, Any]:
    """Tables of a TOML text.

    Raises:
        ValueError: not TOML, a number of too many digits, or tables and lists in more than 64 levels.
    """
    try:
        return dict(_shallow(tomllib.loads(text)))
    except RecursionError as error:
        raise ValueError("too many levels") from error


def _shallow(value: Any) -> Any:
    """The value, if later work may recurse into it."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError(f"more than {_DEEPEST} levels")


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
