"""Positions that are generated, turned and rotated (specs/files.md, DOOR-8)."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.checks.orientation import ORIENTATIONS, Orientation


def raster(rows: int, columns: int, step: tuple[float, float], *, serpentine: bool = False) -> NDArray[np.float64]:
    """(rows * columns, 2) ``[x, y]``, row by row; x grows with the column, y with the row.

    >>> raster(2, 3, (5.0, 1.0), serpentine=True).tolist()
    [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 5.0], [1.0, 5.0], [0.0, 5.0]]
    """
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    if serpentine:
        x[1::2] = x[1::2, ::-1]
    return np.stack([x.ravel() * step[1], y.ravel() * step[0]], axis=1)


def turned(positions: NDArray[np.float64], rule: str | None, degrees: float) -> NDArray[np.float64]:
    """Positions with changed axes, then rotated from x towards y.

    Raises:
        ContractError: no legal rule.
    """
    if rule is not None:
        positions = orientation_of(rule).apply(positions)
    if not degrees:
        return positions
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.asarray(positions @ np.array([[c, s], [-s, c]]))


def orientation_of(rule: str) -> Orientation:
    """The orientation of a rule as ``inspect --orientation`` prints it.

    >>> orientation_of("x'=y, y'=-x")
    Orientation(swap_xy=True, flip_x=False, flip_y=True)

    Raises:
        ContractError: none of the eight.
    """
    plain = re.sub(r"\s+", "", rule).replace("+", "")
    for orientation in ORIENTATIONS:
        if re.sub(r"\s+", "", str(orientation)) == plain:
            return orientation
    raise ContractError(
        Problem(
            "turn",
            "door.turn",
            "a rule such as x'=y, y'=-x: each of x and y once, with or without a minus",
            repr(rule),
            "`turn` takes it as inspect --orientation prints it",
        )
    )
