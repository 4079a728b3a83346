"""Groups of a store or scan to batches of tensors (specs/store.md, BATCH)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_data.batches import GroupBatches
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


class GroupDataset(GroupBatches, Dataset[dict[str, Tensor]]):
    """Batches of groups as tensors; pickled as the path of its store, so that workers use the same memory pages."""

    @classmethod
    def of(cls, groups: GroupBatches) -> GroupDataset:
        """The same groups, as tensors."""
        return cls(groups.source, groups.groups, mean_counts=groups.mean_counts, truth=groups.truth)

    def __getitem__(self, rows: Any) -> dict[str, Tensor]:
        return tensors(self.arrays(rows))


def tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """The arrays of a batch as tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


class BatchOrder(Sampler[list[int]]):
    """Groups of each batch of an epoch: a function of seed and epoch alone.

    With several processes every batch is split over them, so that together they take the steps of one process
    (TRN-10); each process always has at least one group.

    Args:
        count: Number of groups.
        batch_size: Groups per step of each process.
        shuffle: Whether each epoch has its own order.
        seed: Seed of the orders.
    """

    def __init__(self, count: int, *, batch_size: int, shuffle: bool, seed: int) -> None:
        self._count, self._batch_size, self._shuffle, self._seed = count, batch_size, shuffle, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch; default: counted up from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self._count / (self._batch_size * _world()[1]))

    def __iter__(self) -> Iterator[list[int]]:
        rank, processes = _world()
        order = np.arange(self._count)
        if self._shuffle:
            order = np.random.default_rng((self._seed, self._epoch)).permutation(order)
        self._epoch += 1
        step = self._batch_size * processes
        for first in range(0, self._count, step):
            batch = order[first : first + step]
            mine = batch[rank::processes]
            yield (mine if len(mine) else batch[rank % len(batch)][None]).tolist()


def _world() -> tuple[int, int]:
    """Number of this process, and how many train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def make_loader(
    dataset: GroupDataset,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    num_workers: int = 0,
    prefetch_factor: int | None = None,
) -> DataLoader[dict[str, Tensor]]:
    """Loader of whole batches; order depends on ``seed`` alone, not on the number of workers."""
    return DataLoader(
        dataset,
        sampler=BatchOrder(len(dataset), batch_size=batch_size, shuffle=shuffle, seed=seed),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        persistent_workers=num_workers > 0,
        # For the workers' own seeds, so that torch's generator stays untouched.
        generator=torch.Generator().manual_seed(seed),
    )
