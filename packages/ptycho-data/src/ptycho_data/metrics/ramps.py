"""Linear phase ramps of images, and peaks of periodic arrays (specs/metrics.md, MET-3, MET-4 and MET-7)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Vector = NDArray[np.float64]
_ITERATIONS = 30


def without_ramp(image: NDArray[Any], ramp_yx: Vector, centre_yx: Vector) -> NDArray[np.complex128]:
    """``image * exp(-i ramp . (r - centre))``."""
    y, x = (np.arange(image.shape[axis]) - centre_yx[axis] for axis in (0, 1))
    turned: NDArray[np.complex128] = image * np.exp(-1j * ramp_yx[0] * y)[:, None] * np.exp(-1j * ramp_yx[1] * x)
    return turned


def own_ramp(image: NDArray[Any], mask: NDArray[np.bool_], centre_yx: Vector) -> Vector:
    """Ramp k that maximises ``|sum image exp(-i k . r)|`` over the mask: which makes the image most uniform.

    Args:
        image: (H, W) complex.
        mask: (H, W) bool.
        centre_yx: Where the ramp's phase is 0.

    Returns:
        (2,) float64, [y, x], radians per pixel.
    """
    masked = np.where(mask, image, 0).astype(np.complex128)
    starts = [np.zeros(2), ramp_of_peak(masked)]
    start = max(starts, key=lambda ramp: abs(without_ramp(masked, ramp, centre_yx).sum()))
    return _climb(masked, start, centre_yx)


def ramp_of_peak(product: NDArray[np.complex128]) -> Vector:
    """Ramp of the highest peak of an image's transform, to a fraction of a cycle across the image.

    A registration in Fourier space, as of shifts by cross-correlation [Registration].
    """
    size = [fft.next_fast_len(2 * length) for length in product.shape]
    ramp: Vector = 2 * np.pi * peak(np.abs(fft.fft2(product, size))) / size
    return ramp


def peak(values: NDArray[np.float64]) -> Vector:
    """Signed [y, x] index of the largest value of a periodic array, refined by parabolas."""
    where = np.unravel_index(int(np.argmax(values)), values.shape)
    position = np.zeros(2)
    for axis, size in enumerate(values.shape):
        line = np.take(values, where[1 - axis], axis=1 - axis)
        below, here, above = (line[(where[axis] + step) % size] for step in (-1, 0, 1))
        bend = below - 2 * here + above
        position[axis] = where[axis] + (0.5 * (below - above) / bend if bend < 0 else 0.0)
        if position[axis] > size / 2:
            position[axis] -= size
    return position


def _climb(image: NDArray[np.complex128], ramp: Vector, centre_yx: Vector) -> Vector:
    """Newton's method on ``log |S|``, S = sum image exp(-i k r): gradient Im(M1 / S), M1 = sum r image exp(-i k r)."""
    y, x = (np.arange(image.shape[axis]) - centre_yx[axis] for axis in (0, 1))
    best = -np.inf
    for _ in range(_ITERATIONS):
        turned = without_ramp(image, ramp, centre_yx)
        total = turned.sum()
        if total == 0 or abs(total) < best:
            break
        best = abs(total) * (1 - 1e-13)
        rows, columns = turned.sum(axis=1), turned.sum(axis=0)
        first = np.array([y @ rows, x @ columns]) / total
        mixed = y @ turned @ x
        second = np.array([[(y**2) @ rows, mixed], [mixed, (x**2) @ columns]]) / total
        hessian = (np.outer(first, first) - second).real
        if np.linalg.eigvalsh(hessian).max() >= 0:  # no maximum nearby: keep the start value
            break
        step = -np.linalg.solve(hessian, first.imag)
        ramp = ramp + step
        if np.abs(step).max() * max(image.shape) < 1e-12:
            break
    return ramp
