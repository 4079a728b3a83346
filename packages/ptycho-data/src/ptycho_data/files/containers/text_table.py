"""Tables of numbers in text: CSV, TSV, columns divided by blanks (specs/files.md, DOOR-4)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.input_files import checked_file

LARGEST_BYTES = 1 << 24
_COMMENTS = ("#", "%", "//")
_HEAD_BYTES = 4096
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]*")
_UNIT = re.compile(r"^(.*?)\s*[\[(]\s*([^\])]*?)\s*[\])]$")


def is_text_table(path: Path) -> bool:
    """Whether the file is text whose first lines hold a row of at least two numbers, or of one."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if _TEXT.fullmatch(head) is None:
        return False
    lines = head.decode("utf-8", errors="replace").splitlines()
    whole = lines[:-1] if len(head) == _HEAD_BYTES and len(lines) > 1 else lines
    return any(_numbers(_cells(line)) for line in whole)


class TextTable:
    """Columns of a table in text, by the names in its header line, otherwise by their numbers from 1.

    Raises:
        MissingFileError: no such file.
        ContractError: too large, rows of different lengths, or words among the numbers.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = checked_file(path)
        if self.path.stat().st_size > LARGEST_BYTES:
            raise self._problem(
                "", f"at most {LARGEST_BYTES >> 20} MiB of text", "more", "store it as NumPy (.npy) or HDF5"
            )
        header: list[str] = []
        rows: list[list[float]] = []
        text = self.path.read_bytes().decode("utf-8-sig", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            words = line.strip()
            comment = words.startswith(_COMMENTS)
            cells = _cells(words.lstrip("#%/ ") if comment else words)
            if not cells:
                continue
            values = None if comment else _numbers(cells)
            if values is None and not rows:
                header = cells
            elif values is None and comment:
                continue
            elif values is None or (rows and len(values) != len(rows[0])):
                width = len(rows[0])
                raise self._problem(
                    f", line {number}", f"{width} numbers, as in the rows before", repr(words[:60]), "correct the line"
                )
            else:
                rows.append(values)
        self._table = np.array(rows, np.float64)
        width = self._table.shape[1] if rows else 0
        named = [_named(cell) for cell in header] if len(header) == width and len(set(header)) == width else []
        self._columns = named or [(str(number), None) for number in range(1, width + 1)]

    def listed(self) -> list[tuple[str, tuple[int, ...], np.dtype[Any], str | None]]:
        """Name, shape, dtype and unit of each column; the whole table is ``table``."""
        rows = self._table.shape[:1]
        kind = self._table.dtype
        return [("table", self._table.shape, kind, None), *((name, rows, kind, unit) for name, unit in self._columns)]

    def array(self, key: str) -> NDArray[Any] | None:
        """The whole table, or one column."""
        if key == "table":
            return self._table
        names = [name for name, _ in self._columns]
        return self._table[:, names.index(key)].copy() if key in names else None

    def _problem(self, place: str, expected: str, found: str, remedy: str) -> ContractError:
        return ContractError(Problem(f"{self.path}{place}", "text.table", expected, found, remedy))


def _cells(line: str) -> list[str]:
    divided = re.split(r"[,;\t]", line) if re.search(r"[,;\t]", line) else line.split()
    cells = [cell.strip().strip('"') for cell in divided]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _numbers(cells: list[str]) -> list[float] | None:
    try:
        return [float(cell) for cell in cells] or None
    except ValueError:
        return None


def _named(cell: str) -> tuple[str, str | None]:
    """Name and unit of a header such as ``x [um]`` or ``y (m)``."""
    match = _UNIT.match(cell)
    return (match[1], match[2]) if match and match[1] else (cell, None)
