"""Nearest neighbours of many positions, in bounded memory (specs/grouping.md, GRP-3, GRP-10)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Positions = NDArray[np.float64]
Ranks = NDArray[np.int32]

_BLOCK_ENTRIES = 1 << 18
_CELL_POINTS = 32
_SLACK = 1 + 1e-9


def nearest_neighbours(
    points: Positions, K: int, *, min_distance_px: float = 0.0, max_distance_px: float = np.inf
) -> Ranks:
    """The K nearest others of every point, nearest first.

    Points are visited in spatial order: a tree's nodes then stay in the cache, and the time
    grows in proportion to the number of points.

    Args:
        points: (M, 2) float64, finite.
        K: Number of neighbours, at most M - 1.
        min_distance_px: Nearer points are no neighbours.
        max_distance_px: Farther points are no neighbours.

    Returns:
        (M, K) int32, numbers of points; -1 where the bounds leave fewer than K.
    """
    result = np.full((len(points), K), -1, np.int32)
    if K == 0:
        return result
    order = _by_place(points)
    shifted = points[order] - _low(points)
    tree = cKDTree(shifted)
    bounded = min_distance_px > 0 or max_distance_px < np.inf
    for start in range(0, len(points), block := max(1, _BLOCK_ENTRIES // (K + 1))):
        rows = np.arange(start, min(start + block, len(points)))
        if not bounded:
            result[order[rows]] = order[_nearest(tree, shifted, rows, K)]
            continue
        for some, neighbours in _bounded(tree, shifted, rows, K, min_distance_px, max_distance_px):
            result[order[some]] = np.where(neighbours < 0, -1, order[neighbours])
    return result


def _low(points: Positions) -> Positions:
    """Least x and y; a column at a time, which is many times faster than along the short axis."""
    return np.array([points[:, 0].min(), points[:, 1].min()])


def _by_place(points: Positions) -> Ranks:
    """Numbers of the points, cell by cell of a grid, those of one cell ascending."""
    low = _low(points)
    span = -_low(-points) - low
    cells = max(1, int((len(points) / _CELL_POINTS) ** 0.5))
    cell = ((points - low) * (cells / np.where(span > 0, span, 1))).astype(np.int64)
    # Number and cell in one integer: any way of sorting gives the same order.
    key = (cell[:, 1] * (cells + 1) + cell[:, 0]) * len(points) + np.arange(len(points))
    key.sort()
    return np.asarray(key % len(points), dtype=np.int32)


def _nearest(tree: cKDTree, shifted: Positions, rows: NDArray[np.int64], K: int) -> NDArray[np.int64]:
    _, neighbours = tree.query(shifted[rows], k=K + 1)
    if (neighbours[:, 0] == rows).all():
        return np.asarray(neighbours[:, 1:], dtype=np.int64)
    is_self = neighbours == rows[:, None]
    # Where many patterns share one position, the seed itself may not be among the K + 1 nearest.
    is_self[~is_self.any(axis=1), -1] = True
    return np.asarray(neighbours[~is_self].reshape(len(rows), K), dtype=np.int64)


def _bounded(
    tree: cKDTree, shifted: Positions, rows: NDArray[np.int64], K: int, low: float, high: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows with their neighbours between two distances: a wider search for those with too few of them."""
    wide, M = K + 1, len(shifted)
    while len(rows):
        wide = min(wide, M)
        short = []
        for part in np.array_split(rows, -(-len(rows) * wide // _BLOCK_ENTRIES)):
            # Slack, because the tree compares squares: the bound itself is applied to the distances.
            distance, neighbours = tree.query(
                shifted[part], k=np.arange(1, wide + 1), distance_upper_bound=high * _SLACK
            )
            good = (distance >= low) & (distance <= high) & (neighbours != part[:, None]) & (neighbours < M)
            ended = (good.sum(axis=1) >= K) | (wide == M) | ~np.isfinite(distance[:, -1])
            kept = np.where(good, neighbours, -1)[ended]
            front = np.argsort(kept < 0, axis=1, kind="stable")[:, :K]
            chosen = np.take_along_axis(kept, front, axis=1)
            yield part[ended], np.pad(chosen, ((0, 0), (0, K - chosen.shape[1])), constant_values=-1)
            short.append(part[~ended])
        rows, wide = np.concatenate(short), 2 * wide
