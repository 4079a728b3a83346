"""Arrays in memory as a Scan, under the same checks as files (specs/files.md, MEM)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.files.interpret.assemble import Raw, scan_of
from ptycho_data.files.interpret.optics import LENGTH_UNITS_M, complete_geometry, spacing_problems
from ptycho_data.files.interpret.quantities import factor_of

SOURCE = Path("<arrays>")


def scan_from_arrays(
    patterns: NDArray[Any],
    positions: NDArray[Any],
    *,
    measurement: str = "auto",
    position_unit: str = "px",
    position_order: str = "xy",
    zero_frequency: str | tuple[float, float] | None = None,
    probe: NDArray[Any] | None = None,
    probe_kind: str = "guess",
    bad_pixels: NDArray[Any] | None = None,
    scan_index: NDArray[Any] | None = None,
    object_truth: NDArray[Any] | None = None,
    object_origin_yx_px: NDArray[Any] | None = None,
    nphotons: float | None = None,
    geometry: Mapping[str, float] | None = None,
) -> Scan:
    """A Scan of arrays in memory; nothing is guessed without a record in ``metadata``.

    Args:
        patterns: (M, N, N) integer or float, finite and not negative.
        positions: (M, 2), of the patch's pixel ``[N // 2, N // 2]``.
        measurement: ``"counts"``, ``"amplitude"``, ``"normalised-amplitude"``, or ``"auto"``: measured.
        position_unit: ``"px"``, or a length (m, mm, um, nm), which needs ``geometry``.
        position_order: Columns of ``positions``: ``"xy"`` or ``"yx"``.
        zero_frequency: ``"centre"``, ``"corner"``, its pixel (y, x), or None: measured.
        probe: (N, N) or (modes, N, N) complex, or None.
        probe_kind: ``"exact"`` or ``"guess"``.
        bad_pixels: (N, N), True or 1 where bad, or None.
        scan_index: (M,) integer, or None: one scan.
        object_truth: (H, W) complex, or None.
        object_origin_yx_px: (2,), object coordinate of ``object_truth[0, 0]``; 0, 0 if None.
        nphotons: Mean photons per pattern, for normalised amplitude.
        geometry: Scalars of the set-up, as in ``Scan.metadata["geometry"]``.

    Raises:
        ContractError: with all problems of the arrays.
    """
    patterns, positions = np.asarray(patterns), np.asarray(positions)
    _check_words(position_order, positions)
    xy = positions[:, ::-1] if position_order == "yx" else positions
    scalars = dict(geometry or {})
    if position_unit != "px":
        metres = xy * factor_of(position_unit, LENGTH_UNITS_M, where="position_unit")
        scalars = complete_geometry(scalars, patterns.shape[-1], where=str(SOURCE))
        xy = metres / scalars["object_pixel_size_m"]
        problems = spacing_problems(f"{SOURCE}: positions", xy, patterns.shape[-1])
        if problems:
            raise ContractError(problems)
    raw = Raw(
        path=SOURCE,
        format="arrays",
        patterns=patterns,
        positions=xy,
        probe=None if probe is None else np.asarray(probe),
        bad_pixels=None if bad_pixels is None else np.asarray(bad_pixels),
        scan_index=None if scan_index is None else np.asarray(scan_index),
        object=None if object_truth is None else np.asarray(object_truth),
        object_origin_yx_px=None if object_origin_yx_px is None else np.asarray(object_origin_yx_px),
        scalars=scalars,
        texts={"probe_kind": probe_kind, "object_kind": "truth"},
        zero_frequency=zero_frequency,
        decisions={"positions": {"stored_unit": position_unit, "columns": position_order, "decided_by": "argument"}},
        sha256=hashlib.sha256(np.ascontiguousarray(patterns).tobytes()).hexdigest(),
    )
    return scan_of(raw, measurement=measurement, nphotons=nphotons)


def _check_words(order: str, positions: NDArray[Any]) -> None:
    problems = []
    if order not in ("xy", "yx"):
        problems.append(Problem("position_order", "option.choice", "'xy' or 'yx'", repr(order), "give one of them"))
    if positions.ndim != 2 or positions.shape[1] != 2 or positions.dtype.kind not in "fiu":
        problems.append(
            Problem(
                f"{SOURCE}: positions",
                "scan.positions_shape",
                "(M, 2) numbers",
                f"{positions.dtype} of shape {positions.shape}",
                "give one row [x, y] per pattern",
            )
        )
    if problems:
        raise ContractError(problems)
