"""Where the patches of a scan lie on its canvas, for every backend (specs/physics.md, PHY-4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_data.canvas.geometry import CanvasGeometry, corners_and_fractions

_BEFORE_THE_EDGE = 0.999
"""Largest fraction of a patch that is moved to the end of the canvas: its next pixel is still on the canvas."""


@dataclass(frozen=True, eq=False)
class Sites:
    """Where M patches lie on a canvas.

    Attributes:
        corners_yx: (M, 2) int64, canvas pixel of each patch's pixel [0, 0], rounded down.
        fractions_yx: (M, 2) float64, the rest, from 0 to 1.
        shape: (H, W) of the canvas.
        N: Side of a patch.
    """

    corners_yx: NDArray[np.int64]
    fractions_yx: NDArray[np.float64]
    shape: tuple[int, int]
    N: int

    def __len__(self) -> int:
        return len(self.corners_yx)

    def __getitem__(self, rows: Any) -> Sites:
        return Sites(self.corners_yx[rows], self.fractions_yx[rows], self.shape, self.N)


def scan_sites(positions_px: NDArray[np.float64], geometry: CanvasGeometry, N: int) -> Sites:
    """Sites of the patches at (M, 2) positions [x, y] on the canvas of a scan.

    Raises:
        ContractError: a patch that reaches beyond the canvas.
    """
    corners, fractions = corners_and_fractions(positions_px, geometry, N)
    # A patch may end with the canvas, to rounding: read it as the far side of the pixel before.
    over = corners + N + 1 > np.asarray(geometry.shape)
    return Sites(corners - over, fractions + over, geometry.shape, N)


def last_start_yx(shape: tuple[int, int], N: int) -> NDArray[np.float64]:
    """Largest corner with fraction of a patch that moves on a canvas of this shape, (2,) [y, x] in pixels.

    >>> last_start_yx((40, 50), 16).tolist()
    [23.999, 33.999]
    """
    room: NDArray[np.float64] = np.asarray(shape, np.float64) - N - 1 + _BEFORE_THE_EDGE
    return room
