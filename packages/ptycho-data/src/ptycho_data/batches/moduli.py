"""Measured moduli of subsets of the patterns, as an explicit stream (specs/training.md, IMG-1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ptycho_data.batches.gathering import PatternSource
from ptycho_data.batches.read_ahead import read_ahead
from ptycho_data.canvas.levels import central_part
from ptycho_data.stages import Picture, Progress, tell

_KEPT_BYTES = 1 << 30
"""Most memory for the moduli of a coarse level, which many passes read."""


def normalised_intensity(counts: NDArray[Any], mean_counts: float) -> NDArray[np.float32]:
    """Counts (..., N, N) in units of the mean counts, zero frequency moved from [N // 2, N // 2] to [0, 0]."""
    moved: NDArray[np.float32] = np.fft.ifftshift(counts, axes=(-2, -1))
    return moved / np.float32(mean_counts)


class ModuliStream:
    """Moduli of the subsets of some patterns, pass after pass: subset 0, 1, ... S - 1, then 0 again.

    Memory is that of a few subsets. It is a context manager: leaving it ends the readers.

    Args:
        source: Scan or store.
        subsets: Indices of patterns of the source.
        passes: How often all subsets are read.
        mean_counts: Mean photons per pattern.
        side: Of the central part of the patterns that is read (PHY-34); default: all of them. Moduli of a part are
            kept for further passes where that takes at most 1 GiB.
        workers: Threads that read subsets ahead.
        progress: Called as ``progress("inference", subsets done, subsets in all)``.

    Attributes:
        mean_counts: As given.
        picture: Gives the object as it is, to who watches the progress; default: none.
    """

    def __init__(
        self,
        source: PatternSource,
        subsets: Sequence[NDArray[np.int64]],
        *,
        passes: int,
        mean_counts: float,
        side: int | None = None,
        workers: int = 0,
        progress: Progress | None = None,
    ) -> None:
        part = source.N if side is None else side
        keeps = part < source.N and sum(map(len, subsets)) * part**2 * 4 <= _KEPT_BYTES
        self._side = part
        self._kept: dict[int, NDArray[np.float32]] | None = {} if keeps else None
        self._counts = read_ahead(source.counts, list(subsets) * (1 if keeps else passes), workers=workers)
        self._subsets, self.mean_counts, self._progress = len(subsets), mean_counts, progress
        self._done, self._steps = 0, len(subsets) * passes
        self.picture: Callable[[], Picture] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._counts.close()

    def read(self, subset: int) -> NDArray[np.float32]:
        """(n, side, side) moduli of the next subset, for a probe of unit energy, zero frequency at [0, 0].

        Args:
            subset: Its number; it must be the next one in order.

        Raises:
            IndexError: not the next subset in order, or all passes are read.
        """
        if self._done >= self._steps or subset != self._done % self._subsets:
            due = "none: all passes are read" if self._done >= self._steps else f"subset {self._done % self._subsets}"
            raise IndexError(f"a stream of moduli is read in order: expected {due}, found subset {subset}")
        moduli = None if self._kept is None else self._kept.get(subset)
        if moduli is None:
            counts = central_part(next(self._counts), self._side)
            moduli = np.sqrt(normalised_intensity(counts, self.mean_counts))
            if self._kept is not None:
                self._kept[subset] = moduli
        self._done += 1
        tell(self._progress, "inference", self._done, self._steps, picture=self.picture)
        return moduli
