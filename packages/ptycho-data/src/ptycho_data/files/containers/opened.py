"""Every container under one protocol: named arrays, read one by one (specs/files.md, DOOR)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.containers.hdf5 import Hdf5File, is_hdf5
from ptycho_data.files.containers.images import ImageFile, is_image
from ptycho_data.files.containers.mat5 import MatFile, is_mat5
from ptycho_data.files.containers.npy import NPY_MAGIC, read_header, read_npy
from ptycho_data.files.containers.text_table import TextTable, is_text_table
from ptycho_data.files.containers.zipped import NpzArchive, is_npz
from ptycho_data.input_files import checked_file
from ptycho_data.tensor_files import is_safetensors


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of a container.

    Attributes:
        key: Its name, or path in the file.
        shape, dtype: As stored; ``dtype`` is None for what is no array of numbers.
        unit: What the file itself says, or None.
    """

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    unit: str | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.key} {self.shape} {self.dtype}"


class Container(Protocol):
    """An open file of named arrays; a context manager."""

    path: Path
    axes_reversed: bool
    """MATLAB's HDF5 files hold every array with its axes in reverse order."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *exc: object) -> None: ...
    def entries(self) -> list[Entry]:
        """What the file holds; reads no data."""

    def array(self, key: str) -> NDArray[Any] | None:
        """One array, in native byte order; None if there is none of that name."""


class _Hdf5(Hdf5File):
    """HDF5 as a container."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        with self.path.open("rb") as stream:
            self.axes_reversed = stream.read(10) == b"MATLAB 7.3"

    def entries(self) -> list[Entry]:
        entries = []
        for key, shape, dtype in self.datasets():
            numbers = dtype.kind in "biufc" and not dtype.hasobject
            unit = None
            for name in ("units", "unit"):
                said = self.attribute(key, name) if numbers else None
                unit = said.strip() or unit if isinstance(said, str) else unit
            entries.append(Entry(key, shape or (), dtype if numbers and shape is not None else None, unit))
        number = np.dtype(np.float64)
        for path, name in self.attributes():
            # py4DSTEM: R_pixel_size beside R_pixel_units.
            said = self.attribute(path, name.replace("size", "units")) if "size" in name else None
            entries.append(Entry(f"{path}@{name}", (), number, said if isinstance(said, str) else None))
        return entries

    def array(self, key: str) -> NDArray[Any] | None:
        """A dataset, or the attribute ``path@name``."""
        path, at, name = key.rpartition("@")
        if not at or self.has(key):
            return super().array(key)
        value = self.attribute_number(path, name)
        return None if value is None else np.array(value)


class _Npz:
    axes_reversed = False

    def __init__(self, path: Path) -> None:
        self._archive = NpzArchive(path)
        self.path = self._archive.path

    def __enter__(self) -> _Npz:
        return self

    def __exit__(self, *exc: object) -> None:
        self._archive.__exit__(*exc)

    def entries(self) -> list[Entry]:
        return [
            Entry(key, header.shape, header.dtype if header.dtype.kind in "biufc" else None)
            for key, header in self._archive.headers().items()
        ]

    def array(self, key: str) -> NDArray[Any] | None:
        return self._archive.read([key]).get(key)


class _Npy:
    axes_reversed = False
    KEY = "array"

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Npy:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def entries(self) -> list[Entry]:
        with self.path.open("rb") as stream:
            header = read_header(stream, where=str(self.path))
        return [Entry(self.KEY, header.shape, header.dtype if header.dtype.kind in "biufc" else None)]

    def array(self, key: str) -> NDArray[Any] | None:
        return read_npy(self.path) if key == self.KEY else None


class _Listed:
    """A reader that tells names, shapes and dtypes, as a container."""

    axes_reversed = False

    def __init__(self, reader: MatFile | TextTable | ImageFile) -> None:
        self._reader = reader
        self.path = reader.path

    def __enter__(self) -> _Listed:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def entries(self) -> list[Entry]:
        return [Entry(*listed) for listed in self._reader.listed()]

    def array(self, key: str) -> NDArray[Any] | None:
        return self._reader.array(key)


def _is_npy(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(NPY_MAGIC)) == NPY_MAGIC


_KINDS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path], Container]], ...] = (
    ("an NPZ archive", is_npz, _Npz),
    ("a NumPy array", _is_npy, _Npy),
    ("an HDF5 file", is_hdf5, _Hdf5),
    ("a MATLAB file", is_mat5, lambda path: _Listed(MatFile(path))),
    ("a picture", is_image, lambda path: _Listed(ImageFile(path))),
    ("a table in text", is_text_table, lambda path: _Listed(TextTable(path))),
)


def kind_in_words(path: Path) -> str | None:
    """What a regular file is, such as ``"a NumPy array"``, by its content; None if its arrays cannot be read."""
    return next((words for words, matches, _ in _KINDS if matches(path)), None)


def first_bytes(path: Path) -> str:
    """What a file of no known kind is, for a message: a model, or how it begins."""
    if is_safetensors(path):
        return "a trained model"
    with path.open("rb") as stream:
        return f"a file that begins with {stream.read(8).decode('latin-1')!r}"


def open_container(path: Path | str) -> Container:
    """Open a file of arrays; its kind is determined from the content.

    Raises:
        MissingFileError: no such file.
        ContractError: of no kind that can be read.
    """
    return opener_of(path)(Path(path))


def opener_of(path: Path | str) -> Callable[[Path], Container]:
    """What opens files of the kind of this one.

    Raises:
        MissingFileError: no such file.
        ContractError: of no kind that can be read.
    """
    path = checked_file(path)
    for _, matches, opened in _KINDS:
        if matches(path):
            return opened
    raise ContractError(
        Problem(
            str(path),
            "file.format",
            "a file of arrays: NPZ, NPY, HDF5, MATLAB, TIFF, EDF, CBF, or a table in text",
            first_bytes(path),
            "convert it, or check that it was copied whole",
        )
    )
