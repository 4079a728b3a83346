"""True objects of scans: as arrays of a store, and as patches (specs/store.md, STORE-1a, BATCH-3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.arrays import ArraySpec
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import SCAN_ARRAYS, Truth

from ptycho_data.canvas.geometry import CanvasGeometry, corners_and_fractions
from ptycho_data.canvas.stitching import extract_patches

OBJECT, ORIGIN = "object_truth", "object_origin_yx_px"
_NAME = re.compile(f"({OBJECT}|{ORIGIN})_(0|[1-9][0-9]*)")


class TruthSource(Protocol):
    """What a Scan and a Store have in common here."""

    @property
    def N(self) -> int: ...
    @property
    def scan_index(self) -> NDArray[np.int64]: ...
    @property
    def positions_px(self) -> NDArray[np.float64]: ...
    @property
    def truths(self) -> Mapping[int, Truth]: ...


def truth_arrays(truths: Mapping[int, Truth]) -> dict[str, NDArray[Any]]:
    """Arrays by their names in a store, two for each scan."""
    arrays: dict[str, NDArray[Any]] = {}
    for number, truth in sorted(truths.items()):
        arrays |= {f"{OBJECT}_{number}": truth.object, f"{ORIGIN}_{number}": truth.origin_yx_px}
    return arrays


def truth_specs(names: Iterable[str]) -> tuple[ArraySpec, ...]:
    """Declarations of the truths among some names: both arrays of each scan."""
    declared = {spec.name: spec for spec in SCAN_ARRAYS}
    numbers = sorted({int(match[2]) for match in map(_NAME.fullmatch, names) if match})
    return tuple(
        replace(
            declared[name],
            name=f"{name}_{number}",
            dims=tuple(f"{dim}_{number}" if isinstance(dim, str) else dim for dim in declared[name].dims),
            optional=False,
        )
        for number in numbers
        for name in (OBJECT, ORIGIN)
    )


def truths_in(arrays: Mapping[str, NDArray[Any]]) -> dict[int, Truth]:
    """The truths that a store's arrays hold, by ``scan_index``."""
    numbers = sorted(int(match[2]) for match in map(_NAME.fullmatch, arrays) if match and match[1] == OBJECT)
    return {
        number: Truth(object=arrays[f"{OBJECT}_{number}"], origin_yx_px=arrays[f"{ORIGIN}_{number}"])
        for number in numbers
    }


def truth_patches(source: TruthSource, indices: Any) -> NDArray[np.complex64]:
    """The true object under some patterns, bilinear at their positions (PHY-4).

    Args:
        source: Scan or Store with the truth of these patterns' scans.
        indices: (n,) integers, which patterns.

    Returns:
        (n, N, N) complex64.

    Raises:
        ContractError: a scan without truth, or a patch beyond its truth.
    """
    indices = np.asarray(indices, dtype=np.int64)
    scans = np.asarray(source.scan_index)[indices]
    positions = np.asarray(source.positions_px)[indices]
    patches = np.empty((len(indices), source.N, source.N), np.complex64)
    for number in np.unique(scans).tolist():
        if number not in source.truths:
            raise ContractError(_missing([number]))
        truth, mine = source.truths[number], scans == number
        patches[mine] = extract_patches(truth.object, positions[mine], _frame(truth), source.N)
    return patches


def require_truth(source: TruthSource, indices: Any) -> None:
    """Check that :func:`truth_patches` will find the truth of all these patterns.

    Raises:
        ContractError: scans without truth, or patches beyond it, of all scans at once.
    """
    indices = np.asarray(indices, dtype=np.int64)
    scans = np.asarray(source.scan_index)[indices]
    numbers = np.unique(scans).tolist()
    unknown = [number for number in numbers if number not in source.truths]
    problems = [_missing(unknown)] if unknown else []
    for number in set(numbers) - set(unknown):
        try:
            corners_and_fractions(
                np.asarray(source.positions_px)[indices[scans == number]], _frame(source.truths[number]), source.N
            )
        except ContractError as error:
            problems += [replace(problem, where=f"true object of scan {number}") for problem in error.problems]
    if problems:
        raise ContractError(problems)


def has_truth(source: TruthSource, indices: Any) -> bool:
    """Whether :func:`require_truth` reports no problem."""
    try:
        require_truth(source, indices)
    except ContractError:
        return False
    return True


def _frame(truth: Truth) -> CanvasGeometry:
    height, width = truth.object.shape
    return CanvasGeometry(origin_yx_px=truth.origin_yx_px, shape=(height, width))


def _missing(numbers: list[int]) -> Problem:
    return Problem(
        "supervised_weight",
        "truth.missing",
        "the true object of every scan that is trained on",
        f"none of scan {', '.join(map(str, numbers[:8]))}",
        "give `synthetic=N` to train on simulated objects, a file with its true object ('objectGuess' with "
        "object_kind 'truth'), or leave `supervised_weight` out",
    )
