"""Groups of a store or scan to batches of tensors, as a ``tf.data.Dataset`` (specs/store.md, BATCH)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Batch, Groups
from ptycho_data.batches.gathering import GroupSource, gather
from ptycho_data.batches.read_ahead import read_ahead

from ptycho_tf.framework import tf
from ptycho_tf.replicas import deal

Arrays = dict[str, NDArray[Any]]


class GroupDataset:
    """Batches of groups, read on demand.

    Args:
        source: Scan or store.
        groups: Its groups.
        mean_counts: Mean photons a pattern by value of ``scan_index``, of the patterns that are used.
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

    def __getitem__(self, rows: Any) -> Arrays:
        batch = gather(self.source, self.groups, np.asarray(rows), mean_counts=self.mean_counts, truth=self.truth)
        arrays = {row.name: getattr(batch, row.name) for row in fields(batch)}
        return {name: array for name, array in arrays.items() if array is not None}

    @property
    def signature(self) -> dict[str, tf.TensorSpec]:
        """Shapes and dtypes of a batch of any number of groups."""
        C, N = self.groups.nn_indices.shape[1], self.source.N
        sizes = {
            "counts": (C, N, N),
            "nn_indices": (C,),
            "coords_offsets": (1, 2, 1),
            "coords_relative": (1, 2, C),
            "mean_counts": (),
            "truth": (C, N, N),
        }
        dtypes = {"nn_indices": tf.int64, "truth": tf.complex64}
        return {
            row.name: tf.TensorSpec((None, *sizes[row.name]), dtypes.get(row.name, tf.float32))
            for row in fields(Batch)
            if row.name != "truth" or self.truth
        }


def make_loader(
    dataset: GroupDataset,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    first_pass: int = 0,
    devices: int = 1,
    num_workers: int = 0,
    prefetch_factor: int | None = None,
) -> tf.data.Dataset:
    """Dataset of whole batches. The order of its n-th pass depends on ``seed`` and n alone.

    Args:
        batch_size: Groups a step of each device.
        first_pass: Number of the first pass.
        devices: Devices that train together: a step's batches follow each other, one for each. With more than one, pass
            follows pass without an end.
        num_workers: Threads that read batches ahead of the training; 0 reads each when it is asked for.
        prefetch_factor: Batches that each thread reads ahead; 2 where not given.
    """
    passes, step = itertools.count(first_pass), batch_size * devices

    def rows_of(number: int) -> Iterator[NDArray[np.int64]]:
        order = np.arange(len(dataset))
        if shuffle:
            order = np.random.default_rng((seed, number)).permutation(order)
        for first in range(0, len(order), step):
            yield from deal(order[first : first + step], devices)

    def batches() -> Iterator[Arrays]:
        # Several devices read ahead, over the end of a pass: passes are then counted by the reader, not by the calls.
        numbers = [next(passes)] if devices == 1 else itertools.count(first_pass)
        rows = itertools.chain.from_iterable(map(rows_of, numbers))
        return read_ahead(dataset.__getitem__, rows, workers=num_workers, each=prefetch_factor or 2)

    found = tf.data.Dataset.from_generator(batches, output_signature=dataset.signature)
    if devices > 1:
        return found
    return found.apply(tf.data.experimental.assert_cardinality(-(-len(dataset) // batch_size)))
