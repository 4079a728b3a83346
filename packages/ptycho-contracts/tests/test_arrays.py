"""Declarations of arrays: every kind of problem, its text, and all at once (ARR-1 to ARR-4)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts import arrays
from ptycho_contracts.arrays import ArraySpec, problems_of, validate
from ptycho_contracts.problems import ContractError

COUNTS = ArraySpec("counts", ("pattern", "N", "N"), kinds="uif", unit="counts", minimum=0.0)
POSITIONS = ArraySpec("positions_px", ("pattern", 2), kinds="f", dtype="float64", unit="px")
MASK = ArraySpec("mask", ("N", "N"), kinds="b", optional=True)
SPECS = (COUNTS, POSITIONS, MASK)


def good() -> dict:
    return {"counts": np.ones((3, 4, 4), np.uint16), "positions_px": np.zeros((3, 2)), "mask": None}


def texts(**changes) -> list[str]:
    return [str(problem) for problem in problems_of({**good(), **changes}, SPECS, where="f.npz")]


def test_good_arrays_have_no_problems():
    assert texts() == []
    assert texts(mask=np.ones((4, 4), bool)) == []


@pytest.mark.parametrize(
    ("name", "array", "text"),
    [
        (
            "positions_px",
            None,
            "f.npz: positions_px: expected (pattern, 2) float64 [px], found nothing; "
            "provide 'positions_px' [array.missing]",
        ),
        (
            "counts",
            [[1.0]],
            "f.npz: counts: expected (pattern, N, N) integer or float [counts], found list; "
            "pass a NumPy array [array.type]",
        ),
        (
            "positions_px",
            np.zeros((3, 2), np.float32),
            "f.npz: positions_px: expected float64, found float32; convert the array explicitly [array.dtype]",
        ),
        (
            "positions_px",
            np.zeros(3),
            "f.npz: positions_px: expected 2 dimensions (pattern, 2) float64 [px], found shape (3,); "
            "reorder or reshape the array to the declared layout [array.shape]",
        ),
        (
            "positions_px",
            np.zeros((3, 3)),
            "f.npz: positions_px: expected axis 1 of size 2, found shape (3, 3); make the sizes agree [array.shape]",
        ),
        (
            "positions_px",
            np.zeros((2, 2)),
            "f.npz: positions_px: expected axis 0 ('pattern') of size 3 as in counts, found shape (2, 2); "
            "make the sizes agree [array.shape]",
        ),
        (
            "counts",
            np.ones((3, 4, 5)),
            "f.npz: counts: expected axis 2 ('N') of size 4 as in counts, found shape (3, 4, 5); "
            "make the sizes agree [array.shape]",
        ),
        (
            "mask",
            np.ones((0, 4), bool),
            "f.npz: mask: expected at least one N, found shape (0, 4); provide data [array.empty]",
        ),
        (
            "positions_px",
            np.array([[0, np.nan], [np.inf, 0], [0, 0]]),
            "f.npz: positions_px: expected finite values, found 2 NaN or infinite values; "
            "mask or remove the bad values [array.not_finite]",
        ),
        (
            "counts",
            np.full((3, 4, 4), -1),
            "f.npz: counts: expected values >= 0, found 48 smaller values; "
            "check the unit and the dark-field subtraction [array.minimum]",
        ),
    ],
)
def test_each_problem_in_words(name, array, text):
    assert texts(**{name: array}) == [text]


def test_a_tensor_of_another_library_is_no_numpy_array():
    class Tensor:
        dtype = "torch.float32"
        shape = (3, 4, 4)

    assert "found Tensor; pass a NumPy array" in texts(counts=Tensor())[0]


@given(
    bad=st.sets(st.sampled_from(["counts", "positions_px", "mask"]), min_size=1),
    how=st.sampled_from(["missing", "dtype", "ndim"]),
)
def test_all_problems_are_reported_at_once(bad, how):
    broken = {"missing": lambda a: None, "dtype": lambda a: a.astype("S1"), "ndim": lambda a: a.ravel()}[how]
    record = {**good(), "mask": np.ones((4, 4), bool)}
    record.update({name: broken(record[name]) for name in bad})
    expected = bad - ({"mask"} if how == "missing" else set())
    assert {problem.where for problem in problems_of(record, SPECS)} == expected


def test_validate_takes_mappings_and_objects_and_raises_all():
    class Record:
        counts = np.ones((3, 4, 4), complex)
        positions_px = None
        mask = None

    with pytest.raises(ContractError) as caught:
        validate(Record(), SPECS)
    assert caught.value.codes == ("array.dtype", "array.missing")
    validate(good(), SPECS)


def test_content_can_be_left_unread():
    assert problems_of({**good(), "counts": np.full((3, 4, 4), -1)}, SPECS, content=False) == []


@given(rows=st.integers(1, 40), where=st.data())
def test_values_are_checked_in_every_block(monkeypatch_block, rows, where):
    array = np.zeros((rows, 2))
    row = where.draw(st.integers(0, rows - 1))
    array[row, 1] = np.nan
    array[rows - 1 - row, 0] = -np.inf
    result = problems_of({"x": array}, [ArraySpec("x", ("row", 2), minimum=0.0)])
    assert [problem.found for problem in result] == ["2 NaN or infinite values", "1 smaller values"]


@given(
    dtype=st.sampled_from([np.float32, np.float64, np.complex64, np.complex128]),
    place=st.tuples(st.integers(0, 2), st.integers(0, 1)),
    bad=st.sampled_from([np.nan, np.inf, -np.inf]),
    imaginary=st.booleans(),
)
def test_no_value_that_is_not_finite_passes(dtype, place, bad, imaginary):
    """ARR-3: real, or in either part of a complex number, at any place."""
    array = np.zeros((3, 2), dtype)
    part = array.imag if imaginary and array.dtype.kind == "c" else array.real
    part[place] = bad
    (problem,) = problems_of({"x": array}, [ArraySpec("x", ("row", 2), kinds="fc")])
    assert (problem.code, problem.found) == ("array.not_finite", "1 NaN or infinite values")


@pytest.fixture(scope="module")
def monkeypatch_block():
    """Blocks of three rows, so that small arrays have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_BLOCK_BYTES", 48)
        yield
