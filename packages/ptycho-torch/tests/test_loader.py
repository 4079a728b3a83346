"""Batches of groups as tensors (specs/store.md BATCH, specs/training.md TRN)."""

from __future__ import annotations

import pickle
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.records import Batch
from ptycho_data.batches.gathering import gather, mean_counts
from ptycho_data.grouping.groups import group
from ptycho_data.store.stores import create_store
from ptycho_torch.loader import GroupDataset, make_loader


@pytest.fixture(scope="module")
def dataset(tiny_scan) -> GroupDataset:
    """30 groups of 4."""
    groups = group(tiny_scan.positions_px, gridsize=2, n_groups=30)
    return GroupDataset(tiny_scan, groups, mean_counts=mean_counts(tiny_scan))


def members(loader) -> list[list[int]]:
    """Groups of each batch of one epoch, by their seeds and members."""
    return [batch["nn_indices"].flatten().tolist() for batch in loader]


@pytest.mark.parametrize("truth", [False, True])
def test_batches_are_named_records(dataset, truth):
    """Invariant 3: the fields of Batch, by name, in their dtypes; the truth only if requested (BATCH-3)."""
    part = GroupDataset(dataset.source, dataset.groups, mean_counts=dataset.mean_counts, truth=truth)
    batch = part[[4, 2]]
    expected = gather(part.source, part.groups, [4, 2], mean_counts=part.mean_counts, truth=True)
    assert list(batch) == [row.name for row in fields(Batch) if truth or row.name != "truth"]
    for name, value in batch.items():
        np.testing.assert_array_equal(value.numpy(), getattr(expected, name))
        assert str(value.dtype).removeprefix("torch.") == str(getattr(expected, name).dtype)


@given(size=st.integers(1, 40), seed=st.integers(0, 3), shuffle=st.booleans())
def test_every_group_once_per_epoch(dataset, size, seed, shuffle):
    """Whole batches, the last one smaller; none dropped."""
    loader = make_loader(dataset, batch_size=size, shuffle=shuffle, seed=seed)
    result = members(loader)
    assert [len(batch) // 4 for batch in result[:-1]] == [min(size, 30)] * (len(result) - 1)
    rows = [tuple(batch[i : i + 4]) for batch in result for i in range(0, len(batch), 4)]
    assert sorted(rows) == sorted(map(tuple, dataset.groups.nn_indices.tolist()))
    assert shuffle or rows == list(map(tuple, dataset.groups.nn_indices.tolist()))


def test_order_is_the_seed_s(dataset):
    """Invariant 42: the same over two epochs for the same seed, whatever else was drawn; epochs and seeds differ."""

    def epochs(seed):
        loader = make_loader(dataset, batch_size=8, shuffle=True, seed=seed)
        return [members(loader), members(loader)]

    state = torch.random.get_rng_state()
    first = epochs(0)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.rand(100)
        assert epochs(0) == first
    assert first[0] != first[1]
    assert epochs(1) != first


def test_workers_keep_the_order(dataset):
    """Invariant 42: 0 and 2 workers give the same batches in each of three epochs."""

    def epochs(workers):
        loader = make_loader(dataset, batch_size=8, shuffle=True, seed=3, num_workers=workers)
        return [members(loader) for _ in range(3)]

    assert epochs(2) == epochs(0)


def test_a_dataset_of_a_store_pickles_as_its_path(tiny_scan, tmp_path):
    """Workers share the pages of the patterns instead of getting a copy."""
    store = create_store(tmp_path / "store", tiny_scan)
    groups = store.groups(gridsize=1)
    dataset = GroupDataset(store, groups, mean_counts=mean_counts(store))
    content = pickle.dumps(dataset)
    assert len(content) < tiny_scan.measurements.nbytes / 4
    torch.testing.assert_close(pickle.loads(content)[[1]]["counts"], dataset[[1]]["counts"])
