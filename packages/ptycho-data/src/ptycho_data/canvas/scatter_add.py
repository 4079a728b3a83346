"""Weighted patches onto an array of sums, at fractional positions (specs/grouping.md, STI-1, STI-6).

Scatter-add is the adjoint of bilinear interpolation, done as real arithmetic on contiguous memory: in
a patch padded by one column and one row, the next pixel to the right or below lies at a fixed
step in memory. A few patches at a time, so that the work stays in the cache. If patches
of one batch lie close together, they are summed in a small array of their own precision first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_WORK_BYTES = 1 << 20
_TILE_PX = 192
_MOST_IN_A_TILE = 256
_SAFE_WEIGHTS = (2.0**-60, 2.0**60)
"""Weights within these limits need no scaling. Reasoned: float32 ends at 2^127, so products with amplitudes and sums of
256 patches have room."""


class ScatterAdd:
    """Work arrays for patches of one size and precision.

    Args:
        N: Side of a patch in pixels.
        real: float32 or float64: precision of the work on a patch, and of sums over at most 256
            patches; their total is float64.
    """

    def __init__(self, N: int, real: np.dtype[Any]) -> None:
        self.N, self.real = N, np.dtype(real)
        side = N + 1
        self._step = max(1, _WORK_BYTES // (side * side * 2 * self.real.itemsize * 4))
        self._padded = np.zeros((self._step, side, 2 * side), self.real)
        self._lines, self._spread, self._part = (np.empty((self._step, side * side * 2), self.real) for _ in range(3))

    def place(
        self,
        numerator: NDArray[np.complex128],
        denominator: NDArray[np.float64],
        patches: NDArray[Any],
        weight: NDArray[Any],
        corners: Indices,
        fractions: NDArray[np.float64],
    ) -> None:
        """Add ``A^T(w p)`` to the numerator and ``A^T(w)`` to the denominator.

        Args:
            numerator, denominator: (H, W), changed in place.
            patches: (n, N, N) complex of this precision.
            weight: (N, N) or (n, N, N) real, of this precision.
            corners, fractions: (n, 2) [y, x], as :func:`ptycho_data.canvas.geometry.corners_and_fractions` gives them.
        """
        scale = _scale(weight)
        weight = (weight / scale).astype(self.real) if scale != 1 else weight.astype(self.real, copy=False)
        shared = (_corner_reads(weight), np.repeat(weight, 2, axis=-1)) if weight.ndim == 2 else None
        pairs = numerator.view(np.float64)
        apart = []
        for rows in _by_tile(corners):
            low = corners[rows].min(axis=0)
            high = np.minimum(corners[rows].max(axis=0) + self.N + 1, denominator.shape)
            (top, left), (height, width) = low, high - low
            if scale == 1 and height * width > len(rows) * (self.N + 1) ** 2:
                apart.append(rows)
                continue
            values, weights = np.zeros((height, 2 * width), self.real), np.zeros((height, width), self.real)
            self._accumulate(values, weights, patches, weight, shared, corners - low, fractions, rows)
            if scale != 1:
                values, weights = values.astype(np.float64) * scale, weights.astype(np.float64) * scale
            pairs[top : top + height, 2 * left : 2 * (left + width)] += values
            denominator[top : top + height, left : left + width] += weights
        if apart:
            self._accumulate(pairs, denominator, patches, weight, shared, corners, fractions, np.concatenate(apart))

    def _accumulate(
        self,
        values: NDArray[Any],
        weights: NDArray[Any],
        patches: NDArray[Any],
        weight: NDArray[Any],
        shared: tuple[NDArray[Any], NDArray[Any]] | None,
        corners: Indices,
        fractions: NDArray[np.float64],
        rows: Indices,
    ) -> None:
        """Add the chosen patches and their weights to two arrays of sums."""
        for start in range(0, len(rows), self._step):
            part = rows[start : start + self._step]
            # Complements in float64: 1 - f in float32 loses all digits where f is nearly 1.
            coefficients = np.concatenate([1 - fractions[part], fractions[part]], axis=1).astype(self.real)
            doubled = np.repeat(weight[part], 2, axis=-1) if shared is None else shared[1]
            _add(values, self._values(patches[part], doubled, coefficients), corners[part], 2)
            spread = (
                self._weights(weight[part], coefficients) if shared is None else self._shared(shared[0], coefficients)
            )
            _add(weights, spread, corners[part], 1)

    def _values(self, patches: NDArray[Any], doubled: NDArray[Any], coefficients: NDArray[Any]) -> NDArray[Any]:
        """Spread ``w p``: (n, N + 1, 2 N + 2), pairs (real, imaginary) in a row."""
        n, side = len(patches), self.N + 1
        pairs = np.ascontiguousarray(patches).view(self.real)
        np.multiply(pairs, doubled, out=self._padded[:n, : self.N, : 2 * self.N])
        return self._spread_out(self._padded[:n].reshape(n, -1), 2, coefficients).reshape(n, side, 2 * side)

    def _weights(self, weight: NDArray[Any], coefficients: NDArray[Any]) -> NDArray[Any]:
        """Spread weights of their own patch each: (n, N + 1, N + 1)."""
        n, side = len(weight), self.N + 1
        padded = np.zeros((n, side, side), self.real)
        padded[:, : self.N, : self.N] = weight
        return self._spread_out(padded.reshape(n, -1), 1, coefficients).reshape(n, side, side)

    def _shared(self, reads: NDArray[Any], coefficients: NDArray[Any]) -> NDArray[Any]:
        """Spread copies of one weight: (n, N + 1, N + 1), four shifted weights with bilinear coefficients."""
        side = self.N + 1
        up, left, down, right = (coefficients[:, column : column + 1] for column in range(4))
        products = np.concatenate([up * left, up * right, down * left, down * right], axis=1)
        return np.asarray(products @ reads).reshape(len(coefficients), side, side)

    def _spread_out(self, padded: NDArray[Any], width: int, coefficients: NDArray[Any]) -> NDArray[Any]:
        """Padded patches (n, side * side * width) distributed to the next column, then to the next row."""
        n, size = padded.shape
        lines, spread, part = (work[:n, :size] for work in (self._lines, self._spread, self._part))
        up, left, down, right = (coefficients[:, column : column + 1] for column in range(4))
        row = width * (self.N + 1)
        for source, target, stays, goes, step in ((padded, lines, left, right, width), (lines, spread, up, down, row)):
            np.multiply(source, stays, out=target)
            moved = np.multiply(source[:, :-step], goes, out=part[:, :-step])
            target[:, step:] += moved
        return spread


def _add(sums: NDArray[np.float64], spread: NDArray[Any], corners: Indices, width: int) -> None:
    """Add each spread patch at its corner of an array of ``width`` numbers per pixel."""
    side = spread.shape[1]
    height, across = sums.shape[0], sums.shape[1] // width
    for patch, (top, left) in zip(spread, corners.tolist(), strict=True):
        # On a canvas that ends with a patch at an integer position the further row and column are zero.
        rows, columns = min(side, height - top), min(side, across - left)
        window = sums[top : top + rows, width * left : width * (left + columns)]
        np.add(window, patch[:rows, : width * columns], out=window)


def _corner_reads(weight: NDArray[Any]) -> NDArray[Any]:
    """(4, (N + 1)^2): the weight at [0, 0], [0, 1], [1, 0], [1, 1], in the order of the bilinear coefficients."""
    N = len(weight)
    reads = np.zeros((4, N + 1, N + 1), weight.dtype)
    for number, (down, right) in enumerate(np.ndindex(2, 2)):
        reads[number, down : down + N, right : right + N] = weight
    return reads.reshape(4, -1)


def _scale(weight: NDArray[Any]) -> float:
    """A power of two that scales weights of unusual units to avoid overflow in float32; else 1."""
    largest = float(weight.max())
    if largest == 0 or _SAFE_WEIGHTS[0] < largest < _SAFE_WEIGHTS[1]:
        return 1.0
    return float(2.0 ** np.floor(np.log2(largest)))


def _by_tile(corners: Indices) -> Iterator[Indices]:
    """Numbers of patches that start in the same tile of the canvas, in the order given."""
    tiles = corners // _TILE_PX
    number = tiles[:, 0] * (tiles[:, 1].max() + 1) + tiles[:, 1]
    order = np.argsort(number, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        for start in range(0, len(rows), _MOST_IN_A_TILE):
            yield rows[start : start + _MOST_IN_A_TILE]
