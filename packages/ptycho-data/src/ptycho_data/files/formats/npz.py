"""The NPZ contract: one scan in one archive (specs/files.md, NPZ)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.atomic_files import atomic_write
from ptycho_data.files.containers.zipped import NpzArchive, is_npz
from ptycho_data.files.interpret.assemble import Raw, scan_of
from ptycho_data.files.interpret.optics import GEOMETRY_KEYS
from ptycho_data.files.sources import refuse_companion

NAME = "npz"
SUFFIXES = (".npz",)
PATTERN_KEYS = ("diff3d", "diffraction")
PROBE_KEYS = ("probeGuess", "probe")
_TEXT_KEYS = ("measurement", "probe_kind", "object_kind", "convention", "metadata")
_OTHER_KEYS = (
    "xcoords",
    "ycoords",
    "positions_px",
    "objectGuess",
    "scan_index",
    "bad_pixels",
    "nphotons",
    "object_origin_yx_px",
)
KEYS = PATTERN_KEYS + PROBE_KEYS + _OTHER_KEYS + _TEXT_KEYS + GEOMETRY_KEYS


def matches(path: Path) -> bool:
    """Whether the file is an NPZ archive, by its first bytes."""
    return is_npz(path)


def read(
    path: Path,
    *,
    measurement: str = "auto",
    nphotons: float | None = None,
    companion: Path | None = None,
    object_is_truth: bool = False,
) -> Scan:
    """Read one scan.

    Args:
        path: The archive.
        measurement: What the patterns hold, or ``"auto"`` (specs/files.md, UNIT).
        nphotons: Mean photons per pattern, for normalised amplitude.
        companion: Refused: the archive holds the whole scan.
        object_is_truth: Whether its object is the true one although it does not say so.

    Raises:
        ContractError: with all problems of the archive.
    """
    refuse_companion(path, companion)
    with NpzArchive(path) as archive:
        _check_names(path, archive.names)
        arrays = archive.read(KEYS)
    texts = {key: str(arrays[key][()]) for key in _TEXT_KEYS if key in arrays}
    raw = Raw(
        path=path,
        format=NAME,
        patterns=_first(arrays, PATTERN_KEYS),
        positions=_positions(path, arrays),
        probe=_first(arrays, PROBE_KEYS),
        bad_pixels=arrays.get("bad_pixels"),
        scan_index=arrays.get("scan_index"),
        object=arrays.get("objectGuess"),
        object_origin_yx_px=arrays.get("object_origin_yx_px"),
        scalars={key: arrays[key] for key in ("nphotons", *GEOMETRY_KEYS) if key in arrays},
        texts=texts,
        zero_frequency="centre",
    )
    return scan_of(raw, measurement=measurement, nphotons=nphotons, object_is_truth=object_is_truth)


def write(path: Path, scan: Scan, *, geometry: Mapping[str, float] | None = None) -> None:
    """Write one scan, atomically; reading it back gives the same arrays, unit and kinds."""
    arrays: dict[str, Any] = {
        "diff3d": scan.measurements,
        "xcoords": scan.positions_px[:, 0],
        "ycoords": scan.positions_px[:, 1],
        "scan_index": scan.scan_index,
        "measurement": np.array(scan.unit),
        "probe_kind": np.array(scan.probe_kind),
        "metadata": np.array(json.dumps(dict(scan.metadata), sort_keys=True)),
    }
    optional: Mapping[str, Any] = {
        "probeGuess": scan.probe,
        "bad_pixels": scan.bad_pixels,
        "objectGuess": scan.object_truth,
        "object_kind": None if scan.object_truth is None else np.array("truth"),
        "object_origin_yx_px": scan.object_origin_yx_px,
        "nphotons": scan.metadata.get("nphotons"),
        **scan.metadata.get("geometry", {}),
        **(geometry or {}),
    }
    arrays |= {key: value for key, value in optional.items() if value is not None}
    write_arrays(path, arrays)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as one uncompressed archive, atomically."""
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def _first(arrays: Mapping[str, NDArray[Any]], keys: tuple[str, ...]) -> NDArray[Any] | None:
    return next((arrays[key] for key in keys if key in arrays), None)


def _check_names(path: Path, names: list[str]) -> None:
    """Refuse an archive without patterns or positions before anything is unpacked."""
    held = ", ".join(sorted(names)) or "no arrays"
    if {"object", "origin_yx_px", "weight"} <= set(names):
        raise ContractError(
            Problem(
                str(path),
                "scan.no_patterns",
                "a scan, with its patterns",
                "a reconstruction (object.npz)",
                "name the scan that it was made of",
            )
        )
    problems = []
    if not set(PATTERN_KEYS) & set(names):
        problems.append(
            Problem(
                f"{path}",
                "scan.no_patterns",
                "patterns under the key 'diff3d' or 'diffraction'",
                f"keys: {held}",
                "ptycho-cli import FILE OUT reads other keys; or store the patterns (M, N, N) as 'diff3d'",
            )
        )
    if "positions_px" not in names and not {"xcoords", "ycoords"} <= set(names):
        problems.append(
            Problem(
                f"{path}",
                "scan.no_positions",
                "positions under 'xcoords' and 'ycoords', or 'positions_px'",
                f"keys: {held}",
                "ptycho-cli import FILE OUT reads other keys; or store the positions in object pixels",
            )
        )
    if problems:
        raise ContractError(problems)


def _positions(path: Path, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """(M, 2) ``[x, y]`` of either way to store positions."""
    if "positions_px" in arrays:
        return arrays["positions_px"]
    x, y = arrays["xcoords"], arrays["ycoords"]
    if x.shape != y.shape or x.ndim != 1:
        raise ContractError(
            Problem(
                f"{path}: xcoords, ycoords",
                "scan.positions_shape",
                "two arrays (M,) of one length",
                f"shapes {x.shape} and {y.shape}",
                "store one x and one y for each pattern",
            )
        )
    return np.stack([x, y], axis=1)
