"""Far-field residual and its Poisson floor (specs/metrics.md, MET-17 and MET-18)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from scipy import special
from scipy.interpolate import CubicSpline

_LARGE = 100.0
"""Mean counts above which the asymptotic series replaces the interpolated sum over n."""
_BLOCK_VALUES = 1 << 20


@dataclass
class ResidualSum:
    """Running ``R = sum |sqrt n - sqrt I|^2 / sum n`` of counts that come in chunks.

    Attributes:
        numerator: ``sum |sqrt n - sqrt I|^2`` so far.
        counts: ``sum n`` so far.
    """

    numerator: float = 0.0
    counts: float = 0.0

    def add(
        self,
        measured_counts: NDArray[Any],
        simulated_counts: NDArray[Any],
        *,
        bad_pixels: NDArray[np.bool_] | None = None,
    ) -> ResidualSum:
        """Add a chunk of patterns and return self.

        Args:
            measured_counts, simulated_counts: (..., N, N) counts, any real dtype.
            bad_pixels: (N, N) bool, True where a pixel is ignored.

        Raises:
            ContractError: shapes that differ, negative or non-finite good pixels.
        """
        measured = _checked("measured_counts", measured_counts, bad_pixels)
        simulated = _checked("simulated_counts", simulated_counts, bad_pixels)
        if measured.shape != simulated.shape:
            raise ContractError(
                Problem(
                    "simulated_counts",
                    "array.shape",
                    f"shape {measured.shape}",
                    f"shape {simulated.shape}",
                    "simulate the same patterns",
                )
            )
        self.numerator += float(np.sum((np.sqrt(measured) - np.sqrt(simulated)) ** 2))
        self.counts += float(measured.sum())
        return self

    @property
    def value(self) -> float | None:
        """R, or None if no counts were measured."""
        return self.numerator / self.counts if self.counts > 0 else None


def residual(
    measured_counts: NDArray[Any], simulated_counts: NDArray[Any], *, bad_pixels: NDArray[np.bool_] | None = None
) -> float | None:
    """``R = sum |sqrt n - sqrt I|^2 / sum n``; None if nothing was measured. See :class:`ResidualSum`.

    >>> residual(np.array([[4.0, 1.0]]), np.array([[1.0, 1.0]]))
    0.2
    """
    total = ResidualSum()
    for measured, simulated in _blocks(measured_counts, simulated_counts):
        total.add(measured, simulated, bad_pixels=bad_pixels)
    return total.value


def poisson_floor(simulated_counts: NDArray[Any], *, bad_pixels: NDArray[np.bool_] | None = None) -> float | None:
    """Residual that photon noise alone leaves: ``sum f(I) / sum I``, ``f(I) = E (sqrt n - sqrt I)^2``.

    Args:
        simulated_counts: (..., N, N) expected counts of the patterns.
        bad_pixels: (N, N) bool, True where a pixel is ignored.

    Returns:
        The floor, or None if no counts are expected.

    Raises:
        ContractError: negative or non-finite counts.
    """
    noise = total = 0.0
    for (block,) in _blocks(simulated_counts):
        counts = _checked("simulated_counts", block, bad_pixels)
        noise += float(expected_square_error(counts).sum())
        total += float(counts.sum())
    return noise / total if total > 0 else None


def expected_square_error(mean_counts: NDArray[Any]) -> NDArray[np.float64]:
    """``E (sqrt n - sqrt I)^2`` for n Poisson with mean I: near 2 I where I is small, 1/4 where it is large.

    Args:
        mean_counts: I, of any shape, not negative.

    Returns:
        float64 of the same shape, relative error below 1e-6.
    """
    mean = np.asarray(mean_counts, np.float64)
    large = mean > _LARGE
    safe = np.where(large, mean, _LARGE)
    # E sqrt n = sqrt I (1 - 1/(8 I) - 7/(128 I^2) - 75/(1024 I^3) - 5509/(32768 I^4) - ...), from the central
    # moments of the Poisson distribution.
    series = 1 / 4 + (7 / 64 + (75 / 512 + 5509 / 16384 / safe) / safe) / safe
    small = np.where(large, 0.0, mean)
    return np.where(large, series, small * _relative_error()(np.sqrt(small)))


@lru_cache(maxsize=1)
def _relative_error() -> CubicSpline:
    """``f(I) / I = 2 (1 - E sqrt n / sqrt I)`` over sqrt(I) for I up to ``_LARGE``, from the sum over n."""
    root = np.linspace(0.0, np.sqrt(_LARGE), 4097)
    mean, n = root[:, None] ** 2, np.arange(1, 300)[None, :]
    # sqrt(n) P(n) / sqrt(I), with one power of I divided out: finite at I = 0
    terms = np.exp(special.xlogy(n - 1, mean) - mean - special.gammaln(n + 1)) * np.sqrt(n)
    return CubicSpline(root, 2 * (1 - root * terms.sum(axis=1)))


def _checked(name: str, counts: NDArray[Any], bad_pixels: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    array = np.asarray(counts)
    if bad_pixels is not None:
        if array.shape[-2:] != bad_pixels.shape:
            raise ContractError(
                Problem(
                    "bad_pixels",
                    "array.shape",
                    f"shape {array.shape[-2:]}",
                    f"shape {bad_pixels.shape}",
                    "give one flag per detector pixel",
                )
            )
        array = array[..., ~bad_pixels]
    values = array.astype(np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ContractError(
            Problem(
                name,
                "array.minimum",
                "finite counts >= 0",
                "negative, NaN or infinite values",
                "mark such pixels in bad_pixels",
            )
        )
    return values


def _blocks(*arrays: NDArray[Any]) -> Any:
    """Arrays of patterns in chunks of bounded memory; single patterns as they are."""
    if arrays[0].ndim < 3 or any(len(array) != len(arrays[0]) for array in arrays):
        yield arrays
        return
    step = max(1, _BLOCK_VALUES * len(arrays[0]) // max(1, arrays[0].size))
    for start in range(0, len(arrays[0]), step):
        yield tuple(array[start : start + step] for array in arrays)
