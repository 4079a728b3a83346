"""Arrays of an untrusted NPZ archive, each checked by its header before it is unpacked (specs/files.md, NPZ)."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.containers.npy import NpyHeader, check_size, native, read_header
from ptycho_data.free_memory import require_memory
from ptycho_data.input_files import checked_file

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
RATIO_FREE_BYTES = 1 << 26
"""Members that unpack to less than this may be compressed at any ratio."""
LARGEST_RATIO = 200
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OSError,
    NotImplementedError,
    RuntimeError,
    KeyError,
    IndexError,
    OverflowError,
)
_LOCAL_HEAD_BYTES = 30
_UTF8 = 0x800


class NpzArchive:
    """An open NPZ archive; a context manager.

    Raises:
        MissingFileError: no such file.
        ContractError: not a whole zip archive, or one that repeats a name.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = checked_file(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except _BROKEN as error:
            found, remedy = f"a damaged one ({error})", "the file is truncated; copy or write it again"
            if not is_npz(self.path):
                found, remedy = "a file of another kind", "check the path"
            raise ContractError(
                Problem(str(self.path), "npz.truncated", "a whole NPZ archive", found, remedy)
            ) from error
        self._check_directory()
        members = [info for info in self._zip.infolist() if info.filename.endswith(".npy")]
        self._members = {info.filename.removesuffix(".npy"): info for info in members}
        if len(self._members) != len(members):
            self._zip.close()
            raise ContractError(
                Problem(str(self.path), "npz.repeated", "each array once", "a name stored twice", "write it again")
            )

    def _check_directory(self) -> None:
        """Names in the directory must be those before the members: a flipped one would hide its array."""
        for info in self._zip.infolist():
            with self.path.open("rb") as stream:
                stream.seek(max(0, info.header_offset))
                head = stream.read(_LOCAL_HEAD_BYTES)
                name = stream.read(int.from_bytes(head[26:28], "little"))
            if name != info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437"):
                self._zip.close()
                raise self._damaged(
                    str(self.path), ValueError(f"'{info.filename}' in the directory, {name[:40]!r} before the array")
                )

    def __enter__(self) -> NpzArchive:
        return self

    def __exit__(self, *exc: object) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """Names of the arrays, in the order of the archive."""
        return list(self._members)

    def headers(self) -> dict[str, NpyHeader]:
        """Shape and dtype of every array that is whole and plain; the others are left out."""
        found = {}
        for name, info in self._members.items():
            try:
                if self._declared(name):
                    with self._zip.open(info) as stream:
                        found[name] = read_header(stream, where=self._where(name))
            except (ContractError, *_BROKEN):
                continue
        return found

    def read(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """The named arrays that exist, in native byte order; all headers are checked before any is unpacked.

        Raises:
            ContractError: all problems: pickled, truncated, forged or damaged arrays, bombs.
        """
        present = [name for name in names if name in self._members]
        self._raise(name for name in present if not self._declared(name))
        problems: list[Problem] = []
        needed = 0
        for name in present:
            try:
                needed += self._check_member(name)
            except ContractError as error:
                problems += error.problems
        try:
            require_memory(needed, where=str(self.path), remedy="use a machine with more memory or split the scan")
        except ContractError as error:
            problems += error.problems
        if problems:
            raise ContractError(problems)
        return {name: self._unpack(name) for name in present}

    def _declared(self, name: str) -> bool:
        info = self._members[name]
        return not info.flag_bits & 1 and info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

    def _raise(self, undeclared: Iterable[str]) -> None:
        problems = [
            Problem(
                self._where(name),
                "npz.compression",
                "a stored or deflated array, as NumPy writes it",
                "an encrypted one or another compression",
                "write it with numpy.savez or numpy.savez_compressed",
            )
            for name in undeclared
        ]
        if problems:
            raise ContractError(problems)

    def _check_member(self, name: str) -> int:
        """Check one array's declared size against the archive's; returns the bytes of its data."""
        info, where = self._members[name], self._where(name)
        if info.file_size > RATIO_FREE_BYTES and info.file_size > LARGEST_RATIO * max(info.compress_size, 1):
            raise ContractError(
                Problem(
                    where,
                    "npz.bomb",
                    f"at most {LARGEST_RATIO} times its packed size",
                    f"{info.compress_size} bytes that claim to unpack to {info.file_size}",
                    "refused as a decompression bomb; if it is genuine, write it with numpy.savez",
                )
            )
        try:
            with self._zip.open(info) as stream:
                header = read_header(stream, where=where)
        except ContractError:
            raise
        except _BROKEN as error:
            raise self._damaged(where, error) from error
        check_size(header, info.file_size, where=where)
        return header.data_bytes

    def _unpack(self, name: str) -> NDArray[Any]:
        try:
            with self._zip.open(self._members[name]) as stream:
                array = npy_format.read_array(stream)
                if stream.read(1):
                    raise ValueError("more bytes than declared")
        except _BROKEN as error:
            raise self._damaged(self._where(name), error) from error
        return native(np.asarray(array))

    def _damaged(self, where: str, error: BaseException) -> ContractError:
        return ContractError(
            Problem(
                where,
                "npz.damaged",
                "an intact array",
                f"{error}".split("\n")[0][:200],
                "the file is truncated or altered; copy or write it again",
            )
        )

    def _where(self, name: str) -> str:
        return f"{self.path}: {name}"


def is_npz(path: Path) -> bool:
    """Whether the file begins as a zip archive."""
    with path.open("rb") as stream:
        return stream.read(4) in ZIP_MAGIC
