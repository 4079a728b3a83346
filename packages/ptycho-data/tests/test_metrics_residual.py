"""Far-field residual and Poisson floor (specs/metrics.md, MET-17 to MET-19)."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_data.metrics import ResidualSum, expected_square_error, poisson_floor, residual, residual_map


def patterns(seed, n=6, N=5, level=50.0):
    rng = np.random.default_rng(seed)
    simulated = rng.uniform(0, level, (n, N, N))
    return rng.poisson(simulated), simulated


def test_formula():
    measured, simulated = np.array([[[4, 9], [0, 1]]]), np.array([[[1.0, 16.0], [4.0, 1.0]]])
    assert residual(measured, simulated) == pytest.approx(((2 - 1) ** 2 + (3 - 4) ** 2 + 4 + 0) / 14)


@given(seed=st.integers(0, 99), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_chunks_give_the_same_as_the_whole(seed, sizes):
    """Invariant 39."""
    measured, simulated = patterns(seed, n=sum(sizes))
    total, start = ResidualSum(), 0
    for size in sizes:
        total.add(measured[start : start + size], simulated[start : start + size])
        start += size
    assert total.value == pytest.approx(residual(measured, simulated), rel=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64, np.float32])
def test_storage_dtype_does_not_matter(dtype):
    """Invariant 7."""
    measured, simulated = patterns(1)
    assert residual(measured.astype(dtype), simulated) == pytest.approx(residual(measured, simulated), rel=1e-6)


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_scaling_both_changes_nothing(scale, seed):
    """Invariant 1."""
    measured, simulated = patterns(seed)
    assert residual(measured * scale, simulated * scale) == pytest.approx(residual(measured, simulated), rel=1e-9)


@given(seed=st.integers(0, 99), patterns=st.integers(1, 300), n=st.integers(1, 3))
def test_residual_by_place(seed, patterns, n):
    """MET-19: each pattern in the cell that holds its position; cells without one are undefined."""
    rng = np.random.default_rng(seed)
    where = rng.integers(0, 50 * n, (patterns, 2)) + 0.5
    squares, counts = rng.uniform(0, 1, patterns), rng.uniform(1, 2, patterns)
    found = residual_map(where, squares, counts)
    side = min(16, max(1, math.isqrt(patterns // 8)))
    low, size = where.min(0), np.ptp(where, axis=0)
    assert found.residual.shape == (side, side)
    expected: dict[tuple[int, int], list[int]] = {}
    for pattern, (x, y) in enumerate(where):
        column, row = (
            min(int(side * (value - least) / (extent or 1)), side - 1) if extent else side // 2
            for value, least, extent in zip((x, y), low, size, strict=True)
        )
        expected.setdefault((row, column), []).append(pattern)
    for (row, column), members in expected.items():
        assert found.residual[row, column] == pytest.approx(squares[members].sum() / counts[members].sum())
    assert np.isfinite(found.residual).sum() == len(expected)
    assert found.to_dict()["residual"][0][0] == (found.residual[0, 0] if (0, 0) in expected else None)


def test_bad_pixels_are_left_out():
    measured, simulated = patterns(2)
    bad = np.zeros((5, 5), bool)
    bad[1, 2] = bad[4, 0] = True
    spoiled = np.where(bad, np.nan, measured)
    kept = ~bad
    expected = np.sum((np.sqrt(measured[:, kept]) - np.sqrt(simulated[:, kept])) ** 2) / measured[:, kept].sum()
    assert residual(spoiled, simulated, bad_pixels=bad) == pytest.approx(expected)
    floor = expected_square_error(simulated[:, kept]).sum() / simulated[:, kept].sum()
    assert poisson_floor(np.where(bad, -1, simulated), bad_pixels=bad) == pytest.approx(floor)


@given(mean=st.floats(1e-9, 130))
@example(mean=100.5)
def test_expected_square_error_is_the_sum_over_counts(mean):
    """Against the definition, with math.lgamma term by term."""
    exact = math.fsum(
        math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) * (math.sqrt(n) - math.sqrt(mean)) ** 2
        for n in range(400)
    )
    assert float(expected_square_error(np.array(mean))) == pytest.approx(exact, rel=2e-7)


def test_expected_square_error_at_the_ends():
    assert float(expected_square_error(np.array(0.0))) == pytest.approx(0, abs=0)
    assert float(expected_square_error(np.array(1e-12))) == pytest.approx(2e-12, rel=1e-5)
    below, above = expected_square_error(np.array([100 - 1e-9, 100 + 1e-9]))
    assert below == pytest.approx(above, rel=1e-6)
    assert float(expected_square_error(np.array(1e12))) == pytest.approx(0.25, rel=1e-9)


@pytest.mark.parametrize("level", [0.01, 1.0, 30.0, 1e4])
def test_floor_against_sampling(level):
    rng = np.random.default_rng(3)
    simulated = rng.exponential(level, (300, 32, 32))
    measured = rng.poisson(simulated)
    assert residual(measured, simulated) == pytest.approx(poisson_floor(simulated), rel=0.02)


def test_nothing_measured_is_undefined():
    """Invariant 49."""
    assert residual(np.zeros((2, 3, 3)), np.ones((2, 3, 3))) is None
    assert poisson_floor(np.zeros((2, 3, 3))) is None
    assert ResidualSum().value is None


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_what_is_no_count_is_refused(bad):
    measured, simulated = patterns(4)
    spoiled = simulated.copy()
    spoiled[3, 1, 1] = bad
    for call in (
        lambda: residual(measured, spoiled),
        lambda: residual(spoiled, simulated),
        lambda: poisson_floor(spoiled),
    ):
        with pytest.raises(ContractError, match=r"array\.minimum"):
            call()
    with pytest.raises(ContractError, match=r"array\.shape"):
        residual(measured, simulated[:3])
    with pytest.raises(ContractError, match="bad_pixels"):
        residual(measured, simulated, bad_pixels=np.zeros((4, 4), bool))
