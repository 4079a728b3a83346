"""Untrusted HDF5: every link, layout and declared size is checked before anything is read (specs/files.md, HDF)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.containers.global_heaps import first_bad_heap
from ptycho_data.files.containers.hdf5_filters import filters_of, require_bounded
from ptycho_data.files.containers.npy import native
from ptycho_data.files.containers.zipped import LARGEST_RATIO, RATIO_FREE_BYTES
from ptycho_data.free_memory import require_memory
from ptycho_data.input_files import checked_file

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SIGNATURE_PLACES = (0, 512, 1024, 2048, 4096)
_LARGEST_ATTRIBUTE_BYTES = 1 << 16
_MOST_LINKS = 64
_SPLIT = "use more memory, or split the scan"
_MOST_NAMES = 1000
_MOST_LISTED = 200
_MOST_VISITED = 5000
_DEEPEST_LISTED = 32
# Errors that h5py raises for a damaged file: libhdf5's own, and their consequences in NumPy.
_BROKEN = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    RuntimeError,
    AttributeError,
    OverflowError,
    MemoryError,
    SystemError,
    IndexError,
    AssertionError,
    EOFError,
)


def is_hdf5(path: Path) -> bool:
    """Whether the file carries the signature of HDF5 where the format allows it."""
    with path.open("rb") as stream:
        for place in _SIGNATURE_PLACES:
            stream.seek(place)
            if stream.read(len(SIGNATURE)) == SIGNATURE:
                return True
    return False


def root_names(path: Path) -> frozenset[str]:
    """Names at the root of an HDF5 file; none if it is no HDF5 file, or a damaged one."""
    if not is_hdf5(path):
        return frozenset()
    try:
        with Hdf5File(path) as file:
            return frozenset(file.children("/"))
    except ContractError:
        return frozenset()


class Hdf5File:
    """An open HDF5 file of unknown origin; a context manager.

    Links are followed by hand: soft links only within the file, external ones never. Paths are
    absolute or relative to the root, with ``/`` between names.

    Raises:
        MissingFileError: no such file.
        ContractError: not an HDF5 file, or a damaged one.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = checked_file(path)
        self._bytes = self.path.stat().st_size
        self._needed = 0
        self._heaps_are_whole = False
        try:
            self._file = h5py.File(self.path, "r", locking=False)
        except _BROKEN as error:
            raise self._damaged("/", error) from error

    def __enter__(self) -> Hdf5File:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._file.close()
        except _BROKEN as error:
            if exc[0] is None:
                raise self._damaged("/", error) from error

    def has(self, path: str) -> bool:
        """Whether a dataset or group is there."""
        return self._resolve(path) is not None

    def is_dataset(self, path: str) -> bool:
        """Whether a dataset is there."""
        return isinstance(self._resolve(path), h5py.Dataset)

    def children(self, path: str) -> list[str]:
        """Names in a group; none if there is no group."""
        group = self._resolve(path)
        if not isinstance(group, h5py.Group):
            return []
        try:
            # h5py returns names that are not UTF-8 as bytes; no format has such names.
            return [name for name in group if isinstance(name, str)]
        except _BROKEN as error:
            raise self._damaged(path, error) from error

    def shape(self, path: str) -> tuple[int, ...] | None:
        """Shape of a dataset, or None."""
        dataset = self._resolve(path)
        if not isinstance(dataset, h5py.Dataset):
            return None
        try:
            return None if dataset.shape is None else tuple(dataset.shape)
        except _BROKEN as error:
            raise self._damaged(path, error) from error

    def array(self, path: str) -> NDArray[Any] | None:
        """A numeric dataset in native byte order; None if there is nothing.

        Raises:
            ContractError: data outside the file, objects, a missing filter, parts never
                written, a decompression bomb, too little memory, or damage.
        """
        dataset = self._resolve(path)
        if dataset is None:
            return None
        if not isinstance(dataset, h5py.Dataset):
            raise self._problem(path, "hdf5.kind", "a dataset", "a group", "give the path of the dataset itself")
        try:
            self._check(path, dataset)
            return native(np.asarray(dataset[()]))
        except ContractError:
            raise
        except _BROKEN as error:
            raise self._damaged(path, error) from error

    def scalar(self, path: str) -> float | None:
        """One finite number of a dataset with one element; None if there is nothing."""
        array = self.array(path) if self.has(path) else None
        return None if array is None else self._number(path, array)

    def text(self, path: str) -> str | None:
        """The text of a string dataset with one element; None if there is nothing or no text."""
        dataset = self._resolve(path)
        if not isinstance(dataset, h5py.Dataset):
            return None
        try:
            self._check_inside(path, dataset)
            is_text = h5py.check_string_dtype(dataset.dtype) is not None and dataset.size == 1
            if is_text:
                self._check_stored(path, dataset)
            if is_text and dataset.dtype.hasobject:
                self._check_heaps(path)
            value: Any = dataset[()] if is_text else None
        except ContractError:
            raise
        except _BROKEN as error:
            raise self._damaged(path, error) from error
        return None if value is None else _decode(value)

    def attribute(self, path: str, name: str) -> Any:
        """A small attribute: text as str, numbers as an array; None if there is none."""
        item = self._resolve(path)
        if item is None:
            return None
        try:
            if name not in item.attrs:
                return None
            handle = item.attrs.get_id(name)
            text = h5py.check_string_dtype(handle.dtype) is not None
            size = math.prod(handle.shape) * handle.dtype.itemsize
            if size > _LARGEST_ATTRIBUTE_BYTES or (not text and handle.dtype.kind not in "biufSU"):
                raise self._problem(
                    f"{path}@{name}",
                    "hdf5.attribute",
                    "numbers or text of at most 64 KiB",
                    f"{handle.dtype} of shape {handle.shape}",
                    "store it as a dataset",
                )
            if handle.dtype.hasobject:
                self._check_heaps(f"{path}@{name}")
            value = item.attrs[name]
        except ContractError:
            raise
        except _BROKEN as error:
            raise self._damaged(f"{path}@{name}", error) from error
        return _decode(value) if text or isinstance(value, str | bytes) else np.asarray(value)

    def attribute_number(self, path: str, name: str) -> float | None:
        """One finite number of an attribute; None if there is none."""
        value = self.attribute(path, name)
        if value is None:
            return None
        return self._number(f"{path}@{name}", np.asarray(value))

    def listing(self) -> list[str]:
        """The datasets of the file as ``path (shape) dtype``, the first 200 of them; links are not followed."""
        return [f"/{path} {shape} {dtype}" for path, shape, dtype in self.datasets(_MOST_LISTED)]

    def datasets(self, most: int = _MOST_VISITED) -> list[tuple[str, tuple[int, ...] | None, np.dtype[Any]]]:
        """Path, shape and dtype of the first datasets of the file; links are not followed."""
        found: list[tuple[str, tuple[int, ...] | None, np.dtype[Any]]] = []
        try:
            for name, item in self._visited():
                if isinstance(item, h5py.Dataset):
                    found.append((name, item.shape, item.dtype))
                if len(found) >= most:
                    break
        except _BROKEN as error:
            raise self._damaged("/", error) from error
        return found

    def attributes(self, most: int = 1000) -> list[tuple[str, str]]:
        """Path and name of the first attributes that are one real number; links are not followed."""
        found: list[tuple[str, str]] = []
        try:
            for path, item in (("", self._file), *self._visited()):
                for name in item.attrs if len(found) < most else ():
                    handle = item.attrs.get_id(name) if isinstance(name, str) else None
                    if handle is not None and handle.dtype.kind in "iuf" and math.prod(handle.shape) == 1:
                        found.append((path, name))
        except _BROKEN as error:
            raise self._damaged("/", error) from error
        return found

    def _visited(self) -> Iterator[tuple[str, Any]]:
        """Objects by their paths, level by level; a bounded number, so that loops and deep nesting end soon."""
        groups: deque[tuple[str, Any, int]] = deque([("", self._file, 0)])
        count = 0
        while groups:
            path, group, depth = groups.popleft()
            for name in group:
                count += 1
                if count > _MOST_VISITED:
                    return
                if not isinstance(name, str) or group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                    continue
                item = group[name]
                yield f"{path}{name}", item
                if isinstance(item, h5py.Group) and depth < _DEEPEST_LISTED:
                    groups.append((f"{path}{name}/", item, depth + 1))

    def _number(self, path: str, array: NDArray[Any]) -> float:
        if array.size != 1 or array.dtype.kind not in "biuf" or not math.isfinite(float(array.reshape(-1)[0])):
            found = f"{array.dtype} of shape {array.shape}" if array.size != 1 else repr(array.reshape(-1)[0].item())
            raise self._problem(path, "hdf5.number", "one finite number", found, "correct the value")
        return float(array.reshape(-1)[0])

    def _resolve(self, path: str) -> Any:
        """The object at a path, every link on the way checked; None if there is nothing."""
        todo = [name for name in path.split("/") if name]
        item: Any = self._file
        trail: list[Any] = []
        followed = 0
        try:
            while todo:
                if len(todo) > _MOST_NAMES:
                    raise self._problem(path[:80], "hdf5.link", "a short path", f"{len(todo)} names", "shorten it")
                name = todo.pop(0)
                if name == ".":
                    continue
                if not isinstance(item, h5py.Group):
                    return None
                key = name.encode()
                if not item.id.links.exists(key):
                    return None
                info = item.id.links.get_info(key)
                if info.type == h5py.h5l.TYPE_HARD:
                    trail.append(item)
                    item = item[name]
                elif info.type == h5py.h5l.TYPE_SOFT and followed < _MOST_LINKS:
                    followed += 1
                    target = item.id.links.get_val(key).decode()
                    if target.startswith("/"):
                        item = self._file
                    todo = [part for part in target.split("/") if part] + todo
                else:
                    found = "a loop of links" if info.type == h5py.h5l.TYPE_SOFT else "a link to another file"
                    raise self._problem(
                        path,
                        "hdf5.link",
                        "data in the file itself",
                        found,
                        "copy the data into one file; such links are never followed",
                    )
        except ContractError:
            raise
        except _BROKEN as error:
            raise self._damaged(path, error) from error
        return item

    def _check(self, path: str, dataset: h5py.Dataset) -> None:
        self._check_inside(path, dataset)
        dtype = dataset.dtype
        if dtype.kind not in "biufc" or dtype.hasobject:
            raise self._problem(path, "hdf5.dtype", "an array of numbers", f"{dtype}", "store plain numbers")
        if dataset.shape is None:
            raise self._problem(path, "hdf5.empty", "an array of numbers", "an empty dataspace", "store the data")
        self._check_stored(path, dataset)

    def _check_stored(self, path: str, dataset: h5py.Dataset) -> None:
        """Everything that can be wrong with the stored bytes, before any of them is inflated."""
        self._check_filters(path, dataset)
        self._check_size(path, dataset)
        transient = require_bounded(dataset, lambda *words: self._problem(path, *words))
        require_memory(self._needed + transient, where=f"{self.path}: {path.strip('/')}", remedy=_SPLIT)

    def _check_inside(self, path: str, dataset: h5py.Dataset) -> None:
        """Refuse data that lie in other files: external storage, and virtual datasets of other files."""
        remedy = "copy the data into one file; other files are never read"
        if dataset.external:
            raise self._problem(path, "hdf5.external", "data in the file itself", "external storage", remedy)
        if dataset.is_virtual:
            sources = dataset.virtual_sources()
            names = sorted({source.file_name for source in sources})
            # A virtual dataset of the file itself could still lead to other files by its source's links.
            raise self._problem(path, "hdf5.virtual", "a stored dataset", f"a virtual one over {names[:3]}", remedy)

    def _check_heaps(self, path: str) -> None:
        """Called before the first text of variable length: libhdf5 may never return from a forged heap."""
        if self._heaps_are_whole:
            return
        place = first_bad_heap(self.path)
        if place is not None:
            raise self._problem(
                path,
                "hdf5.damaged",
                "an intact HDF5 file",
                f"a broken heap at byte {place}",
                "the file is truncated or altered; copy or write it again",
            )
        self._heaps_are_whole = True

    def _check_filters(self, path: str, dataset: h5py.Dataset) -> None:
        for one in filters_of(dataset):
            if h5py.h5z.filter_avail(one.code):
                continue
            _register_plugins()
            if not h5py.h5z.filter_avail(one.code):
                raise self._problem(
                    path,
                    "hdf5.filter",
                    "a compression that is installed",
                    one.name,
                    "pip install 'ptycho-data[hdf5plugin]'",
                )

    def _check_size(self, path: str, dataset: h5py.Dataset) -> None:
        """Compare the declared size with what is stored, and with the free memory."""
        declared = math.prod(dataset.shape) * dataset.dtype.itemsize
        stored = min(dataset.id.get_storage_size(), self._bytes)
        chunk = dataset.chunks
        largest = declared
        if chunk:
            largest = max(largest, math.prod(chunk) * dataset.dtype.itemsize)
        elif stored < declared:
            raise self._unwritten(path, f"{stored} of {declared} bytes")
        if largest > RATIO_FREE_BYTES and largest > LARGEST_RATIO * max(stored, 1):
            raise self._problem(
                path,
                "hdf5.bomb",
                f"at most {LARGEST_RATIO} times its stored size",
                f"{stored} bytes that claim to unpack to {largest}",
                "refused as a decompression bomb; if it is genuine, store it uncompressed",
            )
        self._needed += declared
        if chunk and declared:
            expected = math.prod(-(-size // step) for size, step in zip(dataset.shape, chunk, strict=True))
            actual = dataset.id.get_num_chunks()
            if actual < expected:
                raise self._unwritten(path, f"{actual} of {expected} chunks")

    def _unwritten(self, path: str, found: str) -> ContractError:
        return self._problem(
            path,
            "hdf5.unwritten",
            "all of the data written",
            found,
            "the measurement or the copy was cut short; write it again",
        )

    def _problem(self, path: str, code: str, expected: str, found: str, remedy: str) -> ContractError:
        return ContractError(Problem(f"{self.path}: {path.strip('/') or '/'}", code, expected, found, remedy))

    def _damaged(self, path: str, error: BaseException) -> ContractError:
        text = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        return self._problem(
            path,
            "hdf5.damaged",
            "an intact HDF5 file",
            text,
            "the file is truncated or altered; copy or write it again",
        )


def _register_plugins() -> None:
    """Make the filters of the extra ``hdf5plugin`` known, if it is installed."""
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        return


def _decode(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(value)
