"""What a training learns from (specs/training.md TRN-4, TRN-5, TRN-13)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ptycho_contracts.config import DataConfig, TrainingConfig
from ptycho_contracts.problems import ContractError
from ptycho_data.files import combine_scans
from ptycho_data.simulate import simulate
from ptycho_data.store.stores import create_store
from ptycho_data.workflows.payloads import training_payload
from ptycho_data.workflows.train import train
from ptycho_data.workflows.training_data import subset, synthetic_scans, training_groups, training_patterns

SCAN = simulate(N=16, n_patterns=40, step_px=2.0, photons_per_pattern=1e4, seed=1)
MEANS = {0: 1e4}


def data(**options) -> DataConfig:
    """For 20 groups of four."""
    return DataConfig(**{"N": 16, "gridsize": 2, "n_groups": 20, **options})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The scan's store."""
    return create_store(tmp_path_factory.mktemp("store") / "store", SCAN)


def test_patterns():
    """TRN-4, CFG-9: used and held out are all patterns, unless a part was requested."""
    used, held = training_patterns(SCAN, data(), TrainingConfig(hold_out="0.25", seed=3))
    assert sorted([*used, *held]) == list(range(40))
    assert len(held) == 10
    fewer, same = training_patterns(SCAN, data(subsample=12), TrainingConfig(hold_out="0.25", seed=3))
    np.testing.assert_array_equal(same, held)
    assert len(fewer) == 12
    assert set(fewer) <= set(used)


def test_a_fraction_of_the_groups_validates(store):
    """TRN-5: drawn by the seed, never trained on; held-out patterns are in none (invariant 10)."""
    used = np.arange(5, 40)
    (source, kept, means), (other, validation, _) = training_groups(
        store, used, data(), TrainingConfig(val_fraction=0.25, seed=4), MEANS
    )
    assert source is other is store
    assert means == MEANS
    order = np.random.default_rng(4).permutation(20)
    every = store.groups(gridsize=2, n_groups=20, seed=4, allowed=used)
    np.testing.assert_array_equal(validation.nn_indices, every.nn_indices[np.sort(order[:5])])
    np.testing.assert_array_equal(kept.nn_indices, every.nn_indices[np.sort(order[5:])])
    np.testing.assert_array_equal(kept.coords_relative, every.coords_relative[np.sort(order[5:])])
    assert min(kept.nn_indices.min(), validation.nn_indices.min()) >= 5


def test_at_least_one_group_validates(store):
    """TRN-5."""
    (_, kept, _), (_, validation, _) = training_groups(
        store, np.arange(40), data(), TrainingConfig(val_fraction=0.001), MEANS
    )
    assert (len(kept), len(validation)) == (19, 1)


@pytest.mark.parametrize(("fraction", "n_groups"), [(0.0, 20), (0.5, 1)])
def test_no_group_is_left(store, fraction, n_groups):
    """TRN-5."""
    with pytest.raises(ContractError) as caught:
        training_groups(store, np.arange(40), data(n_groups=n_groups), TrainingConfig(val_fraction=fraction), MEANS)
    assert caught.value.codes == ("training.no_validation",)


def test_another_scan_validates(store):
    """TRN-5: with its own mean counts; patterns of another size are refused."""
    other = simulate(N=16, n_patterns=25, step_px=2.0, photons_per_pattern=500, seed=2)
    (_, kept, _), (source, validation, means) = training_groups(
        store, np.arange(40), data(), TrainingConfig(val_fraction=0.0), MEANS, other
    )
    assert len(kept) == 20
    np.testing.assert_array_equal(source.counts(), other.counts())
    assert validation.nn_indices.shape[1] == 4
    assert means[0] == pytest.approx(other.counts().sum((1, 2), dtype=np.float64).mean(), rel=1e-6)
    with pytest.raises(ContractError) as caught:
        training_groups(store, np.arange(40), data(N=32), TrainingConfig(), MEANS, other)
    assert caught.value.codes == ("scan.size",)


def test_subset(store):
    """All fields of the chosen groups."""
    groups = store.groups(gridsize=2, n_groups=20, seed=0)
    part = subset(groups, np.array([7, 2]))
    for name in ("nn_indices", "coords_offsets", "coords_relative"):
        np.testing.assert_array_equal(getattr(part, name), getattr(groups, name)[[7, 2]])


def test_simulated_scans():
    """TRN-13: at the first scan's used positions, with its dose, once for each object."""
    bare = replace(SCAN, object_truth=None, object_origin_yx_px=None)
    moved = replace(bare, positions_px=SCAN.positions_px + 500)
    both, used = combine_scans([bare, moved]), np.arange(10, 80)
    made = synthetic_scans(both, SCAN.probe, used, {0: 2000.0, 1: 9.0}, TrainingConfig(synthetic=3, seed=1))
    assert len(made) == 3 * 30
    np.testing.assert_array_equal(np.unique(made.scan_index), [0, 1, 2])
    for number in range(3):
        shift = made.positions_px[made.scan_index == number] - SCAN.positions_px[10:]
        np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-9)
    assert made.counts().sum((1, 2)).mean() == pytest.approx(2000, rel=0.05)


class NoWork:
    """A backend that must not be asked for anything but its device."""

    def device(self, execution, training):
        """The only question before the data are looked at."""
        return "cpu"


@pytest.mark.parametrize("validating", [False, True])
def test_training_refuses_outlying_positions_before_any_work(tmp_path, validating):
    """GEO-6: of the training scan and of the validation scan; nothing is written."""
    positions = SCAN.positions_px.copy()
    positions[3] += 5000
    far = replace(SCAN, positions_px=positions, object_truth=None, object_origin_yx_px=None)
    payload = training_payload(SCAN if validating else far, tmp_path / "out", {"n_groups": 10})
    with pytest.raises(ContractError) as caught:
        train(NoWork(), payload, validation=far if validating else None)
    assert caught.value.codes == ("scan.outlying_positions",)
    assert not list(tmp_path.iterdir())
