"""Positions far from all others of their scan: a glitch of the stage or of the file (specs/grouping.md, GEO-6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

_PATTERN_SIDES = 4
_STEPS = 10
_LARGEST_FRACTION = 0.05


def outlying_positions(positions_px: NDArray[np.float64], N: int) -> NDArray[np.int64]:
    """Rows of the positions that lie far from the others, in linear time and memory.

    The plane is divided into cells of max(4 N, 10 median steps) px; cells that touch belong together. Parts with at
    most one position or 5 % of all lie far from the rest, if the largest part has at least four times as many.

    Args:
        positions_px: (M, 2) ``[x, y]`` of one scan.
        N: Side of a pattern in pixels.

    >>> outlying_positions(np.array([[0.0, 0], [3, 0], [0, 3], [3, 3], [8000, 1]]), 64)
    array([4])
    """
    if len(positions_px) < 2:
        return np.empty(0, np.int64)
    steps = cKDTree(positions_px).query(positions_px, k=2)[0][:, 1]
    side = max(_PATTERN_SIDES * N, _STEPS * float(np.median(steps)))
    cells, cell_of = np.unique(np.floor((positions_px - positions_px.min(axis=0)) / side), axis=0, return_inverse=True)
    pairs = cKDTree(cells).query_pairs(1.5, p=np.inf, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(cells), len(cells)))
    part_of = connected_components(graph, directed=False)[1][cell_of.reshape(-1)]
    sizes = np.bincount(part_of)
    small = (sizes <= max(1, _LARGEST_FRACTION * len(positions_px))) & (4 * sizes <= sizes.max())
    return np.flatnonzero(small[part_of])


def outlying_rows(positions_px: NDArray[np.float64], scan_index: NDArray[np.int64], N: int) -> NDArray[np.int64]:
    """As :func:`outlying_positions`, of several scans, each by itself; rows ascend."""
    rows = [np.flatnonzero(scan_index == number) for number in np.unique(scan_index)]
    return np.sort(np.concatenate([own[outlying_positions(positions_px[own], N)] for own in rows]))


def in_words(positions_px: NDArray[np.float64], rows: NDArray[np.int64]) -> str:
    """The first outlying positions, for people."""
    first = ", ".join(
        f"row {row} at x {x:.6g}, y {y:.6g}" for row, (x, y) in zip(rows[:3], positions_px[rows[:3]], strict=True)
    )
    return first if len(rows) <= 3 else f"{first}, and {len(rows) - 3} more"
