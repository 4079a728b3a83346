"""SEL: held-out patterns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, MissingFileError
from ptycho_contracts.testing import strategies
from ptycho_data.grouping.selection import held_out_indices, subsample_indices, used_indices


@given(st.floats(0, 0.95), st.integers(20, 300), st.integers(0, 99), st.booleans())
def test_fraction_is_the_documented_permutation(fraction, M, seed, as_text):
    held = held_out_indices(repr(fraction) if as_text else fraction, M, seed)
    expected = sorted(np.random.default_rng(seed).permutation(M)[: round(fraction * M)].tolist())
    assert held.dtype == np.int64
    assert held.tolist() == expected
    assert sorted([*held.tolist(), *used_indices(held, M).tolist()]) == list(range(M))


def test_nothing_is_held_out_without_a_request():
    assert held_out_indices(None, 10, 0).shape == (0,)


def test_published_selection_of_the_siemens_star():
    held = held_out_indices("0.1", 516, 0)
    assert len(held) == 52
    assert held.tolist() == np.sort(np.random.default_rng(0).permutation(516)[:52]).tolist()


def test_indices_from_a_file(tmp_path):
    np.save(tmp_path / "held.npy", np.array([5, 1, 3], np.uint16))
    held = held_out_indices(str(tmp_path / "held.npy"), 6, 0)
    assert held.tolist() == [1, 3, 5]
    assert held.dtype == np.int64


@pytest.mark.parametrize(
    ("indices", "code"),
    [
        (np.array([0.0, 1.0]), "selection.indices"),
        (np.array([True, False]), "selection.indices"),
        (np.array([[0, 1]]), "selection.indices"),
        (np.array([0, 6]), "selection.range"),
        (np.array([-1, 2]), "selection.range"),
        (np.array([2, 2]), "selection.repeated"),
        (np.arange(6), "selection.all"),
        (np.array([{"a": 1}], dtype=object), "npy.pickled"),
    ],
)
def test_bad_files_of_indices_are_refused(tmp_path, indices, code):
    """Invariant 45: pickled indices are refused as well."""
    np.save(tmp_path / "held.npy", indices)
    with pytest.raises(ContractError) as caught:
        held_out_indices(tmp_path / "held.npy", 6, 0)
    assert code in caught.value.codes


@pytest.mark.parametrize("fraction", ["1", "-0.1", "1.5", "nan", "0.99"])
def test_bad_fractions_are_refused(fraction):
    with pytest.raises(ContractError) as caught:
        held_out_indices(fraction, 10, 0)
    assert caught.value.codes[0] in ("selection.fraction", "selection.all")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"held\.npy"):
        held_out_indices(tmp_path / "held.npy", 6, 0)


@given(strategies.generators, st.integers(1, 40), st.integers(1, 30), st.booleans(), st.booleans())
def test_subsamples_are_of_each_scan(rng, M, count, sequential, by_fraction):
    """SEL-3, invariant 28: so many of each scan, the same whether it is alone or not."""
    scan_index = rng.integers(0, 3, M)
    allowed = np.sort(rng.permutation(M)[: max(1, M // 2)])
    part = {"fraction": min(count / 30, 1.0)} if by_fraction else {"count": count}
    options = {**part, "sequential": sequential, "seed": 3, "scan_index": scan_index}
    chosen = subsample_indices(M, allowed=allowed, **options)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert set(chosen) <= set(allowed)
    for scan in np.unique(scan_index[allowed]):
        members = allowed[scan_index[allowed] == scan]
        mine = chosen[scan_index[chosen] == scan]
        requested = max(1, round(part["fraction"] * len(members))) if by_fraction else min(count, len(members))
        assert len(mine) == requested
        if sequential:
            np.testing.assert_array_equal(mine, members[:requested])
        np.testing.assert_array_equal(subsample_indices(M, allowed=members, **options), mine)


def test_subsamples_are_random_by_the_seed():
    one, two = (subsample_indices(1000, count=100, seed=seed) for seed in (0, 1))
    assert len(set(one) & set(two)) < 30
    np.testing.assert_array_equal(one, subsample_indices(1000, count=100))
    np.testing.assert_array_equal(subsample_indices(1000, count=100, sequential=True), np.arange(100))


@pytest.mark.parametrize(
    "keywords",
    [{}, {"count": 3, "fraction": 0.5}, {"count": 0}, {"fraction": 0.0}, {"fraction": 1.5}, {"fraction": float("nan")}],
)
def test_bad_subsamples_are_refused(keywords):
    with pytest.raises(ContractError) as caught:
        subsample_indices(10, **keywords)
    assert caught.value.codes == ("selection.subsample",)
    with pytest.raises(ContractError):
        subsample_indices(10, count=1, scan_index=np.zeros(9, int))
