"""Which array is the patterns, and which of its axes are what (specs/files.md, DOOR-6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.containers.opened import Entry
from ptycho_data.files.door.sources import Source
from ptycho_data.files.door.words import pattern_score

_LEAST_SIDE = 8
_SAMPLE = 256
"""Patterns, or pixels, that are looked at to tell axes apart, at most."""


@dataclass(frozen=True, slots=True)
class Patterns:
    """The chosen array: its key, its axes in words, and sizes of what they name."""

    entry: Entry
    axes: str
    count: int
    grid: tuple[int, int] | None
    image: tuple[int, int]


def guessed_patterns(source: Source, key: str | None, axes: str | None, counts: set[int]) -> Patterns:
    """The array of the patterns.

    Args:
        source: Open files.
        key: What the user says, or None.
        axes: Axes that the user says, or None.
        counts: Numbers of positions that the files could hold.

    Raises:
        ContractError: none, or several that are as likely.
    """
    entries = [one for one in source.entries if one.dtype is not None]
    entry = _named(source, entries, key) if key is not None else _best(source, entries)
    if axes is None:
        axes = _axes(source, entry, counts)
    words = axes.split()
    if len(words) != len(entry.shape) or set(words) not in ({"pattern", "y", "x"}, {"row", "column", "y", "x"}):
        raise ContractError(
            Problem(
                f"{source.path}: {entry.key}",
                "door.axes",
                f"pattern, y and x, or row, column, y and x, for the {len(entry.shape)} axes of {entry.shape}",
                repr(axes),
                "give `axes`, such as 'pattern y x', 'y x pattern' or 'row column y x'",
            )
        )
    size = dict(zip(words, entry.shape, strict=True))
    grid = (size["row"], size["column"]) if "row" in size and "column" in size else None
    count = size["pattern"] if grid is None else grid[0] * grid[1]
    return Patterns(entry, axes, count, grid, (size["y"], size["x"]))


def _named(source: Source, entries: Sequence[Entry], key: str) -> Entry:
    for one in entries:
        if one.key == key.strip("/") and len(one.shape) in (3, 4):
            return one
    raise ContractError(
        Problem(
            f"{source.path}: {key}",
            "door.patterns",
            "an array (pattern, y, x) or (row, column, y, x) of that name",
            next((str(one) for one in entries if one.key == key.strip("/")), "nothing"),
            "give `patterns=KEY`; the file holds " + _held(source),
        )
    )


def _best(source: Source, entries: Sequence[Entry]) -> Entry:
    likely = [one for one in entries if _can_be(one) and pattern_score(one.key) > -4]
    ranked = sorted(likely, key=lambda one: (pattern_score(one.key), one.size), reverse=True)
    if not ranked:
        single = any(len(one.shape) == 2 and min(one.shape) >= _LEAST_SIDE for one in entries)
        raise ContractError(
            Problem(
                str(source.path),
                "door.patterns",
                "an array of patterns: (pattern, y, x) or (row, column, y, x)",
                f"{'single images only' if single else 'none'}; the file holds {_held(source)}",
                "give all frames, or their folder" if single else "give the file with the patterns, or `patterns=KEY`",
            )
        )
    largest = max(ranked, key=lambda one: one.size)
    best = ranked[0] if 4 * ranked[0].size >= largest.size else largest
    rivals = [
        one
        for one in ranked
        if one is not best and pattern_score(one.key) >= pattern_score(best.key) and 2 * one.size >= best.size
    ]
    if rivals:
        names = ", ".join(str(one) for one in [best, *rivals][:6])
        raise ContractError(
            Problem(str(source.path), "door.patterns", "one array of patterns", names, "say which: `patterns=KEY`")
        )
    return best


def _can_be(entry: Entry) -> bool:
    if entry.dtype is None or entry.dtype.kind not in "iuf" or len(entry.shape) not in (3, 4):
        return False
    sides = sorted(entry.shape)
    return sides[-2] >= _LEAST_SIDE and entry.size >= 2 * _LEAST_SIDE**2


def _axes(source: Source, entry: Entry, counts: set[int]) -> str:
    """Words of the axes: by shape, by the number of positions, by content."""
    images_first = _images_first(source, entry, counts)
    if len(entry.shape) == 3:
        words = ["y", "x", "pattern"] if images_first != source.axes_reversed else ["pattern", "y", "x"]
    else:
        words = ["y", "x", "row", "column"] if images_first != source.axes_reversed else ["row", "column", "y", "x"]
    return " ".join(reversed(words) if source.axes_reversed else words)


def _images_first(source: Source, entry: Entry, counts: set[int]) -> bool:
    """Whether the detector's axes come before those of the patterns, in the order of the file."""
    if source.frames:
        return False
    shape = entry.shape
    if len(shape) == 3:
        square = shape[1] == shape[2], shape[0] == shape[1]
        counted = shape[0] in counts, shape[2] in counts
        told = {first for last, first in (square, counted) if last != first}
        if len(told) == 1:
            return told.pop()
    else:
        large = min(shape[2:]) >= _LEAST_SIDE, min(shape[:2]) >= _LEAST_SIDE
        if large[0] != large[1]:
            return large[1]
    array = source.array(entry.key)
    assert array is not None
    images = 1 if len(shape) == 3 else 2
    return _contrast(array, images, first=True) > _contrast(array, images, first=False)


def _contrast(array: NDArray[Any], counted: int, *, first: bool) -> float:
    """Relative spread of the mean image, if the detector's axes come first or last.

    A mean pattern has a bright middle; the sums of the patterns hardly differ.
    """
    flat = array.reshape(-1, int(np.prod(array.shape[-counted:]))) if first else None
    if flat is None:
        flat = array.reshape(int(np.prod(array.shape[:counted])), -1).T
    # Rows are pixels now, columns are patterns.
    chosen = np.unique(np.linspace(0, flat.shape[1] - 1, min(flat.shape[1], _SAMPLE)).round().astype(int))
    mean = np.nan_to_num(flat[:, chosen].astype(np.float64)).mean(axis=1)
    return float(mean.std() / mean.mean()) if mean.mean() > 0 else 0.0


def _held(source: Source) -> str:
    listing = source.listing()
    more = "" if len(listing) <= 10 else f" and {len(listing) - 10} more"
    return "; ".join(listing[:10]) + more or "nothing"
