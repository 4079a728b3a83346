"""Texts of problems and errors."""

import pytest
from ptycho_contracts.problems import ContractError, MissingFileError, Problem, WorkFailedError, nearest

SHAPE = Problem("a.npz: probe", "array.shape", "(mode, N, N)", "shape (4, 5)", "reshape it")
DTYPE = Problem("a.npz: x", "array.dtype", "float64", "int32", "convert it")


def test_a_problem_reads_where_expected_found_remedy_code():
    assert str(SHAPE) == "a.npz: probe: expected (mode, N, N), found shape (4, 5); reshape it [array.shape]"


def test_one_problem_reads_as_itself_and_several_are_counted():
    assert str(ContractError(SHAPE)) == str(SHAPE)
    assert str(ContractError([SHAPE, DTYPE])) == f"2 problems: {SHAPE} | {DTYPE}"


def test_errors_carry_problems_and_codes():
    error = ContractError(iter([SHAPE, DTYPE]))
    assert error.problems == (SHAPE, DTYPE)
    assert error.codes == ("array.shape", "array.dtype")


@pytest.mark.parametrize(
    ("error", "builtin"),
    [(ContractError, ValueError), (MissingFileError, FileNotFoundError), (WorkFailedError, RuntimeError)],
)
def test_errors_are_the_builtin_kinds(error, builtin):
    with pytest.raises(builtin, match="reshape it"):
        raise error(SHAPE)


def test_an_error_without_a_problem_is_a_mistake_of_the_caller():
    with pytest.raises(TypeError, match="at least one Problem"):
        ContractError([])


def test_nearest_names_the_closest_or_all():
    assert nearest("grid_size", ["gridsize", "N", "epochs"]) == "did you mean 'gridsize'?"
    assert nearest("zzz", ["gridsize", "N"]) == "known names: N, gridsize"
