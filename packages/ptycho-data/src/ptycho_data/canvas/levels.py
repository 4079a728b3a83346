"""Coarse levels of a scan: the central parts of its patterns (specs/physics.md, PHY-34 and PHY-35).

The central n x n part of every pattern is a scan of the same object at N / n times the pixel. Low spatial frequencies,
which passes over full patterns recover slowly, are recovered there at a fraction of the cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ptycho_data.canvas.geometry import CanvasGeometry
from ptycho_data.canvas.illumination import power_of

LEAST_SIDE_PX = 16
"""Least side of a level. Reasoned: a smaller one holds too few speckles of any probe."""

LEAST_ENERGY = 0.999
"""Fraction of the probe's energy that a level's aperture holds at least. Measured (benchmarks/RESULTS.md): levels with
.97 of it are worse than none."""

LEAST_PHOTONS_PER_PX = 100.0
"""Photons per illuminated object pixel from which coarse levels are used. Measured (benchmarks/RESULTS.md): at 20 they
are slightly worse than none, because passes at full strength fit the noise, at 200 better."""


def central_part(array: NDArray[Any], side: int) -> NDArray[Any]:
    """The central part of (..., N, N) whose pixel [side // 2, side // 2] is pixel [N // 2, N // 2].

    >>> central_part(np.arange(36).reshape(6, 6), 2).tolist()
    [[14, 15], [20, 21]]
    """
    first = array.shape[-1] // 2 - side // 2
    return array[..., first : first + side, first : first + side]


def level_probe(probe: NDArray[np.complex64], side: int) -> NDArray[np.complex64]:
    """The probe of a level (K, side, side): its far field is the central part of the full one's (PHY-34).

    Args:
        probe: (K, N, N) complex64.
        side: Of the level, at most N.
    """
    axes = (-2, -1)
    far = fft.fftshift(fft.fft2(fft.ifftshift(probe, axes=axes), norm="ortho"), axes=axes)
    near = fft.ifft2(fft.ifftshift(central_part(far, side), axes=axes), norm="ortho")
    result: NDArray[np.complex64] = fft.fftshift(near, axes=axes).astype(np.complex64)
    return result


def coarse_sides(
    probe: NDArray[np.complex64], *, levels: int | None, photons_per_px: float, least_energy: float = LEAST_ENERGY
) -> list[int]:
    """Sides of the levels below full resolution, the coarsest first (PHY-35).

    Args:
        probe: (K, N, N) complex64.
        levels: Number of levels with the full one; default: as many as hold the probe, where there is light.
        photons_per_px: Photons per illuminated object pixel of the scan.
        least_energy: Fraction of the probe's energy that a level holds at least.

    Returns:
        Sides, each half the next one, the last half of N; empty: full resolution only.
    """
    if levels is None and photons_per_px < LEAST_PHOTONS_PER_PX:
        return []
    sides: list[int] = []
    side = probe.shape[-1] // 2
    energy = float(power_of(probe).sum())
    while side >= LEAST_SIDE_PX and (levels is None or len(sides) < levels - 1):
        if levels is None and float(power_of(level_probe(probe, side)).sum()) < least_energy * energy:
            break
        sides.append(side)
        side //= 2
    return sides[::-1]


def photons_per_pixel(intensity: NDArray[np.float32], photons: float) -> float:
    """Photons per illuminated object pixel.

    Args:
        intensity: (H, W) illumination of the canvas by all patterns.
        photons: Of all patterns.

    >>> photons_per_pixel(np.array([[2.0, 2.0, 0.0]], np.float32), 50.0)
    25.0
    """
    return photons * float(np.square(intensity).sum()) / float(intensity.sum()) ** 2


def on_level(
    object_: NDArray[np.complex64], geometry: CanvasGeometry, to: CanvasGeometry, *, ratio: float
) -> NDArray[np.complex64]:
    """An object on the canvas of a finer level, by cubic splines; outside its own canvas it is empty space, 1.

    Args:
        object_: (h, w) on a canvas of ``geometry``.
        geometry: Frame in the coarse level's pixels.
        to: Frame in the finer level's pixels.
        ratio: Side of the coarse level over that of the finer one.

    Returns:
        (H, W) complex64.
    """
    axes = [
        (np.arange(size) + origin) * ratio - start
        for size, origin, start in zip(to.shape, to.origin_yx_px, geometry.origin_yx_px, strict=True)
    ]
    contrast = ndimage.map_coordinates(object_ - np.complex64(1), np.meshgrid(*axes, indexing="ij"), order=3)
    result: NDArray[np.complex64] = (1 + contrast).astype(np.complex64)
    return result
