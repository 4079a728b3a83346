"""``.safetensors`` files with texts in their header and one checksum of all (specs/bundle.md, BUN-6)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ptycho_data.atomic_files import atomic_write, make_folder

Tensors = Mapping[str, NDArray[Any]]

READ_ERRORS = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError)
"""What a broken or foreign file can raise while it is read."""


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as ``.safetensors`` do: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{"


def write_tensors(path: Path, tensors: Tensors, header: Mapping[str, str], *, sealed: tuple[str, ...]) -> None:
    """Write tensors and header; what was at ``path`` is replaced in one step, only when all is on disk.

    Args:
        path: The file; its folder is created if missing.
        tensors: Contiguous arrays by name.
        header: Texts.
        sealed: Names of the header entries that the checksum covers, beside the tensors.

    Raises:
        OSError, SafetensorError: the disk refuses.
    """
    signed = {**header, "sha256": tensor_digest(header, tensors, sealed)}
    make_folder(path.parent)
    with atomic_write(path) as temporary:
        save_file(dict(tensors), temporary, metadata=signed)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Header and tensors. They are copies: the file may be replaced while they are in use.

    Raises:
        One of ``READ_ERRORS``: not such a file, or not a whole one.
    """
    with safe_open(path, framework="np") as file:
        return file.metadata() or {}, {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118


def tensor_digest(header: Mapping[str, str], tensors: Tensors, sealed: tuple[str, ...]) -> str:
    """SHA-256 of the sealed header entries and of all tensors, as BUN-6 has it."""
    digest = hashlib.sha256()
    for key in sealed:
        digest.update(f"{key}\n{header[key]}\n".encode())
    for name in sorted(tensors):
        digest.update(f"{name}\n{'x'.join(map(str, tensors[name].shape))}\n".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()
