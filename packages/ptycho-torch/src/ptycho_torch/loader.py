"""Groups of a store or scan to batches of tensors (specs/store.md, BATCH)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.records import Batch, Groups
from ptycho_data.batches import PatternSource, gather
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler


class GroupDataset(Dataset[dict[str, Tensor]]):
    """Batches of groups, read on demand; pickles as the path of its store, so that workers share the pages.

    Args:
        source: Scan or store.
        groups: Its groups.
        mean_counts: Mean photons a pattern by value of ``scan_index``, of the patterns that are used.
    """

    def __init__(self, source: PatternSource, groups: Groups, *, mean_counts: Mapping[int, float]) -> None:
        self.source = source
        self.groups = groups
        self.mean_counts = dict(mean_counts)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, rows: Any) -> dict[str, Tensor]:
        return tensors(gather(self.source, self.groups, np.asarray(rows), mean_counts=self.mean_counts))


def tensors(batch: Batch) -> dict[str, Tensor]:
    """Tensors of a batch, by the names of its fields."""
    return {row.name: torch.from_numpy(np.ascontiguousarray(getattr(batch, row.name))) for row in fields(batch)}


def subset(groups: Groups, rows: NDArray[np.int64]) -> Groups:
    """Some of the groups."""
    return Groups(**{row.name: getattr(groups, row.name)[rows] for row in fields(groups)})


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
    generator = torch.Generator().manual_seed(seed)
    order = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    return DataLoader(
        dataset,
        sampler=BatchSampler(order, batch_size, drop_last=False),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        persistent_workers=num_workers > 0,
        generator=generator,
    )
