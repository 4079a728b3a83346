"""The files of one scan as one source of arrays: a file, a file with a second one, a folder of frames (DOOR-2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, MissingFileError, Problem

from ptycho_data.files.containers.opened import Container, Entry, open_container, opener_of
from ptycho_data.free_memory import require_memory
from ptycho_data.input_files import checked_file

FRAME_SUFFIXES = (".tif", ".tiff", ".edf", ".cbf", ".npy", ".h5", ".hdf5", ".hdf", ".nxs", ".mat", ".npz")
_NUMBER = r"(\d+(?:\.\d+)?)"
_COLUMN_THEN_ROW = re.compile(
    rf"(?i)((?<![a-z])(?:x|c|col|column)[-_=]?){_NUMBER}(.*?(?<![a-z])(?:y|r|row)[-_=]?){_NUMBER}"
)


class Source:
    """Arrays by name, in the first of some files that has them; a context manager.

    Args:
        main: The file with the patterns, or several: then each holds a part of the patterns, in this order.
        other: A second file, such as that of the positions.

    Raises:
        MissingFileError, ContractError: of a file.
    """

    def __init__(self, main: Path | Sequence[Path], other: Path | None = None) -> None:
        self.frames = [] if isinstance(main, Path) else list(main)
        self.path = main if isinstance(main, Path) else self.frames[0]
        self.other = other
        self._kept: dict[str, NDArray[Any]] = {}
        with ExitStack() as opening:
            self._main: Container = opening.enter_context(open_container(self.path))
            self._second: Container | None = None
            if other is not None:
                self._second = opening.enter_context(open_container(other))
            self._stack = opening.pop_all()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def axes_reversed(self) -> bool:
        """Whether arrays of the main file have their axes in reverse order (MATLAB 7.3)."""
        return self._main.axes_reversed

    @cached_property
    def entries(self) -> list[Entry]:
        """Arrays of the main file; of frames, images and stacks are counted over all files, as far as one tells."""
        entries = self._main.entries()
        if not self.frames:
            return entries
        return [
            replace(one, shape=_joined_shape(one.shape, len(self.frames))) if len(_image(one.shape)) >= 2 else one
            for one in entries
        ]

    @cached_property
    def other_entries(self) -> list[Entry]:
        """Arrays of the second file."""
        return [] if self._second is None else self._second.entries()

    def array(self, key: str) -> NDArray[Any] | None:
        """An array of the main file, otherwise of the second one."""
        if key in self._kept:
            return self._kept[key]
        found = self._main.array(key)
        if found is None:
            return self.other_array(key)
        if self.frames and len(_image(found.shape)) >= 2:
            found = self._joined(key, found)
        if found.ndim >= 3:
            # The patterns, which are looked at before they are used, are read once.
            self._kept = {key: found}
        return found

    def other_array(self, key: str) -> NDArray[Any] | None:
        """An array of the second file."""
        return None if self._second is None else self._second.array(key)

    def listing(self) -> list[str]:
        """What the files hold, one line each."""
        return [str(one) for one in (*self._main.entries(), *self.other_entries)]

    def _joined(self, key: str, first: NDArray[Any]) -> NDArray[Any]:
        """The frames of all files, one after the other."""
        single, first = first.ndim == 2, _single(_stack_of(first))
        opened = opener_of(self.path)
        counts = [1 if single else _count(opened, path, key) for path in self.frames]
        needed = sum(counts) * first[0].nbytes
        remedy = "use a machine with more memory, or give fewer frames"
        require_memory(needed, where=str(self.path.parent), remedy=remedy)
        joined = np.empty((sum(counts), *first.shape[1:]), first.dtype)
        start = 0
        for path, count in zip(self.frames, counts, strict=True):
            part = first if path == self.path else self._part(opened, path, key, first)
            if len(part) != count:
                raise _other_frame(path, key, f"{count} frames", f"{len(part)}")
            joined[start : start + count] = part
            start += count
        return joined

    def _part(self, opened: Callable[[Path], Container], path: Path, key: str, first: NDArray[Any]) -> NDArray[Any]:
        """The frames of one file, of the shape and kind of those of the first."""
        with opened(checked_file(path)) as container:
            part = container.array(key)
            if part is None:
                alike = [one.key for one in container.entries() if _image(one.shape)[-2:] == first.shape[1:]]
                part = container.array(alike[0]) if len(alike) == 1 else None
        expected = f"frames of shape {first.shape[1:]} and {first.dtype}, as in {self.path.name}"
        if part is None:
            raise _other_frame(path, key, expected, "nothing")
        part = _single(_stack_of(part))
        if part.shape[1:] != first.shape[1:] or not np.can_cast(part.dtype, first.dtype, "safe"):
            raise _other_frame(path, key, expected, f"{part.dtype} of shape {part.shape}")
        return part


def _count(opened: Callable[[Path], Container], path: Path, key: str) -> int:
    """Frames in one file, by its header."""
    with opened(checked_file(path)) as container:
        shapes = {one.key: one.shape for one in container.entries()}
    shape = shapes.get(key, ())
    return shape[0] if len(shape) == 3 else 1


def _other_frame(path: Path, key: str, expected: str, found: str) -> ContractError:
    remedy = "remove the file from the folder, or name the frames by a pattern such as 'FOLDER/frame_*.tif'"
    return ContractError(Problem(f"{path}: {key}", "door.frame", expected, found, remedy))


def frames_in(folder: Path, names: str | None = None) -> list[Path]:
    """The frames of a folder in the natural order of their names: those of the commonest suffix.

    Raises:
        MissingFileError: none there.
    """
    paths = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if names is not None:
        paths = [path for path in paths if fnmatch(path.name, names)]
    else:
        known = [path for path in paths if path.suffix.lower() in FRAME_SUFFIXES]
        counts = {suffix: sum(path.suffix == suffix for path in known) for suffix in {path.suffix for path in known}}
        common = max(sorted(counts), key=lambda suffix: counts[suffix], default="")
        paths = [path for path in known if path.suffix == common]
    if not paths:
        raise MissingFileError(
            Problem(
                str(folder),
                "door.frames",
                f"frames {names or ', '.join('*' + suffix for suffix in FRAME_SUFFIXES)}",
                "none",
                "give the folder that holds the frames, or the files themselves",
            )
        )
    return sorted(paths, key=natural_order)


def natural_order(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sort key of a name in which numbers count as numbers, and a row before its columns.

    >>> sorted([Path("a_10.tif"), Path("a_9.tif")], key=natural_order)[0].name
    'a_9.tif'
    >>> sorted([Path("x1_y2.tif"), Path("x2_y1.tif")], key=natural_order)[0].name
    'x2_y1.tif'
    """
    parts = re.split(r"(\d+)", _rows_first(path.name))
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)


def _rows_first(name: str) -> str:
    """The name with its numbers of row and column exchanged, if it says which is which and the column comes first."""
    return _COLUMN_THEN_ROW.sub(r"\1\4\3\2", name, count=1)


def grid_of_names(paths: Sequence[Path]) -> tuple[int, int] | None:
    """Rows and columns, if exactly two numbers vary in the names and every pair of them occurs once, row by row."""
    numbers = [[int(part) for part in re.findall(r"\d+", _rows_first(path.stem))] for path in paths]
    if len({len(row) for row in numbers}) != 1 or len(paths) < 4:
        return None
    columns = [tuple(column) for column in zip(*numbers, strict=True)]
    varying = [column for column in columns if len(set(column)) > 1]
    if len(varying) != 2:
        return None
    rows, others = (sorted(set(column)) for column in varying)
    whole = [(row, other) for row in rows for other in others]
    return (len(rows), len(others)) if list(zip(*varying, strict=True)) == whole else None


def _image(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _joined_shape(shape: tuple[int, ...], files: int) -> tuple[int, ...]:
    count = shape[0] if len(shape) > 2 else 1
    return (files * count, *shape[-2:])


def _single(array: NDArray[Any]) -> NDArray[Any]:
    """Doubles in single precision, which is that of all work on patterns."""
    with np.errstate(over="ignore"):  # infinite then, which is a marked pixel
        return array.astype(np.float32) if array.dtype == np.float64 else array


def _stack_of(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(-1, *array.shape[-2:])
