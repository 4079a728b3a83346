"""An image as a quintic B-spline, read on a shifted pixel grid (specs/metrics.md, MET-1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import BSpline

_ORDER = 5
_TAPS = np.arange(-2, 4)  # coefficients that a point in [0, 1) touches
_BASIS = BSpline.basis_element(np.arange(-3, 4), extrapolate=False)
_SLOPE = _BASIS.derivative()


class SplineImage:
    """Complex image that can be read at any one shift, with exact derivatives.

    Beyond its border the image is mirrored; ``inside`` says which pixels are its own.
    """

    def __init__(self, image: NDArray[Any]) -> None:
        self.shape = image.shape
        parts = (ndimage.spline_filter(part, order=_ORDER, mode="mirror") for part in (image.real, image.imag))
        real, imaginary = parts
        self._coefficients = real + 1j * imaginary

    def read(
        self, start_yx: NDArray[np.float64], shape: tuple[int, int]
    ) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.complex128]]:
        """Value, y derivative and x derivative at ``start_yx + [i, j]``, each of the given shape."""
        corner = np.floor(start_yx).astype(int)
        fraction = start_yx - corner
        rows, columns = (
            _mirror(corner[axis] + _TAPS[0] + np.arange(shape[axis] + len(_TAPS) - 1), self.shape[axis])
            for axis in (0, 1)
        )
        block = self._coefficients[np.ix_(rows, columns)]
        value_y, slope_y = (_weigh(block, weights, axis=0) for weights in _weights(fraction[0]))
        (at_x, along_x) = _weights(fraction[1])
        return _weigh(value_y, at_x, axis=1), _weigh(slope_y, at_x, axis=1), _weigh(value_y, along_x, axis=1)

    def inside(self, start_yx: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Which of the pixels at ``start_yx + [i, j]`` lie between the image's first and last."""
        y, x = (start_yx[axis] + np.arange(shape[axis]) for axis in (0, 1))
        slack = 1e-9  # a sum of floats may miss the last pixel by rounding
        good_y = (y >= -slack) & (y <= self.shape[0] - 1 + slack)
        good_x = (x >= -slack) & (x <= self.shape[1] - 1 + slack)
        inside: NDArray[np.bool_] = good_y[:, None] & good_x[None, :]
        return inside


def _weights(fraction: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points = fraction - _TAPS
    return np.nan_to_num(_BASIS(points)), np.nan_to_num(_SLOPE(points))


def _weigh(block: NDArray[np.complex128], weights: NDArray[np.float64], *, axis: int) -> NDArray[np.complex128]:
    size = block.shape[axis] - len(weights) + 1
    total = np.zeros((size, block.shape[1]) if axis == 0 else (block.shape[0], size), np.complex128)
    for first, weight in enumerate(weights):
        total += weight * (block[first : first + size] if axis == 0 else block[:, first : first + size])
    return total


def _mirror(index: NDArray[np.int_], size: int) -> NDArray[np.int_]:
    if size == 1:
        return np.zeros_like(index)
    folded = np.abs(index) % (2 * size - 2)
    mirrored: NDArray[np.int_] = np.where(folded < size, folded, 2 * size - 2 - folded)
    return mirrored
