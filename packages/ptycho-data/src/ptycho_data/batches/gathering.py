"""Groups with their photon counts, from a store or a Scan alike (specs/store.md, BATCH)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Batch, Groups

from ptycho_data.batches.truths import TruthSource, truth_patches

_BLOCK_PIXELS = 1 << 22


class PatternSource(Protocol):
    """What a Scan and a Store have in common."""

    @property
    def N(self) -> int: ...
    @property
    def scan_index(self) -> NDArray[np.int64]: ...
    @property
    def bad_pixels(self) -> NDArray[np.bool_] | None: ...
    def __len__(self) -> int: ...
    def counts(self, index: Any = ...) -> NDArray[np.float32]:
        """Photon counts of the chosen patterns."""


class GroupSource(PatternSource, TruthSource, Protocol):
    """What groups are read from: a Scan or a Store."""


def mean_counts(source: PatternSource, *, allowed: Any | None = None) -> dict[int, float]:
    """Mean photons per pattern of each scan, over good pixels, summed in float64.

    Args:
        source: Scan or Store.
        allowed: Indices of the patterns that count, such as those that are not held out; default: all.

    Returns:
        Value of ``scan_index`` -> mean counts per pattern of that scan's allowed patterns.
    """
    chosen = np.arange(len(source)) if allowed is None else np.sort(np.asarray(allowed, dtype=np.int64))
    scan_index = np.asarray(source.scan_index)[chosen]
    good = None if source.bad_pixels is None else ~np.asarray(source.bad_pixels)
    photons = np.empty(len(chosen), np.float64)
    step = max(1, _BLOCK_PIXELS // source.N**2)
    for start in range(0, len(chosen), step):
        block = source.counts(chosen[start : start + step])
        pixels = block.reshape(len(block), -1) if good is None else block[:, good]
        photons[start : start + step] = pixels.sum(axis=1, dtype=np.float64)
    return {int(scan): float(photons[scan_index == scan].mean()) for scan in np.unique(scan_index)}


def gather(
    source: GroupSource, groups: Groups, rows: Any, *, mean_counts: Mapping[int, float], truth: bool = False
) -> Batch:
    """Read the patterns of some groups.

    Args:
        source: Scan or Store that the groups were made from.
        groups: All groups.
        rows: Which groups: a slice, or integers.
        mean_counts: Mean photons per pattern by value of ``scan_index``, of the training patterns.
        truth: Also read the true object under each pattern.

    Returns:
        Batch: counts (n, C, N, N) float32, whatever the storage dtype and unit.

    Raises:
        ContractError: groups of another source, a scan without mean counts, or one without the truth asked for.
    """
    indices = groups.nn_indices[rows]
    if indices.size and int(indices.max()) >= len(source):
        raise ContractError(
            Problem(
                "gather: groups",
                "groups.range",
                f"indices below {len(source)}, the number of patterns",
                str(int(indices.max())),
                "use groups made from this scan",
            )
        )
    scans = np.asarray(source.scan_index)[indices[:, 0]]
    unknown = sorted({int(scan) for scan in scans} - set(mean_counts))
    if unknown:
        raise ContractError(
            Problem(
                "gather: mean_counts",
                "batch.mean_counts",
                "the mean counts of every scan of the groups",
                f"none for scan {unknown}",
                "compute them with mean_counts(source)",
            )
        )
    n, C = indices.shape
    return Batch(
        counts=source.counts(indices.ravel()).reshape(n, C, source.N, source.N),
        nn_indices=indices,
        coords_offsets=groups.coords_offsets[rows],
        coords_relative=groups.coords_relative[rows],
        mean_counts=np.array([mean_counts[int(scan)] for scan in scans], np.float32),
        truth=truth_patches(source, indices.ravel()).reshape(n, C, source.N, source.N) if truth else None,
    )
