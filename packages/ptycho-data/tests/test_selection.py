"""SEL: held-out patterns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, MissingFileError
from ptycho_data.selection import held_out_indices, used_indices


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
