"""The pixels that count (specs/metrics.md, MET-2 and MET-13)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

WEIGHT_FRACTION = 0.1
"""Least weight of a scanned pixel, in units of the median positive weight."""


def scanned_area(weight: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels whose weight is above ``WEIGHT_FRACTION`` of the median positive weight.

    Args:
        weight: (H, W) summed illumination, or a boolean mask that is returned as it is.

    Raises:
        ContractError: no positive weight, or values that are not finite.
    """
    array = np.asarray(weight)
    if array.dtype == bool:
        return array
    if not np.isfinite(array).all():
        raise ContractError(
            Problem("weight", "array.not_finite", "finite weights", "NaN or infinite values", "correct the weight map")
        )
    positive = array[array > 0]
    if positive.size == 0:
        raise no_area("weight", "no positive weight")
    area: NDArray[np.bool_] = array > WEIGHT_FRACTION * np.median(positive)
    return area


def no_area(where: str, found: str) -> ContractError:
    """The error for two images that share no pixel to score."""
    return ContractError(
        Problem(where, "metrics.area", "pixels that were scanned in both images", found, "check origins and weights")
    )


def largest_rectangle(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the largest rectangle of True pixels; empty slices if there is none.

    Row by row, each column's run of True pixels above is a bar; the largest rectangle under the
    bars is found with a stack of rising bars, in time linear in the pixels.
    """
    best, box = 0, (slice(0, 0), slice(0, 0))
    heights = np.zeros(mask.shape[1], int)
    for bottom, row in enumerate(mask):
        heights = np.where(row, heights + 1, 0)
        stack: list[tuple[int, int]] = []  # (first column, height), heights rising
        for column, height in enumerate([*heights.tolist(), 0]):
            first = column
            while stack and stack[-1][1] >= height:
                first, bar = stack.pop()
                if bar * (column - first) > best:
                    best = bar * (column - first)
                    box = (slice(bottom + 1 - bar, bottom + 1), slice(first, column))
            stack.append((first, height))
    return box
