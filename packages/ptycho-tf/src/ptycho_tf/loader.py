"""Groups of a store or scan to batches of tensors, as a ``tf.data.Dataset`` (specs/store.md, BATCH)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Batch
from ptycho_data.batches import GroupBatches, read_ahead

from ptycho_tf.framework import tf
from ptycho_tf.replicas import deal

Arrays = dict[str, NDArray[Any]]


def signature_of(groups: GroupBatches) -> dict[str, tf.TensorSpec]:
    """Shapes and dtypes of a batch of any number of groups."""
    C, N = groups.channels, groups.source.N
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
        if row.name != "truth" or groups.truth
    }


def make_loader(
    groups: GroupBatches,
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
        batch_size: Groups per step of each device.
        first_pass: Number of the first pass.
        devices: Devices that train together: a step's batches follow each other, one for each. With more than one, pass
            follows pass without an end.
        num_workers: Threads that read batches ahead of the training; 0 reads each when it is needed.
        prefetch_factor: Batches that each thread reads ahead; default: 2.
    """
    passes, step = itertools.count(first_pass), batch_size * devices

    def rows_of(number: int) -> Iterator[NDArray[np.int64]]:
        order = np.arange(len(groups))
        if shuffle:
            order = np.random.default_rng((seed, number)).permutation(order)
        for first in range(0, len(order), step):
            yield from deal(order[first : first + step], devices)

    def batches() -> Iterator[Arrays]:
        # Several devices read ahead, beyond the end of a pass: then the reader counts the passes, not the calls.
        numbers = [next(passes)] if devices == 1 else itertools.count(first_pass)
        rows = itertools.chain.from_iterable(map(rows_of, numbers))
        return read_ahead(groups.arrays, rows, workers=num_workers, each=prefetch_factor or 2)

    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature_of(groups))
    if devices > 1:
        return dataset
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-len(groups) // batch_size)))
