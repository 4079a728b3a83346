"""Records of arrays (ARR-5 to ARR-16)."""

from dataclasses import fields, replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_contracts.records import Batch, Groups, Reconstruction, Scan
from ptycho_contracts.testing import strategies as pst


def scan(**changes) -> Scan:
    values = {
        "measurements": np.ones((5, 8, 8), np.uint16),
        "unit": "counts",
        "positions_px": np.arange(10.0).reshape(5, 2),
        "probe": np.ones((2, 8, 8), np.complex64),
    }
    return Scan(**{**values, **changes})


def problems(make, **changes) -> list[str]:
    with pytest.raises(ContractError) as caught:
        make(**changes)
    return [str(problem) for problem in caught.value.problems]


def batch(count: int = 6, gridsize: int = 2, N: int = 8) -> Batch:
    """Every field differs from every other, in the last channel too."""
    C = gridsize**2
    rng = np.random.default_rng(gridsize)
    relative = rng.normal(size=(count, 1, 2, C))
    return Batch(
        counts=rng.uniform(1, 2, (count, C, N, N)).astype(np.float32),
        nn_indices=np.arange(count * C).reshape(count, C),
        coords_offsets=rng.uniform(10, 20, (count, 1, 2, 1)).astype(np.float32),
        coords_relative=(relative - relative.mean(axis=3, keepdims=True)).astype(np.float32),
        mean_counts=np.full(count, 64, np.float32),
    )


class TestScan:
    def test_one_scan_is_the_default(self):
        one = scan()
        assert one.N == 8
        assert len(one) == 5
        assert one.scan_index.tolist() == [0] * 5
        assert one.probe_kind == "guess"

    @pytest.mark.parametrize("unit", ["photons", "intensity", "", None])
    def test_a_unit_that_is_none_of_ours_raises(self, unit):
        """Invariant 1: a contradictory unit raises."""
        assert problems(scan, unit=unit) == [
            f"Scan: unit: expected one of 'counts', 'amplitude', found {unit!r}; "
            "say what the source declares [record.choice]"
        ]

    def test_an_undeclared_unit_raises(self):
        """Invariant 1: an undeclared unit raises."""
        with pytest.raises(TypeError, match="unit"):
            Scan(measurements=np.ones((1, 4, 4)), positions_px=np.zeros((1, 2)))

    @given(
        value=st.integers(0, 2**20),
        dtype=st.sampled_from([np.uint8, np.uint16, np.uint32, np.int64, np.float32, np.float64]),
        unit=st.sampled_from(["counts", "amplitude"]),
    )
    def test_counts_do_not_depend_on_the_storage_dtype(self, value, dtype, unit):
        """Invariant 7: nothing is squared in an integer dtype."""
        assume(np.issubdtype(dtype, np.floating) or value <= np.iinfo(dtype).max)
        stored = scan(measurements=np.full((5, 8, 8), value, dtype), unit=unit)
        counts = stored.counts(slice(1, 3))
        assert counts.dtype == np.float32
        assert counts.shape == (2, 8, 8)
        assert (counts == np.float32(value if unit == "counts" else value * value)).all()

    @given(count=st.integers(1, 9))
    def test_more_or_fewer_positions_than_patterns_raises(self, count):
        """Invariant 23: both counts are named."""
        assume(count != 5)
        (text,) = problems(scan, positions_px=np.zeros((count, 2)))
        assert "size 5 as in measurements" in text
        assert f"({count}, 2)" in text

    def test_patterns_are_square_and_the_probe_fits(self):
        """Invariant 22: no axis order is guessed, a pattern that is not square raises."""
        assert "axis 2 ('N')" in problems(scan, measurements=np.ones((5, 8, 7)))[0]
        assert "Scan: probe" in problems(scan, probe=np.ones((2, 9, 9), np.complex64))[0]

    @given(M=st.integers(1, 6), N=st.integers(2, 6))
    def test_patterns_in_the_last_axis_raise(self, M, N):
        """Invariant 22: (y, x, pattern) raises, except for n = H, which the shape does not reveal."""
        assume(M != N)
        with pytest.raises(ContractError):
            scan(measurements=np.ones((N, N, M)), positions_px=np.zeros((M, 2)), probe=None)

    def test_truth_and_origin_come_together(self):
        text = "Scan: object_origin_yx_px: expected 'object_origin_yx_px' beside 'object_truth', found nothing; "
        assert text in problems(scan, object_truth=np.ones((9, 9), np.complex64))[0]
        assert "record.pair" in problems(scan, object_origin_yx_px=np.zeros(2))[0]

    def test_all_problems_at_once(self):
        result = problems(
            scan,
            measurements=None,
            unit="x",
            positions_px=np.full((5, 2), np.nan),
            probe_kind="true",
            object_origin_yx_px=np.zeros(2),
        )
        assert [text.rsplit("[")[-1] for text in result] == [
            "array.missing]",
            "array.not_finite]",
            "array.missing]",
            "record.choice]",
            "record.choice]",
            "record.pair]",
        ]


class TestGroups:
    @given(data=st.data(), gridsize=st.integers(1, 3), M=st.integers(9, 15))
    def test_shapes(self, data, gridsize, M):
        """Invariant 30: exactly (n, 1, 2, C) and (n, 1, 2, 1) float32, (n, C) int64."""
        where = data.draw(pst.positions(min_count=M, max_count=M))
        made = data.draw(pst.groups(where, gridsize=gridsize))
        n, C = len(made), gridsize**2
        assert (made.nn_indices.shape, made.nn_indices.dtype) == ((n, C), np.int64)
        assert (made.coords_offsets.shape, made.coords_offsets.dtype) == ((n, 1, 2, 1), np.float32)
        assert (made.coords_relative.shape, made.coords_relative.dtype) == ((n, 1, 2, C), np.float32)

    @pytest.mark.parametrize("name", ["coords_offsets", "coords_relative", "nn_indices"])
    @pytest.mark.parametrize("change", [lambda a: a[:, None], lambda a: a[0], lambda a: np.repeat(a, 2, axis=1)])
    def test_any_other_shape_raises(self, name, change):
        """Invariant 30: an extra, a missing or a doubled dimension raises."""
        whole = batch()
        arrays = {field.name: getattr(whole, field.name) for field in fields(Groups)}
        with pytest.raises(ContractError, match=name.split("_")[0]):
            Groups(**{**arrays, name: change(arrays[name])})

    @pytest.mark.parametrize("name", ["coords_offsets", "coords_relative", "nn_indices"])
    def test_any_other_dtype_raises(self, name):
        whole = batch()
        arrays = {field.name: getattr(whole, field.name) for field in fields(Groups)}
        other = np.int32 if name == "nn_indices" else np.float64
        with pytest.raises(ContractError, match=r"array\.dtype"):
            Groups(**{**arrays, name: arrays[name].astype(other)})

    def test_relative_coordinates_are_about_the_centre(self):
        """ARR-15, in words."""
        arrays = {field.name: getattr(batch(), field.name) for field in fields(Groups)}
        arrays["coords_relative"] = arrays["coords_relative"] + np.float32(0.5)
        (text,) = problems(Groups, **arrays)
        assert text == (
            "Groups: coords_relative: expected a mean of 0 over the channels of each group, found 6 groups off, "
            "the first is group 0 by 0.5 px; subtract each position from the mean of its group's positions "
            "[groups.centre]"
        )

    @given(data=st.data(), offset=st.integers(-(10**6), 10**6))
    def test_relative_coordinates_do_not_depend_on_the_offset(self, data, offset):
        """Invariant 19: a scan at 10^6 px has the same relative coordinates."""
        where = data.draw(pst.positions(min_count=4, offset_px=0))
        made = data.draw(pst.groups(where))
        moved = pst.grouped(where + offset, made.nn_indices)
        np.testing.assert_allclose(moved.coords_relative, made.coords_relative, atol=1e-6)


@pytest.mark.parametrize("gridsize", [1, 2])
@pytest.mark.parametrize("names", list(combinations([field.name for field in fields(Batch)], 2)), ids="-".join)
def test_swapping_two_fields_of_a_batch_fails(names, gridsize):
    """Invariant 3."""
    whole = batch(gridsize=gridsize)
    a, b = names
    with pytest.raises(ContractError):
        replace(whole, **{a: getattr(whole, b), b: getattr(whole, a)})


@pytest.mark.parametrize("record", [Scan, Groups, Batch, Reconstruction])
def test_records_take_no_positional_arguments(record):
    """Invariant 3: no positional tuples."""
    with pytest.raises(TypeError, match="positional"):
        record(np.ones(1))


def test_reconstruction_ties_its_arrays():
    arrays = {
        "object": np.ones((9, 7), np.complex64),
        "origin_yx_px": np.zeros(2),
        "weight": np.ones((9, 7), np.float32),
        "probe": np.ones((1, 4, 4), np.complex64),
        "positions_px": np.zeros((3, 2)),
    }
    Reconstruction(**arrays)
    (text,) = problems(Reconstruction, **{**arrays, "weight": np.ones((7, 9), np.float32)})[:1]
    assert text.startswith("Reconstruction: weight: expected axis 0 ('object_y') of size 9 as in object")
    for value in (0.0, -1e-9, np.nan, np.inf, "12 nm", True):
        text = problems(Reconstruction, **arrays, pixel_size_m=value)[-1]
        assert text.startswith("Reconstruction: pixel_size_m: expected a positive number of metres")
    assert Reconstruction(**arrays, pixel_size_m=np.float32(1.2e-8)).pixel_size_m == np.float32(1.2e-8)


@pytest.mark.parametrize("metadata", [{}, {"geometry": {}}, {"geometry": None}, {"geometry": "unknown"}])
def test_a_scan_without_geometry_has_no_pixel_size(metadata):
    """ARR-18."""
    assert replace(scan(), metadata=metadata).pixel_size_m is None


def test_a_scan_has_the_pixel_size_of_its_geometry():
    """ARR-18."""
    assert replace(scan(), metadata={"geometry": {"object_pixel_size_m": 1.2e-8}}).pixel_size_m == 1.2e-8
    with pytest.raises(ContractError, match="Scan: pixel_size_m: expected a positive number of metres"):
        _ = replace(scan(), metadata={"geometry": {"object_pixel_size_m": -1.0}}).pixel_size_m


@given(pst.scans(), pst.scans(noisy=True))
def test_strategies_give_valid_scans(noiseless, noisy):
    """The probe normalisation and the truth of a drawn scan belong to its counts."""
    for drawn in (noiseless, noisy):
        assert drawn.object_truth is not None
        assert len(drawn) == len(drawn.positions_px)
        assert np.sum(np.abs(drawn.probe) ** 2) == pytest.approx(1e4, rel=1e-5)
    np.testing.assert_allclose(noisy.counts(), np.rint(noisy.counts()), rtol=1e-6, atol=1e-6)
