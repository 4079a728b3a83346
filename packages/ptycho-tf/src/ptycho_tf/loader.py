"""Groups of a store or scan to batches of tensors, as a ``tf.data.Dataset`` (specs/store.md, BATCH)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Batch, Groups
from ptycho_data.batches import PatternSource, gather

from ptycho_tf.framework import tf
from ptycho_tf.reading import read_ahead

Arrays = dict[str, NDArray[Any]]


class GroupDataset:
    """Batches of groups, read on demand.

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

    def __getitem__(self, rows: Any) -> Arrays:
        batch = gather(self.source, self.groups, np.asarray(rows), mean_counts=self.mean_counts)
        return {row.name: getattr(batch, row.name) for row in fields(batch)}

    @property
    def signature(self) -> dict[str, tf.TensorSpec]:
        """Shapes and dtypes of a batch of any number of groups."""
        C, N = self.groups.nn_indices.shape[1], self.source.N
        sizes = {"counts": (C, N, N), "nn_indices": (C,), "coords_offsets": (1, 2, 1), "coords_relative": (1, 2, C),
                 "mean_counts": ()}  # fmt: skip
        return {
            row.name: tf.TensorSpec((None, *sizes[row.name]), tf.int64 if row.name == "nn_indices" else tf.float32)
            for row in fields(Batch)
        }


def make_loader(
    dataset: GroupDataset,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    num_workers: int = 0,
    prefetch_factor: int | None = None,
) -> tf.data.Dataset:
    """Dataset of whole batches. The order of its n-th pass depends on ``seed`` and n alone.

    Args:
        num_workers: Threads that read batches ahead of the training; 0 reads each when it is asked for.
        prefetch_factor: Batches that each thread reads ahead; 2 where not given.
    """
    passes = itertools.count()

    def batches() -> Iterator[Arrays]:
        order = np.arange(len(dataset))
        if shuffle:
            order = np.random.default_rng((seed, next(passes))).permutation(order)
        rows = (order[first : first + batch_size] for first in range(0, len(order), batch_size))
        return read_ahead(dataset.__getitem__, rows, workers=num_workers, each=prefetch_factor or 2)

    found = tf.data.Dataset.from_generator(batches, output_signature=dataset.signature)
    return found.apply(tf.data.experimental.assert_cardinality(-(-len(dataset) // batch_size)))
