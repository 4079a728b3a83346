"""HDF5 files of no known layout: what is in them, and how to declare it (specs/files.md, MAP)."""

from __future__ import annotations

from pathlib import Path

from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.files.containers.hdf5 import Hdf5File, is_hdf5

NAME = "hdf5"
SUFFIXES: tuple[str, ...] = ()
_SHOWN = 12


def matches(path: Path) -> bool:
    """Whether the file is HDF5 at all; tried last."""
    return is_hdf5(path)


def read(
    path: Path,
    *,
    measurement: str = "auto",
    nphotons: float | None = None,
    companion: Path | None = None,
    object_is_truth: bool = False,
) -> Scan:
    """Refuse the file, listing its datasets.

    Raises:
        ContractError: always.
    """
    with Hdf5File(path) as file:
        held = file.listing()
    more = "" if len(held) <= _SHOWN else f" and {len(held) - _SHOWN} more"
    raise ContractError(
        Problem(
            str(path),
            "file.format",
            "an HDF5 file of a known layout (ptychodus, cxi, ptyd)",
            f"datasets {', '.join(held[:_SHOWN]) or 'none'}{more}",
            "ptycho-cli import FILE OUT finds patterns and positions; or declare them in a mapping file (TOML)",
        )
    )
