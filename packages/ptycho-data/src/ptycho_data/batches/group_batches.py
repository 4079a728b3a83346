"""Batches of groups as arrays by name; what every backend's loader reads (specs/store.md, BATCH)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Groups

from ptycho_data.batches.gathering import GroupSource, gather
from ptycho_data.canvas.geometry import group_canvas_shape

CANVAS_MULTIPLE = 8
"""Sides of group canvases are multiples of this: the networks halve them three times."""


class GroupBatches:
    """Batches of groups, read on demand.

    Args:
        source: Scan or store.
        groups: Its groups.
        mean_counts: Mean photons per pattern by value of ``scan_index``, of the patterns that are used.
        truth: Whether batches hold the true object under each pattern, too.
    """

    def __init__(
        self, source: GroupSource, groups: Groups, *, mean_counts: Mapping[int, float], truth: bool = False
    ) -> None:
        self.source = source
        self.groups = groups
        self.mean_counts = dict(mean_counts)
        self.truth = truth

    def __len__(self) -> int:
        return len(self.groups)

    def arrays(self, rows: Any) -> dict[str, NDArray[Any]]:
        """Arrays of the groups at ``rows`` by the names of :class:`ptycho_contracts.records.Batch`; none is None."""
        batch = gather(self.source, self.groups, np.asarray(rows), mean_counts=self.mean_counts, truth=self.truth)
        arrays = {row.name: getattr(batch, row.name) for row in fields(batch)}
        return {name: array for name, array in arrays.items() if array is not None}

    @property
    def channels(self) -> int:
        """Patterns per group."""
        return int(self.groups.nn_indices.shape[1])

    @property
    def canvas_shape(self) -> tuple[int, int]:
        """(H, W) of a canvas that holds any of the groups."""
        return group_canvas_shape(self.groups.coords_relative, self.source.N, multiple=CANVAS_MULTIPLE)

    def mean(self, batch_size: int, value: Callable[[dict[str, NDArray[Any]]], float]) -> float:
        """Mean over the groups of a value of batches."""
        total = 0.0
        for first in range(0, len(self), batch_size):
            batch = self.arrays(np.arange(first, min(first + batch_size, len(self))))
            total += value(batch) * len(batch["counts"])
        return total / len(self)


def common_canvas_shape(*parts: GroupBatches) -> tuple[int, int]:
    """(H, W) of a canvas that holds any group of any of these."""
    heights, widths = zip(*(part.canvas_shape for part in parts), strict=True)
    return max(heights), max(widths)
