"""Records of arrays (ARR-5 to ARR-16)."""

from dataclasses import fields, replace
from functools import partial
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

    @given(data=st.data(), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
    def test_positions_that_are_not_finite_raise(self, data, bad):
        """ARR-3: any of them, x or y."""
        positions = np.arange(10.0).reshape(5, 2)
        positions[data.draw(st.integers(0, 4)), data.draw(st.integers(0, 1))] = bad
        (text,) = problems(scan, positions_px=positions)
        assert text.startswith("Scan: positions_px: expected finite values, found 1 NaN or infinite values")

    @given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple))
    def test_positions_of_another_shape_raise(self, shape):
        """Invariants 22, 23: exactly (pattern, 2), also of 2 patterns where (2, pattern) would fit as well."""
        assume(shape != (5, 2))
        assert all("array.shape]" in text for text in problems(scan, positions_px=np.zeros(shape)))

    @given(dtype=st.sampled_from(["f2", "f4", ">f8", "i8", "c16"]))
    def test_positions_of_another_dtype_raise(self, dtype):
        """ARR-1: float32 would move patterns at 10^6 px by a sixteenth."""
        assert "array.dtype]" in problems(scan, positions_px=np.zeros((5, 2), dtype))[0]

    @given(data=st.data())
    def test_a_scan_index_that_is_none_raises(self, data):
        """ARR-1: one int64 >= 0 for each pattern."""
        wrong = data.draw(
            st.one_of(
                st.integers(1, 9).filter(lambda count: count != 5).map(lambda count: np.zeros(count, np.int64)),
                st.sampled_from(["i4", "u8", "f8", "?"]).map(lambda dtype: np.zeros(5, dtype)),
                st.integers(0, 4).map(lambda row: -np.eye(5, dtype=np.int64)[row]),
            )
        )
        (text,) = problems(scan, scan_index=wrong)
        assert text.startswith("Scan: scan_index: expected")

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

    @given(data=st.data(), gridsize=st.integers(1, 3), amount=st.floats(1e-3, 1e6), sign=st.sampled_from([-1, 1]))
    def test_a_centre_that_is_off_in_one_group_and_axis_raises(self, data, gridsize, amount, sign):
        """ARR-15: for any group, axis and amount; rounding of float32 at a thousand pixels is none."""
        where = data.draw(pst.positions(min_count=9, offset_px=0, spread_px=data.draw(st.sampled_from([20.0, 2000.0]))))
        made = data.draw(pst.groups(where, gridsize=gridsize))
        group, axis = data.draw(st.integers(0, len(made) - 1)), data.draw(st.integers(0, 1))
        relative = made.coords_relative.copy()
        off = sign * amount * (1 + np.abs(relative[group]).max())
        relative[group, 0, axis] += np.float32(off)
        (text,) = problems(partial(replace, made), coords_relative=relative)
        assert f"1 groups off, the first is group {group} by " in text
        assert text.endswith("[groups.centre]")

    @given(data=st.data(), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
    def test_coordinates_that_are_not_finite_raise(self, data, bad):
        """ARR-3: at any place of either array."""
        made = data.draw(pst.groups(data.draw(pst.positions(min_count=9))))
        name = data.draw(st.sampled_from(["coords_offsets", "coords_relative"]))
        array = getattr(made, name).copy()
        array.flat[data.draw(st.integers(0, array.size - 1))] = bad
        (text,) = problems(partial(replace, made), **{name: array})
        assert text.startswith(f"Groups: {name}: expected finite values, found 1 NaN or infinite values")

    @given(data=st.data(), index=st.integers(-(2**40), -1))
    def test_a_negative_member_raises(self, data, index):
        """ARR-3: at any place."""
        made = data.draw(pst.groups(data.draw(pst.positions(min_count=9))))
        members = made.nn_indices.copy()
        members.flat[data.draw(st.integers(0, members.size - 1))] = index
        (text,) = problems(partial(replace, made), nn_indices=members)
        assert text.startswith("Groups: nn_indices: expected values >= 0, found 1 smaller values")

    @given(data=st.data())
    def test_another_size_of_any_dimension_raises(self, data):
        """Invariant 30: of any array, one more or one less (if that leaves any) along any axis."""
        made = data.draw(pst.groups(data.draw(pst.positions(min_count=9)), gridsize=2))
        name = data.draw(st.sampled_from(["nn_indices", "coords_offsets", "coords_relative"]))
        array = getattr(made, name)
        axis = data.draw(st.integers(0, array.ndim - 1))
        sizes = [size for size in (array.shape[axis] - 1, array.shape[axis] + 1) if size]
        other = np.take(array, range(data.draw(st.sampled_from(sizes))), axis=axis, mode="wrap")
        assert all("array.shape]" in text for text in problems(partial(replace, made), **{name: other}))

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


def test_records_are_one_line():
    """ARR-19: a notebook shows what it has, not a million numbers."""
    patterns, positions = np.ones((3, 8, 8), np.uint16), np.zeros((3, 2))
    scan = Scan(measurements=patterns, unit="counts", positions_px=positions)
    assert repr(scan) == "Scan(3 patterns of 8 x 8 px in counts, no probe)"
    probe, truth = np.ones((1, 8, 8), np.complex64), np.ones((9, 9), np.complex64)
    known = replace(
        scan, probe=probe, scan_index=np.array([0, 0, 1]), object_truth=truth, object_origin_yx_px=np.zeros(2)
    )
    said = "Scan(3 patterns of 8 x 8 px in counts, 1 probe mode (guess), 2 scans, true object known)"
    assert repr(known) == said
    image = Reconstruction(
        object=np.ones((20, 30), np.complex64),
        origin_yx_px=np.zeros(2),
        weight=np.ones((20, 30), np.float32),
        probe=np.ones((2, 8, 8), np.complex64),
        positions_px=positions,
        pixel_size_m=12.5e-9,
    )
    assert repr(image) == "Reconstruction(object of 20 x 30 px, 2 probe modes, 3 positions, object pixel 12.5 nm)"
