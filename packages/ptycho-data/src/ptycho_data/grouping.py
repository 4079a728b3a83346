"""Positions -> groups of neighbouring patterns (specs/grouping.md, GRP). Pure and deterministic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Groups
from scipy.spatial import cKDTree

from ptycho_data.geometry import checked_positions
from ptycho_data.selection import checked_indices

Indices = NDArray[np.int64]

_MOST_NUMBERED_DRAWS = 1 << 31
GROUPING_VERSION = 1
"""Raised whenever the same request would give other groups; part of the key of stored groups."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class _Pool:
    """Patterns of one scan that may be used, and how their groups are drawn."""

    members: Indices
    neighbours: int
    draws: int


def group(
    positions_px: Any,
    *,
    gridsize: int,
    n_groups: int | None = None,
    neighbor_count: int | None = None,
    seed: int = 0,
    scan_index: Any | None = None,
    allowed: Any | None = None,
) -> Groups:
    """Groups of C = gridsize**2 patterns: a seed and C - 1 of its K nearest neighbours.

    Groups are dealt in rounds: in each round every seed gets one group, in ascending order of
    seeds; the last round takes a random subset of seeds. A seed's groups all differ, and it
    leaves the rounds when all ``binom(K, C - 1)`` draws are used.

    Args:
        positions_px: (M, 2) ``[x, y]``.
        gridsize: Patterns along one side of a group.
        n_groups: Number of groups; the number of allowed patterns where not given.
        neighbor_count: K; C + 2 where not given, at most the scan's other allowed patterns.
        seed: Seed of the draws.
        scan_index: (M,) integers; members of a group share one value. One scan where not given.
        allowed: Indices of the patterns that may be used; all where not given.

    Returns:
        Groups: ``nn_indices`` (n_groups, C), seed in column 0, then the neighbours drawn, nearest
        first; centres and relative positions computed in float64, handed out in float32.

    Raises:
        ContractError: bad arrays; a scan with fewer than C patterns; fewer than C - 1
            neighbours; more groups than there are different ones.
    """
    positions = checked_positions(positions_px, where="group")
    usable = np.arange(len(positions)) if allowed is None else checked_indices(allowed, len(positions), where="allowed")
    wanted = len(usable) if n_groups is None else n_groups
    pools = _pools(usable, _checked_scan_index(scan_index, len(positions)), gridsize, neighbor_count)
    _check_count(wanted, pools, gridsize)
    rng = np.random.default_rng(seed)
    dealt = _deal(wanted, pools, rng)
    indices = np.empty((wanted, gridsize**2), np.int64)
    for pool, (rows, seeds, rounds) in zip(pools, dealt, strict=True):
        indices[rows, 0] = pool.members[seeds]
        if gridsize > 1 and len(rows):
            indices[rows, 1:] = _neighbours(positions, pool, seeds, rounds, gridsize**2 - 1, rng)
    return groups_at(positions, indices)


def groups_at(positions_px: Any, nn_indices: Any) -> Groups:
    """Groups with given members: centres r_bar = mean of r, and r_bar - r_c of each member.

    Args:
        positions_px: (M, 2) ``[x, y]``.
        nn_indices: (n, C) integers.
    """
    positions = checked_positions(positions_px, where="groups_at")
    indices = np.asarray(nn_indices, dtype=np.int64)
    if indices.size and (indices.min() < 0 or indices.max() >= len(positions)):
        raise ContractError(
            Problem("groups_at: nn_indices", "groups.range", f"indices in 0..{len(positions) - 1}",
                    f"{indices.min()}..{indices.max()}", "use the groups with the positions they were made from")
        )  # fmt: skip
    members = positions[indices]
    centres = members.mean(axis=1, keepdims=True)
    return Groups(
        nn_indices=indices,
        coords_offsets=centres.transpose(0, 2, 1)[:, None].astype(np.float32),
        coords_relative=np.ascontiguousarray((centres - members).transpose(0, 2, 1)[:, None], dtype=np.float32),
    )


def _checked_scan_index(scan_index: Any | None, count: int) -> Indices:
    if scan_index is None:
        return np.zeros(count, np.int64)
    array = np.asarray(scan_index)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ContractError(
            Problem("group: scan_index", "array.shape", f"({count},) integers, one a position",
                    f"{array.shape} {array.dtype}", "give each pattern the number of its scan")
        )  # fmt: skip
    return array.astype(np.int64)


def _pools(usable: Indices, scan_index: Indices, gridsize: int, neighbor_count: int | None) -> list[_Pool]:
    """The usable patterns by scan, each with its K and the number of different draws a seed has."""
    C = gridsize**2
    problems: list[Problem] = []
    if gridsize < 1:
        problems.append(Problem("group: gridsize", "groups.gridsize", "at least 1", str(gridsize), "raise it"))
    K = 0 if gridsize == 1 else (C + 2 if neighbor_count is None else neighbor_count)
    if K < C - 1:
        problems.append(
            Problem("group: neighbor_count", "groups.neighbours", f"at least gridsize^2 - 1 = {C - 1}", str(K),
                    "raise neighbor_count or lower gridsize")
        )  # fmt: skip
    pools = []
    for scan in np.unique(scan_index[usable]):
        members = usable[scan_index[usable] == scan]
        if len(members) < C:
            problems.append(
                Problem(f"group: scan {scan}", "groups.too_few_patterns", f"at least gridsize^2 = {C} patterns",
                        f"{len(members)} patterns", "lower gridsize or leave this scan out")
            )  # fmt: skip
        neighbours = min(K, len(members) - 1)
        pools.append(_Pool(members, neighbours, math.comb(max(neighbours, 0), C - 1) if C > 1 else 1))
    if problems:
        raise ContractError(problems)
    return pools


def _check_count(wanted: int, pools: Sequence[_Pool], gridsize: int) -> None:
    bound = sum(len(pool.members) * pool.draws for pool in pools)
    if not 1 <= wanted <= bound:
        parts = " + ".join(
            f"{len(pool.members)} * binom({pool.neighbours}, {gridsize**2 - 1})" for pool in pools[:4]
        ) + (" + ..." if len(pools) > 4 else "")
        raise ContractError(
            Problem("group: n_groups", "groups.count", f"1 to {bound} different groups (patterns * binom(K, C - 1): "
                    f"{parts})", str(wanted), "lower n_groups or raise neighbor_count")
        )  # fmt: skip


def _deal(wanted: int, pools: Sequence[_Pool], rng: np.random.Generator) -> list[tuple[Indices, Indices, Indices]]:
    """Rows of the result, seeds (as numbers within the pool) and rounds that each pool serves."""
    owner = np.repeat(np.arange(len(pools)), [len(pool.members) for pool in pools])
    local = np.concatenate([np.arange(len(pool.members)) for pool in pools])
    by_seed = np.argsort(np.concatenate([pool.members for pool in pools]), kind="stable")
    owner, local = owner[by_seed], local[by_seed]
    draws = np.array([min(pool.draws, wanted) for pool in pools], dtype=np.int64)[owner]
    chosen: list[Indices] = []
    rounds: list[Indices] = []
    left = wanted
    while left:
        live = np.flatnonzero(draws > len(rounds))
        if left < len(live):
            live = np.sort(rng.permutation(live)[:left])
        rounds.append(np.full(len(live), len(rounds)))
        chosen.append(live)
        left -= len(live)
    slot, turn = np.concatenate(chosen), np.concatenate(rounds)
    rows = [np.flatnonzero(owner[slot] == number) for number in range(len(pools))]
    return [(row, local[slot[row]], turn[row]) for row in rows]


def _neighbours(
    positions: NDArray[np.float64], pool: _Pool, seeds: Indices, rounds: Indices, count: int, rng: np.random.Generator
) -> Indices:
    """(n, count) members beside the seeds: a different draw of the K nearest in every round."""
    points = positions[pool.members]
    unique, row = np.unique(seeds, return_inverse=True)
    K = pool.neighbours
    _, found = cKDTree(points).query(points[unique], k=K + 1)
    found = found.reshape(len(unique), K + 1)
    is_self = found == unique[:, None]
    # Where many patterns share one position, the seed itself may not be among the K + 1 nearest.
    is_self[~is_self.any(axis=1), -1] = True
    nearest = found[~is_self].reshape(len(unique), K)
    if pool.draws <= _MOST_NUMBERED_DRAWS:
        first = rng.integers(pool.draws, size=len(unique))
        ranks = _subsets((first[row] + rounds * _stride(pool.draws)) % pool.draws, K, count)
    else:
        ranks = _random_subsets(row, K, count, rng)
    return np.asarray(pool.members[np.take_along_axis(nearest[row], ranks, axis=1)])


def _stride(draws: int) -> int:
    """A step near the golden section of the draws and coprime to them: it visits each draw once."""
    step = max(1, round(draws * _GOLDEN))
    while math.gcd(step, draws) != 1:
        step += 1
    return step


def _subsets(number: Indices, K: int, count: int) -> Indices:
    """Subsets of ``count`` of K ranks by their number in lexicographic order, each ascending."""
    number = number.copy()
    result = np.empty((len(number), count), np.int64)
    missing = np.full(len(number), count)
    for rank in range(K):
        ways = np.array([0] + [math.comb(K - 1 - rank, take - 1) for take in range(1, count + 1)])[missing]
        taken = number < ways
        result[taken, count - missing[taken]] = rank
        missing[taken] -= 1
        number[~taken] -= ways[~taken]
    return result


def _random_subsets(row: Indices, K: int, count: int, rng: np.random.Generator) -> Indices:
    """Subsets too many to be numbered: drawn at random, again where a seed meets one a second time."""
    result = np.empty((len(row), count), np.int64)
    todo = np.arange(len(row))
    while len(todo):
        result[todo] = np.sort(np.argsort(rng.random((len(todo), K)), axis=1)[:, :count], axis=1)
        _, first = np.unique(np.column_stack([row, result]), axis=0, return_index=True)
        todo = np.setdiff1d(np.arange(len(row)), first)
    return result
