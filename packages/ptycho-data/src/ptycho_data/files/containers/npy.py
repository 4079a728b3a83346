"""Reading .npy data from untrusted sources: the header first, then exactly what it declares (specs/files.md, NPY)."""

from __future__ import annotations

import math
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.foreign_content import reading
from ptycho_data.free_memory import require_memory
from ptycho_data.input_files import checked_file

NPY_MAGIC = b"\x93NUMPY"
_LEGAL_KINDS = "biufcUS"
_UNREADABLE = (
    ValueError,
    EOFError,
    TypeError,
    SyntaxError,
    RecursionError,
    MemoryError,
    OverflowError,
    tokenize.TokenError,
)


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What an .npy header declares.

    Attributes:
        shape: Shape of the array.
        dtype: Its dtype.
        header_bytes: Size of magic and header.
        data_bytes: Size of the data that must follow.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    header_bytes: int
    data_bytes: int


def read_header(stream: IO[bytes], *, where: str) -> NpyHeader:
    """Header of .npy data, read without looking at the data.

    Raises:
        ContractError: not .npy data, or an array of Python objects (pickled), or of records.
    """
    try:
        version = npy_format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = npy_format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = npy_format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"npy version {version}")
    except _UNREADABLE as error:
        raise ContractError(
            Problem(
                where,
                "npy.header",
                "a NumPy array of format 1.0 or 2.0",
                f"{error}".split("\n")[0][:200],
                "write the array again with numpy.save or numpy.savez",
            )
        ) from error
    if dtype.hasobject:
        raise ContractError(
            Problem(
                where,
                "npy.pickled",
                "an array of numbers or text",
                "an array of Python objects (pickled)",
                "save it as a plain array; pickles are never read",
            )
        )
    if dtype.kind not in _LEGAL_KINDS or dtype.itemsize == 0 or any(size < 0 for size in shape):
        raise ContractError(
            Problem(
                where,
                "npy.dtype",
                "an array of numbers or text",
                f"{dtype} of shape {shape}",
                "save it as a plain array",
            )
        )
    return NpyHeader(tuple(shape), dtype, stream.tell(), math.prod(shape) * dtype.itemsize)


def read_npy(path: Path | str) -> NDArray[Any]:
    """The array of one .npy file, in native byte order.

    Raises:
        MissingFileError: no such file.
        ContractError: not an .npy file, pickled, or of another size than its header declares.
    """
    path = checked_file(path)
    with reading(path):
        with path.open("rb") as stream:
            header = read_header(stream, where=str(path))
        check_size(header, path.stat().st_size, where=str(path))
        require_memory(header.data_bytes, where=str(path), remedy="use a machine with more memory")
        return native(np.load(path))


def check_size(header: NpyHeader, actual_bytes: int, *, where: str) -> None:
    """Refuse data of another size than declared: truncated, or a bomb."""
    declared = header.header_bytes + header.data_bytes
    if declared != actual_bytes:
        raise ContractError(
            Problem(
                where,
                "npy.size",
                f"{declared} bytes, as the header of {header.shape} {header.dtype} declares",
                f"{actual_bytes} bytes",
                "the file is truncated or forged; write it again",
            )
        )


def native(array: NDArray[Any]) -> NDArray[Any]:
    """The array in native byte order and C order."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
