"""Canvas geometry: where patterns at given positions land on an array of object pixels (specs/grouping.md, GEO).

All functions take positions in float64 and return integer corners and fractions in
``[0, 1)``, so that a scan at an offset of a million pixels costs no precision and no memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.arrays import ArraySpec, validate
from ptycho_contracts.problems import ContractError, Problem

MAX_CANVAS_PIXELS = 1 << 32
"""Larger canvases are refused: such positions are not in object pixels."""

_ROUNDING_PX = 1e-6
"""Patches that leave the canvas by less than this are on it: the difference is rounding."""
_POSITIONS = (ArraySpec("positions_px", ("pattern", 2), kinds="fiu", unit="px"),)


@dataclass(frozen=True, eq=False)
class CanvasGeometry:
    """Frame of a canvas of object pixels.

    Attributes:
        origin_yx_px: (2,) float64, object coordinate of the canvas' pixel ``[0, 0]``.
        shape: ``(H, W)`` in pixels.
    """

    origin_yx_px: NDArray[np.float64]
    shape: tuple[int, int]


def checked_positions(positions_px: Any, *, where: str = "") -> NDArray[np.float64]:
    """Positions as (M, 2) float64 ``[x, y]``.

    Raises:
        ContractError: another shape, a dtype that is no number, or values that are not finite.
    """
    array = np.asarray(positions_px)
    validate({"positions_px": array}, _POSITIONS, where=where)
    return np.asarray(array, dtype=np.float64)


def canvas_geometry(positions_px: Any, N: int) -> CanvasGeometry:
    """Smallest canvas that holds every pixel any patch of side N reads.

    ``origin = floor(min r) - N // 2``; ``shape = floor(max r) - floor(min r) + N + 1``: the one
    further row and column is what bilinear interpolation reads at fractional positions.

    Args:
        positions_px: (M, 2) ``[x, y]`` of each patch's pixel ``[N // 2, N // 2]``.
        N: Side of a patch in pixels.

    Raises:
        ContractError: bad positions, or a canvas of more than ``MAX_CANVAS_PIXELS``.

    >>> frame = canvas_geometry([[10.0, 20.0], [13.5, 20.0]], 8)
    >>> frame.origin_yx_px.tolist(), frame.shape
    ([16.0, 6.0], (9, 12))
    """
    positions = checked_positions(positions_px, where="canvas_geometry")
    low = np.floor(positions.min(axis=0))[::-1]
    high = np.floor(positions.max(axis=0))[::-1]
    height, width = (int(span) + N + 1 for span in high - low)
    if height * width > MAX_CANVAS_PIXELS:
        raise ContractError(
            Problem(
                "canvas_geometry: positions_px",
                "canvas.size",
                f"a canvas of at most {MAX_CANVAS_PIXELS} pixels",
                f"{height} x {width}",
                "give positions in object pixels, not in metres or nanometres",
            )
        )
    return CanvasGeometry(origin_yx_px=low - N // 2, shape=(height, width))


def corners_and_fractions(
    positions_px: Any, geometry: CanvasGeometry, N: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where each patch starts on a canvas.

    Patch pixel ``[i, j]`` reads canvas pixels ``corner + [i, j]`` and the next ones down and to
    the right, with bilinear weights from the fraction.

    Args:
        positions_px: (M, 2) ``[x, y]``.
        geometry: Frame of the canvas; its origin need not be integer.
        N: Side of a patch in pixels.

    Returns:
        ``corners_yx`` (M, 2) int64 and ``fractions_yx`` (M, 2) float64 in ``[0, 1)``.

    Raises:
        ContractError: a patch that reaches beyond the canvas.
    """
    positions = checked_positions(positions_px, where="corners_and_fractions")
    start = positions[:, ::-1] - N // 2 - geometry.origin_yx_px
    start[(start < 0) & (start > -_ROUNDING_PX)] = 0.0
    room = np.asarray(geometry.shape) - N
    overrun = start - room
    touching = (overrun > 0) & (overrun < _ROUNDING_PX)
    start[touching] = np.broadcast_to(room, start.shape)[touching]
    outside = np.any((start < 0) | (np.ceil(start) > room), axis=1)
    if outside.any():
        first = int(np.argmax(outside))
        raise ContractError(
            Problem(
                "positions_px",
                "canvas.outside",
                f"patches of {N} x {N} inside a canvas of {geometry.shape} at origin {geometry.origin_yx_px.tolist()}",
                f"{int(outside.sum())} patches beyond it, the first at row {first}: {positions[first].tolist()}",
                "make the canvas with canvas_geometry from all positions",
            )
        )
    corners = np.floor(start)
    return corners.astype(np.int64), start - corners


def group_canvas_shape(coords_relative: Any, N: int, *, multiple: int = 1) -> tuple[int, int]:
    """Size of one canvas that holds the patches of any of the given groups, with what bilinear interpolation reads.

    The group's centre r_bar lies on canvas pixel ``[H // 2, W // 2]``; patch c's pixel
    ``[N // 2, N // 2]`` lies at that pixel minus ``coords_relative[..., c]``.

    Args:
        coords_relative: (n, 1, 2, C) ``[x, y]``, centre minus position.
        N: Side of a patch in pixels.
        multiple: Height and width are rounded up to multiples of this.

    Returns:
        ``(H, W)``: ``max(2 A, 2 B - 1)`` with ``A = N // 2 + ceil(s)``, ``B = N - N // 2 + floor(s) + 1``
        and s the largest ``|coords_relative|`` in y or x: the smallest that has room on both sides.

    >>> group_canvas_shape(np.array([2.5, -2.5, 0.0, 0.0]).reshape(1, 1, 2, 2), 8)
    (9, 14)
    """
    spread_x, spread_y = np.abs(np.asarray(coords_relative, dtype=np.float64)).max(axis=(0, 1, 3))
    return _group_side(float(spread_y), N, multiple), _group_side(float(spread_x), N, multiple)


def _group_side(spread: float, N: int, multiple: int) -> int:
    before = N // 2 + math.ceil(spread)
    after = N - N // 2 + math.floor(spread) + 1
    return multiple * math.ceil(max(2 * before, 2 * after - 1) / multiple)
