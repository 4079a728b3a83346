"""Groups to batches: order, contents, readers (specs/store.md, BATCH; TRN-9)."""

from __future__ import annotations

import numpy as np
import pytest
from ptycho_data.batches.gathering import gather
from ptycho_tf.loader import make_loader


def members(loader) -> list[np.ndarray]:
    """The groups of each batch of one pass."""
    return [batch["nn_indices"].numpy() for batch in loader]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_is_that_of_seed_and_pass(datasets, workers):
    """Invariant 42: NumPy's permutation of (seed, pass), for any number of readers."""
    dataset = datasets[0]
    loader = make_loader(dataset, batch_size=5, shuffle=True, seed=7, num_workers=workers)
    assert loader.cardinality() == 5
    for number in range(2):
        order = np.random.default_rng((7, number)).permutation(len(dataset))
        result = members(loader)
        assert [len(batch) for batch in result] == [5, 5, 5, 5, 2]
        np.testing.assert_array_equal(np.concatenate(result), dataset.groups.nn_indices[order])


def test_contents(datasets, scan):
    """The arrays of the contract, under their names, in their dtypes."""
    dataset = datasets[0]
    batch = next(iter(make_loader(dataset, batch_size=3, shuffle=False)))
    expected = gather(scan, dataset.groups, slice(0, 3), mean_counts=dataset.mean_counts)
    assert set(batch) == {"counts", "nn_indices", "coords_offsets", "coords_relative", "mean_counts"}
    for name, value in batch.items():
        array = getattr(expected, name)
        assert value.numpy().dtype == array.dtype, name
        np.testing.assert_array_equal(value.numpy(), array)
