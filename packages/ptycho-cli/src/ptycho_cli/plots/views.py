"""What a picture shows of a canvas, and the lengths along its axes (specs/cli.md, CLI-23)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Reconstruction

SCANNED, WELL_LIT = 0.2, 0.5
"""Least weight of a pixel that is drawn, and of one that sets greys and phases, in units of the usual weight."""
_UNITS = (("mm", 1e-3), ("µm", 1e-6), ("nm", 1e-9), ("pm", 1e-12))
_LEAST_IN_UNIT = 2.0

Extent = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class View:
    """The part of a canvas that a picture shows.

    Attributes:
        scanned: (H, W) bool; the other pixels are not drawn.
        well_lit: (H, W) bool, pixels that set the grey scale and the phase of the picture.
        box: Rows and columns of the canvas that hold all scanned pixels.
        extent: Edges (left, right, bottom, top) of the box, y downwards, in ``unit``.
        unit: Of the axes.
        per_px: Length of an object pixel in ``unit``.
    """

    scanned: NDArray[np.bool_]
    well_lit: NDArray[np.bool_]
    box: tuple[slice, slice]
    extent: Extent
    unit: str
    per_px: float

    def cut(self, picture: NDArray[Any]) -> Any:
        """The box of a picture, masked where it was not scanned."""
        return np.ma.masked_array(picture[self.box], ~self.scanned[self.box])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the box."""
        rows, columns = self.box
        return rows.stop - rows.start, columns.stop - columns.start

    @property
    def size(self) -> str:
        """The size of the box in words."""
        height, width = self.shape
        size = f"{width} x {height} px"
        if self.unit == "px":
            return size
        return f"{size}, {width * self.per_px:.3g} x {height * self.per_px:.3g} {self.unit}"


def view_of(
    weight: NDArray[Any] | None,
    *,
    origin_yx_px: Any = (0.0, 0.0),
    pixel_size_m: float | None = None,
    within: NDArray[np.bool_] | None = None,
) -> View:
    """What was scanned of a canvas: the pixels that got at least a fifth of the usual light.

    Args:
        weight: (H, W) summed illumination, or None if ``within`` is all that is known.
        origin_yx_px: Object coordinate of the canvas' pixel ``[0, 0]``.
        pixel_size_m: Side of an object pixel, or None: unknown.
        within: (H, W) bool, other pixels are not shown.

    Returns:
        The view; the whole canvas, with nothing scanned, if no pixel got light.
    """
    if weight is None:
        assert within is not None
        scanned = well_lit = within
    else:
        level = usual_weight(weight)
        scanned, well_lit = ((weight > 0) & (weight >= part * level) for part in (SCANNED, WELL_LIT))
        if within is not None:
            scanned, well_lit = scanned & within, well_lit & within
    box = _box(scanned)
    unit, per_px = scale_for(max(side.stop - side.start for side in box), pixel_size_m)
    top, left = (float(corner) + side.start - 0.5 for corner, side in zip(origin_yx_px, box, strict=True))
    bottom, right = (start + side.stop - side.start for start, side in zip((top, left), box, strict=True))
    extent = (left * per_px, right * per_px, bottom * per_px, top * per_px)
    return View(scanned, well_lit if well_lit.any() else scanned, box, extent, unit, per_px)


def view(reconstruction: Reconstruction, *, within: NDArray[np.bool_] | None = None) -> View:
    """:func:`view_of` a reconstruction."""
    return view_of(
        reconstruction.weight,
        origin_yx_px=reconstruction.origin_yx_px,
        pixel_size_m=reconstruction.pixel_size_m,
        within=within,
    )


def whole(reconstruction: Reconstruction) -> View:
    """All of a reconstruction's canvas."""
    return view_of(
        None,
        origin_yx_px=reconstruction.origin_yx_px,
        pixel_size_m=reconstruction.pixel_size_m,
        within=np.ones(reconstruction.weight.shape, bool),
    )


def usual_weight(weight: NDArray[Any]) -> float:
    """Half of all light falls on pixels of at least this weight; 0 without light.

    Unlike a percentile of the pixels it does not depend on how much dim margin the canvas has.

    >>> usual_weight(np.array([[0.0, 0.1], [4.0, 4.0]]))
    4.0
    """
    values = np.sort(weight[weight > 0])
    if not values.size:
        return 0.0
    light = np.cumsum(values, dtype=np.float64)
    return float(values[np.searchsorted(light, light[-1] / 2)])


def scale_for(span_px: float, pixel_size_m: float | None) -> tuple[str, float]:
    """Unit of an axis of so many object pixels, and the length of a pixel in it.

    >>> scale_for(1000, 1e-8)
    ('µm', 0.01)
    >>> scale_for(1000, None)
    ('px', 1.0)
    """
    if pixel_size_m is None:
        return "px", 1.0
    span_m = span_px * pixel_size_m
    unit, metres = next((row for row in _UNITS if span_m >= _LEAST_IN_UNIT * row[1]), _UNITS[-1])
    return unit, float(f"{pixel_size_m / metres:.12g}")


def _box(area: NDArray[np.bool_]) -> tuple[slice, slice]:
    if not area.any():
        return slice(0, area.shape[0]), slice(0, area.shape[1])
    rows, columns = (np.flatnonzero(area.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
