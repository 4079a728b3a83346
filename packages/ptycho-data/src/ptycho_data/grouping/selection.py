"""Which patterns are held out: a fraction, or a list of indices (specs/grouping.md, SEL)."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.containers.npy import read_npy

HoldOut = str | float | PathLike[str] | NDArray[np.integer[Any]] | Sequence[int] | None
"""Which patterns are never used: none, a fraction, indices, or the path of an ``.npy`` file of indices."""


def held_out_indices(spec: HoldOut, M: int, seed: int) -> NDArray[np.int64]:
    """Indices of the patterns never used, ascending.

    Args:
        spec: None holds out nothing; a fraction f in [0, 1), as a number or its text, holds out
            ``sort(default_rng(seed).permutation(M)[:round(f * M)])``; an array or a sequence holds
            distinct indices; anything else is the path of an .npy file of them.
        M: Number of patterns.
        seed: Seed of the fraction's permutation.

    Returns:
        (n,) int64.

    Raises:
        ContractError: a fraction out of range, bad indices, or nothing left to use.
        MissingFileError: the file of indices does not exist.

    >>> held_out_indices([4, 1], 6, 0).tolist(), len(held_out_indices(0.5, 6, 0)), len(held_out_indices(None, 6, 0))
    ([1, 4], 3, 0)
    """
    if spec is None:
        return np.empty(0, np.int64)
    if isinstance(spec, np.ndarray | list | tuple):
        held = np.sort(checked_indices(spec, M, where="hold_out", empty=True))
    elif (fraction := _as_fraction(spec)) is None:
        path = Path(spec)  # type: ignore[arg-type]
        held = np.sort(checked_indices(read_npy(path), M, where=str(path), empty=True))
    else:
        if not 0 <= fraction < 1:
            raise ContractError(
                Problem(
                    "hold_out",
                    "selection.fraction",
                    "a fraction in [0, 1) or the path of an .npy file",
                    str(spec),
                    "give the fraction of patterns to hold out, such as 0.1",
                )
            )
        held = np.sort(np.random.default_rng(seed).permutation(M)[: round(fraction * M)])
    if len(held) >= M:
        raise ContractError(
            Problem(
                "hold_out",
                "selection.all",
                "at least one pattern left to use",
                f"all {M} patterns held out",
                "hold out fewer patterns",
            )
        )
    return held.astype(np.int64)


def used_indices(held_out: Any, M: int) -> NDArray[np.int64]:
    """Indices of the patterns that are not held out, ascending, (M - len(held_out),) int64."""
    used = np.ones(M, dtype=bool)
    used[np.asarray(held_out, dtype=np.int64)] = False
    return np.flatnonzero(used).astype(np.int64)


def validation_indices(
    used: NDArray[np.int64], validation: float | NDArray[np.integer[Any]], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Used patterns that are fitted, and those that validate the fit (specs/physics.md, PHY-30), each ascending int64.

    Args:
        used: (n,) indices.
        validation: Fraction of them that validates, at least one, 0 for none; or the indices themselves, of which those
            that are not used are left out.
        seed: Seed of the choice.

    Raises:
        ContractError: no pattern left to fit, or bad indices.

    >>> [part.tolist() for part in validation_indices(np.arange(5), np.array([1, 9]), 0)]
    [[0, 2, 3, 4], [1]]
    """
    if isinstance(validation, np.ndarray | list | tuple):
        most = int(max([*used, *validation], default=0)) + 1
        chosen = checked_indices(validation, most, where="validation", empty=True)
        fitted, kept = np.setdiff1d(used, chosen), np.intersect1d(used, chosen)
    else:
        if validation == 0:
            return used, np.empty(0, np.int64)
        count = max(1, round(validation * len(used)))
        order = np.random.default_rng(seed).permutation(used)
        fitted, kept = np.sort(order[count:]), np.sort(order[:count])
    if len(fitted) == 0:
        found = f"{validation:g}" if isinstance(validation, float | int) else f"{len(kept)} indices"
        raise ContractError(
            Problem(
                "val_fraction",
                "selection.no_fit",
                "at least one pattern to fit beside one that validates",
                f"{len(used)} used patterns, val_fraction {found}",
                "use more patterns, or leave it out",
            )
        )
    return fitted, kept


def subsample_indices(
    M: int,
    *,
    count: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
    sequential: bool = False,
    scan_index: Any | None = None,
    allowed: Any | None = None,
) -> NDArray[np.int64]:
    """Some patterns of each scan, to be given as ``allowed``: a large scan made small.

    Args:
        M: Number of patterns.
        count: Patterns of each scan, all if it has fewer; or
        fraction: fraction of each scan's patterns in (0, 1], rounded, at least one.
        seed: Seed of the choice; each scan is chosen with its own generator, from the seed
            and the scan's number, so that other scans change nothing.
        sequential: The first ones in the order of acquisition instead of a random choice.
        scan_index: (M,) integers; default: one scan.
        allowed: Choose among these only, such as those that are not held out; default: all.

    Returns:
        (n,) int64, ascending.

    Raises:
        ContractError: not exactly one of count and fraction, one out of range, or bad indices.
    """
    good = count is None if fraction is not None and 0 < fraction <= 1 else fraction is None and (count or 0) >= 1
    if not good:
        raise ContractError(
            Problem(
                "subsample_indices",
                "selection.subsample",
                "count >= 1, or fraction in (0, 1]",
                f"count {count}, fraction {fraction}",
                "give one of them",
            )
        )
    among = np.arange(M) if allowed is None else np.sort(checked_indices(allowed, M, where="allowed"))
    owner = np.zeros(M, np.int64) if scan_index is None else np.asarray(scan_index)
    if owner.shape != (M,) or owner.dtype.kind not in "iu":
        raise ContractError(
            Problem(
                "subsample_indices: scan_index",
                "array.shape",
                f"({M},) integers, one per pattern",
                f"{owner.shape} {owner.dtype}",
                "give each pattern the number of its scan",
            )
        )
    chosen = []
    for scan in np.unique(owner[among]):
        members = among[owner[among] == scan]
        size = max(1, round(fraction * len(members))) if count is None else min(count, len(members))  # type: ignore[operator]
        if not sequential:
            members = np.random.default_rng([seed, abs(int(scan))]).permutation(members)
        chosen.append(members[:size])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def checked_indices(indices: Any, M: int, *, where: str, empty: bool = False) -> NDArray[np.int64]:
    """Distinct pattern indices as (n,) int64, in the order given.

    Raises:
        ContractError: not one-dimensional integers, out of ``0..M - 1``, or repeated.
    """
    array = np.asarray(indices)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (len(array) == 0 and not empty):
        raise ContractError(
            Problem(
                where,
                "selection.indices",
                "a one-dimensional array of integers, not empty",
                f"{array.dtype} of shape {array.shape}",
                "give pattern numbers, counted from 0",
            )
        )
    problems = []
    outside = (array < 0) | (array >= M)
    if outside.any():
        problems.append(
            Problem(
                where,
                "selection.range",
                f"indices in 0..{M - 1}, of {M} patterns",
                f"{int(outside.sum())} outside, such as {array[outside][0]}",
                "use indices of this scan",
            )
        )
    repeated = len(array) - len(np.unique(array))
    if repeated:
        problems.append(
            Problem(where, "selection.repeated", "distinct indices", f"{repeated} repeated", "name each pattern once")
        )
    if problems:
        raise ContractError(problems)
    return array.astype(np.int64)


def _as_fraction(spec: Any) -> float | None:
    try:
        return float(spec)
    except (TypeError, ValueError):
        return None
