"""Positions -> groups of neighbouring patterns (specs/grouping.md, GRP). Pure and deterministic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import channel_count, neighbours_drawn_from
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Groups

from ptycho_data.canvas.geometry import checked_positions
from ptycho_data.grouping.draws import draw_subsets
from ptycho_data.grouping.neighbours import nearest_neighbours
from ptycho_data.grouping.selection import checked_indices

Indices = NDArray[np.int64]

GROUPING_VERSION = 2
"""Raised whenever the same request would give other groups; part of the key of stored groups."""

_BLOCK_GROUPS = 1 << 16


@dataclass(frozen=True)
class _Request:
    """What is requested of the groups, besides the positions; distances in pixels."""

    gridsize: int
    n_groups: int | None
    oversampling: int | None
    K: int
    min_distance: float
    max_distance: float

    @property
    def C(self) -> int:
        return channel_count(self.gridsize)

    @property
    def bounded(self) -> bool:
        return self.min_distance > 0 or self.max_distance < math.inf


@dataclass(frozen=True)
class _Pool:
    """Patterns of one scan that may be used.

    Attributes:
        members: Their numbers, ascending or as the caller gave them.
        nearest: (members, K) int32 neighbours as numbers within the pool, -1 if there are fewer;
            None until they are needed.
        available: (members,) how many neighbours each has, or one number for all.
    """

    members: Indices
    nearest: NDArray[np.int32] | None
    available: NDArray[np.int64] | int

    def draws(self, count: int, most: int) -> Indices:
        """(members,) different groups each can be the seed of, at most ``most``."""
        available = np.broadcast_to(np.asarray(self.available, np.int64), (len(self.members),))
        ways = np.array([min(math.comb(k, count), most) for k in range(int(available.max()) + 1)], np.int64)
        return np.asarray(ways[available])

    def total(self, count: int) -> int:
        """Different groups of all members."""
        if isinstance(self.available, int):
            return len(self.members) * math.comb(self.available, count)
        return sum(int(many) * math.comb(k, count) for k, many in enumerate(np.bincount(self.available)))


def group(
    positions_px: Any,
    *,
    gridsize: int,
    n_groups: int | None = None,
    neighbor_count: int | None = None,
    seed: int = 0,
    scan_index: Any | None = None,
    allowed: Any | None = None,
    oversampling: int | None = None,
    min_distance_px: float | None = None,
    max_distance_px: float | None = None,
    sequential: bool = False,
) -> Groups:
    """Groups of C = gridsize**2 patterns: a seed and C - 1 of its K nearest neighbours.

    Groups are assigned in rounds: in each round every seed gets one group, in ascending order of
    seeds; the last round takes a random subset of seeds. A seed's groups all differ, and it
    leaves the rounds when all ``binom(K, C - 1)`` draws are used.

    Args:
        positions_px: (M, 2) ``[x, y]``.
        gridsize: Patterns along one side of a group.
        n_groups: Number of groups; default: one for every seed.
        neighbor_count: K; default: C + 2, at most the scan's other allowed patterns.
        seed: Seed of the draws.
        scan_index: (M,) integers; members of a group share one value. Default: one scan.
        allowed: Indices of the patterns that may be used; default: all. For a part of a
            large scan give :func:`ptycho_data.grouping.selection.subsample_indices`.
        oversampling: Instead of ``n_groups``: full rounds, so that every seed has this many
            groups, or all that it can have.
        min_distance_px: Patterns nearer to the seed are not its neighbours (repeats of a position).
        max_distance_px: Patterns farther from the seed are not its neighbours (gaps in a scan).
            Patterns with fewer than C - 1 neighbours left are no seeds.
        sequential: The last round takes the first seeds in the order of acquisition, not a random subset.

    Returns:
        Groups: ``nn_indices`` (n_groups, C), seed in column 0, then the neighbours drawn, nearest
        first; centres and relative positions computed in float64, returned in float32.

    Raises:
        ContractError: bad arrays; a scan with fewer than C patterns; fewer than C - 1
            neighbours; more groups than there are different ones.

    >>> group([[0, 0], [1, 0], [2, 0], [9, 0]], gridsize=2).nn_indices.tolist()
    [[0, 1, 2, 3], [1, 2, 0, 3], [2, 1, 0, 3], [3, 2, 1, 0]]
    """
    positions = checked_positions(positions_px, where="group")
    usable = np.arange(len(positions)) if allowed is None else checked_indices(allowed, len(positions), where="allowed")
    request = _checked_request(gridsize, n_groups, oversampling, neighbor_count, min_distance_px, max_distance_px)
    pools = _pools(positions, usable, _checked_scan_index(scan_index, len(positions)), request)
    requested = _checked_count(pools, request)
    rng = np.random.default_rng(seed)
    assigned = _assign(requested, pools, request.C - 1, rng, sequential)
    indices = np.empty((requested, request.C), np.int64)
    for pool, (rows, seeds, rounds) in zip(pools, assigned, strict=True):
        indices[rows, 0] = pool.members[seeds]
        if request.C > 1 and len(rows):
            _draw_neighbours(indices, rows, _searched(positions, pool, request), seeds, rounds, rng)
    return groups_at(positions, indices)


def groups_at(positions_px: Any, nn_indices: Any) -> Groups:
    """Groups with given members: centres r_bar = mean of r, and r_bar - r_c of each member.

    Args:
        positions_px: (M, 2) ``[x, y]``.
        nn_indices: (n, C) integers.

    >>> groups = groups_at([[0.0, 0.0], [4.0, 2.0]], [[0, 1]])
    >>> groups.coords_offsets.ravel().tolist(), groups.coords_relative[0, 0].tolist()
    ([2.0, 1.0], [[2.0, -2.0], [1.0, -1.0]])
    """
    positions = checked_positions(positions_px, where="groups_at")
    indices = np.asarray(nn_indices, dtype=np.int64)
    if indices.size and (indices.min() < 0 or indices.max() >= len(positions)):
        raise ContractError(
            Problem(
                "groups_at: nn_indices",
                "groups.range",
                f"indices in 0..{len(positions) - 1}",
                f"{indices.min()}..{indices.max()}",
                "use the groups with the positions they were made from",
            )
        )
    n, C = indices.shape
    offsets, relative = np.empty((n, 1, 2, 1), np.float32), np.empty((n, 1, 2, C), np.float32)
    for start in range(0, n, _BLOCK_GROUPS):
        rows = slice(start, start + _BLOCK_GROUPS)
        for axis in range(2):
            members = positions[:, axis][indices[rows]]
            centres = members.sum(axis=1, keepdims=True) / C
            offsets[rows, 0, axis] = centres
            relative[rows, 0, axis] = centres - members
    return Groups(nn_indices=indices, coords_offsets=offsets, coords_relative=relative)


def _checked_request(
    gridsize: int, n_groups: int | None, oversampling: int | None, K: int | None, low: float | None, high: float | None
) -> _Request:
    """The request, if it can be one at all; problems with the patterns come later."""
    problems = []
    if gridsize < 1:
        problems.append(Problem("group: gridsize", "groups.gridsize", "at least 1", str(gridsize), "raise it"))
    if n_groups is not None and oversampling is not None:
        problems.append(
            Problem(
                "group: oversampling",
                "groups.count",
                "n_groups or oversampling",
                "both",
                "give the number of groups, or the groups per seed",
            )
        )
    nearest, farthest = 0.0 if low is None else low, math.inf if high is None else high
    if not 0 <= nearest < farthest:
        problems.append(
            Problem(
                "group: min_distance_px, max_distance_px",
                "groups.distances",
                "0 <= min < max, in pixels",
                f"{nearest:g} and {farthest:g}",
                "order the bounds; positions are in object pixels",
            )
        )
    if problems:
        raise ContractError(problems)
    drawn_from = neighbours_drawn_from(gridsize, K)
    return _Request(gridsize, n_groups, oversampling, drawn_from, float(nearest), float(farthest))


def _checked_scan_index(scan_index: Any | None, count: int) -> Indices | None:
    if scan_index is None:
        return None
    array = np.asarray(scan_index)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ContractError(
            Problem(
                "group: scan_index",
                "array.shape",
                f"({count},) integers, one per position",
                f"{array.shape} {array.dtype}",
                "give each pattern the number of its scan",
            )
        )
    return array.astype(np.int64, copy=False)


def _pools(
    positions: NDArray[np.float64], usable: Indices, scan_index: Indices | None, request: _Request
) -> list[_Pool]:
    """The usable patterns by scan, each with how many neighbours they have."""
    C, problems, pools = request.C, [], []
    if request.K < C - 1:
        problems.append(
            Problem(
                "group: neighbor_count",
                "groups.neighbours",
                f"at least gridsize^2 - 1 = {C - 1}",
                str(request.K),
                "raise neighbor_count or lower gridsize",
            )
        )
    of_usable = None if scan_index is None else scan_index[usable]
    for scan in [0] if of_usable is None else np.unique(of_usable):
        members = usable if of_usable is None else usable[of_usable == scan]
        if len(members) < C:
            problems.append(
                Problem(
                    f"group: scan {scan}",
                    "groups.too_few_patterns",
                    f"at least gridsize^2 = {C} patterns",
                    f"{len(members)} patterns",
                    "lower gridsize or leave this scan out",
                )
            )
        pools.append(_Pool(members, None, max(0, min(request.K, len(members) - 1))))
    if problems:
        raise ContractError(problems)
    return [_searched(positions, pool, request) for pool in pools] if request.bounded and C > 1 else pools


def _searched(positions: NDArray[np.float64], pool: _Pool, request: _Request) -> _Pool:
    """The pool with the neighbours of its members."""
    if pool.nearest is not None:
        return pool
    K = min(request.K, len(pool.members) - 1)
    nearest = nearest_neighbours(
        positions[pool.members], K, min_distance_px=request.min_distance, max_distance_px=request.max_distance
    )
    return _Pool(pool.members, nearest, (nearest >= 0).sum(axis=1) if request.bounded else K)


def _checked_count(pools: Sequence[_Pool], request: _Request) -> int:
    """Number of groups, if there are that many different ones."""
    count = request.C - 1
    bound = sum(pool.total(count) for pool in pools)
    most = max(math.comb(int(np.max(pool.available)), count) for pool in pools)
    if request.oversampling is not None and not 1 <= request.oversampling <= most:
        raise ContractError(
            Problem(
                "group: oversampling",
                "groups.count",
                f"1 to {most} groups per seed (binom(K, C - 1))",
                str(request.oversampling),
                "lower oversampling or raise neighbor_count",
            )
        )
    rounds = request.oversampling or 1
    full = sum(int(pool.draws(count, rounds).sum()) for pool in pools)
    requested = full if request.n_groups is None else request.n_groups
    if bound == 0:
        raise ContractError(
            Problem(
                "group: min_distance_px, max_distance_px",
                "groups.count",
                f"{count} neighbours of a pattern within these distances, for groups of {count + 1}",
                f"at most {max(int(np.max(pool.available)) for pool in pools)} of any pattern",
                "widen the distances, or lower `gridsize`",
            )
        )
    if not 1 <= requested <= bound:
        parts = " + ".join(_words(pool, count) for pool in pools[:4]) + (" + ..." if len(pools) > 4 else "")
        raise ContractError(
            Problem(
                "group: n_groups",
                "groups.count",
                f"1 to {bound} different groups (patterns * binom(K, C - 1): {parts})",
                str(requested),
                "lower `n_groups`, raise `neighbor_count` or widen the distances",
            )
        )
    return requested


def _words(pool: _Pool, count: int) -> str:
    if isinstance(pool.available, int):
        return f"{len(pool.members)} * binom({pool.available}, {count})"
    return " + ".join(f"{many} * binom({k}, {count})" for k, many in enumerate(np.bincount(pool.available)) if many)


def _assign(
    requested: int, pools: Sequence[_Pool], count: int, rng: np.random.Generator, sequential: bool
) -> list[tuple[Indices, Indices, Indices]]:
    """Rows of the result, seeds (as numbers within the pool) and rounds that each pool serves."""
    owner = np.repeat(np.arange(len(pools), dtype=np.int32), [len(pool.members) for pool in pools])
    local = np.concatenate([np.arange(len(pool.members)) for pool in pools])
    by_seed = np.argsort(np.concatenate([pool.members for pool in pools]), kind="stable")
    owner, local = owner[by_seed], local[by_seed]
    draws = np.concatenate([pool.draws(count, requested) for pool in pools])[by_seed]
    chosen: list[Indices] = []
    left = requested
    while left:
        live = np.flatnonzero(draws > len(chosen))
        if left < len(live):
            live = live[:left] if sequential else np.sort(rng.permutation(live)[:left])
        chosen.append(live)
        left -= len(live)
    turn = np.repeat(np.arange(len(chosen)), [len(live) for live in chosen])
    slot = np.concatenate(chosen)
    rows = [np.flatnonzero(owner[slot] == number) for number in range(len(pools))]
    return [(row, local[slot[row]], turn[row]) for row in rows]


def _draw_neighbours(
    indices: Indices, rows: Indices, pool: _Pool, seeds: Indices, rounds: Indices, rng: np.random.Generator
) -> None:
    """Fill the members beside the seeds: a different draw of the nearest in every round."""
    assert pool.nearest is not None
    count = indices.shape[1] - 1
    for k, chosen in _by_available(pool, seeds):
        _, row = np.unique(seeds[chosen], return_inverse=True)
        ranks = draw_subsets(row, rounds[chosen], k, count, rng)
        for start in range(0, len(chosen), _BLOCK_GROUPS):
            part = slice(start, start + _BLOCK_GROUPS)
            near = np.take_along_axis(pool.nearest[seeds[chosen[part]]], ranks[part], axis=1)
            indices[rows[chosen[part]], 1:] = pool.members[near]


def _by_available(pool: _Pool, seeds: Indices) -> Iterator[tuple[int, Indices]]:
    """How many neighbours there are to draw from, with the groups whose seed has so many."""
    if isinstance(pool.available, int):
        yield pool.available, np.arange(len(seeds))
        return
    of_seed = pool.available[seeds]
    for k in np.unique(of_seed):
        yield int(k), np.flatnonzero(of_seed == k)
