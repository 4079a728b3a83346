"""Where in a scan the residual is left (specs/metrics.md, MET-19)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PATTERNS_PER_CELL = 8
_MOST_CELLS = 16


@dataclass(frozen=True, eq=False)
class ResidualMap:
    """R of the patterns in each cell of the scanned area.

    Attributes:
        edges_x_px, edges_y_px: (n + 1,) edges of the cells, in object coordinates.
        residual: (n, n) R by [y, x]; NaN where no pattern lies.
    """

    edges_x_px: NDArray[np.float64]
    edges_y_px: NDArray[np.float64]
    residual: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; None where no pattern lies."""
        rows = [[None if np.isnan(value) else value for value in row] for row in self.residual.tolist()]
        return {"edges_x_px": self.edges_x_px.tolist(), "edges_y_px": self.edges_y_px.tolist(), "residual": rows}


def residual_map(
    positions_px: NDArray[np.float64], squares: NDArray[np.float64], counts: NDArray[np.float64]
) -> ResidualMap:
    """R by place, from the parts of each pattern.

    Args:
        positions_px: (m, 2) [x, y].
        squares, counts: (m,) ``sum |sqrt n - sqrt I|^2`` and ``sum n`` of each pattern.

    >>> where = np.array([[x, y] for y in (0.0, 9.0) for x in (0.0, 9.0)] * 8)
    >>> residual_map(where, np.array([1.0, 2.0, 3.0, 4.0] * 8), np.full(32, 10.0)).residual
    array([[0.1, 0.2],
           [0.3, 0.4]])
    """
    side = int(np.clip(np.sqrt(len(positions_px) / _PATTERNS_PER_CELL), 1, _MOST_CELLS))
    x, y = positions_px.T
    parts = [np.histogram2d(y, x, bins=side, weights=part) for part in (squares, counts)]
    (above, edges_y, edges_x), (below, *_) = parts
    residual = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return ResidualMap(edges_x, edges_y, residual)
