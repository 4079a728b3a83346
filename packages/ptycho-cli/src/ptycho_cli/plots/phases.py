"""The phase of an object as it is drawn: without its ramp, cut where few pixels wrap (specs/cli.md, CLI-23)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_data.metrics.ramps import own_ramp, without_ramp

from ptycho_cli.plots.views import View

WRAPS = 1e-3
"""Fraction of neighbouring pixels a turn apart from which a picture says that its phase wraps."""
_LEAST_RAD = 0.01
"""Of a ramp from edge to edge, that is worth a number."""
_BINS = 180
_SHARPNESS = 20.0
"""Of the kernel [von Mises] that smooths the histogram of phases: about 0.2 rad wide."""
_LARGEST_SIDE_PX = 1024


@dataclass(frozen=True, eq=False)
class Flattening:
    """What is taken out of an image before its phase is drawn.

    Attributes:
        ramp_yx_rad_per_px: (2,) float64.
        centre_yx_px: (2,) float64, where the ramp's phase is 0, in pixels of the canvas.
        phase_rad: Phase of the image's mean, after the ramp.
        cut_rad: Least drawn phase, relative to the mean; the largest is a turn more.
        wrapped: Fraction of neighbouring pixels that the cut separates.
    """

    ramp_yx_rad_per_px: NDArray[np.float64]
    centre_yx_px: NDArray[np.float64]
    phase_rad: float
    cut_rad: float = -np.pi
    wrapped: float = 0.0

    def flat(self, image: NDArray[Any]) -> NDArray[np.complex128]:
        """An image without ramp and mean phase."""
        turned = without_ramp(image, self.ramp_yx_rad_per_px, self.centre_yx_px)
        turned *= np.exp(-1j * self.phase_rad)
        return turned

    def phase(self, image: NDArray[Any]) -> NDArray[np.float64]:
        """Phase of an image, in rad, between ``cut_rad`` and a turn more."""
        drawn: NDArray[np.float64] = _from(self.cut_rad, np.angle(self.flat(image)))
        return drawn

    def words(self, view: View) -> str:
        """What was done, for the title of a picture."""
        factor, unit = (1e3, "mrad/px") if view.unit == "px" else (1 / view.per_px, f"rad/{view.unit}")
        x, y = (
            f"{factor * ramp:.2g}" if abs(ramp * side) > _LEAST_RAD else "0"
            for ramp, side in zip(self.ramp_yx_rad_per_px[::-1], view.shape[::-1], strict=True)
        )
        said = f"phase ramp removed: x {x}, y {y} {unit}"
        if self.wrapped > WRAPS:
            said += f"\nphase wraps between {self.wrapped:.1%} of neighbours, cut at {self.cut_rad:.2f} rad"
        return said


def flattening(image: NDArray[Any], view: View) -> Flattening:
    """Ramp, mean and cut of an image's phase, from its well lit pixels.

    Args:
        image: (H, W) complex, the whole canvas.
        view: What is drawn of it.
    """
    lit, (rows, columns) = view.well_lit[view.box], view.box
    corner = np.array([rows.start, columns.start], float)
    if not lit.any():
        return Flattening(np.zeros(2), corner, 0.0)
    part = np.where(lit, image[view.box], 0)
    centre = np.argwhere(lit).mean(axis=0)
    ramp = _ramp(part, lit, centre)
    flat = without_ramp(part, ramp, centre)
    mean = float(np.angle(flat.sum()))
    relative = np.angle(flat * np.exp(-1j * mean))
    cut = emptiest_phase(relative[lit], np.abs(part[lit])) - 2 * np.pi
    return Flattening(ramp, centre + corner, mean, cut, _wrapped(_from(cut, relative), lit))


def emptiest_phase(phases: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """The phase in (0, 2 pi] that is farthest from where most phases are; pi if they are all 0.

    >>> round(emptiest_phase(np.zeros(5), np.ones(5)), 3)
    3.142
    """
    bins = np.floor(_from(0.0, phases) * (_BINS / (2 * np.pi)) + 0.5).astype(int) % _BINS
    histogram = np.bincount(bins, weights, _BINS)
    angles = 2 * np.pi * np.arange(_BINS) / _BINS
    kernel = np.exp(_SHARPNESS * (np.cos(angles) - 1))
    density = np.fft.irfft(np.fft.rfft(histogram) * np.fft.rfft(kernel), _BINS)
    # Far from all phases the density is rounding: there the place nearest to pi is as good as any.
    empty = density <= max(density.min(), 1e-6 * density.max())
    place = angles[empty][np.argmin(np.abs(angles[empty] - np.pi))]
    return float(place) if place > 0 else 2 * np.pi


def _ramp(image: NDArray[Any], lit: NDArray[np.bool_], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """The image's own ramp (MET-7); of large images from sums over blocks, so that memory stays small."""
    block = -(-max(image.shape) // _LARGEST_SIDE_PX)
    if block == 1:
        return own_ramp(image, lit, centre)
    height, width = (side // block * block for side in image.shape)
    blocks = image[:height, :width].reshape(height // block, block, width // block, block).sum(axis=(1, 3))
    ramp: NDArray[np.float64] = own_ramp(blocks, blocks != 0, (centre - (block - 1) / 2) / block) / block
    return ramp


def _from(start: float, phases: NDArray[np.float64]) -> NDArray[np.float64]:
    turned: NDArray[np.float64] = start + np.mod(phases - start, 2 * np.pi)
    return turned


def _wrapped(phase: NDArray[np.float64], lit: NDArray[np.bool_]) -> float:
    pairs = jumps = 0
    for axis in (0, 1):
        both = np.delete(lit, 0, axis) & np.delete(lit, -1, axis)
        pairs += int(both.sum())
        jumps += int((np.abs(np.diff(phase, axis=axis)[both]) > np.pi).sum())
    return jumps / pairs if pairs else 0.0
