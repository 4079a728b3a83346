"""GEO: canvases and corners."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import strategies
from ptycho_data.canvas.geometry import CanvasGeometry, canvas_geometry, corners_and_fractions, group_canvas_shape

shifts = st.tuples(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))


def brute_force_canvas(positions: np.ndarray, N: int) -> tuple[list[int], tuple[int, int]]:
    """Origin and shape of the set of all pixels that bilinear reads touch, in Python integers."""
    origin, shape = [], []
    for axis in (1, 0):
        starts = [int(np.floor(value)) - N // 2 for value in positions[:, axis]]
        touched = {start + i + further for start in starts for i in range(N) for further in (0, 1)}
        origin.append(min(touched))
        shape.append(max(touched) - min(touched) + 1)
    return origin, (shape[0], shape[1])


@given(strategies.positions(), strategies.sizes)
def test_canvas_is_the_least_that_holds_every_pixel_read(positions, N):
    """Invariant 19, 18: the canvas is minimal, for even and odd N, against a set of all pixels read."""
    geometry = canvas_geometry(positions, N)
    origin, shape = brute_force_canvas(positions, N)
    assert geometry.origin_yx_px.tolist() == origin
    assert geometry.shape == shape


@given(strategies.positions(offset_px=0), strategies.sizes, shifts)
def test_translation_moves_only_the_origin(positions, N, shift):
    """Invariant 15, 19: a scan at a million pixels has the same canvas, corners and fractions."""
    here, there = canvas_geometry(positions, N), canvas_geometry(positions + shift, N)
    assert there.shape == here.shape
    np.testing.assert_array_equal(there.origin_yx_px - here.origin_yx_px, shift[::-1])
    corners, fractions = corners_and_fractions(positions, here, N)
    moved_corners, moved_fractions = corners_and_fractions(positions + shift, there, N)
    np.testing.assert_array_equal(moved_corners, corners)
    np.testing.assert_allclose(moved_fractions, fractions, atol=1e-9)


@given(strategies.positions(), strategies.sizes)
def test_corner_and_fraction_give_back_the_position(positions, N):
    """Invariant 11: columns of the result are y, x; those of the positions x, y."""
    geometry = canvas_geometry(positions, N)
    corners, fractions = corners_and_fractions(positions, geometry, N)
    assert corners.dtype == np.int64
    assert fractions.min() >= 0
    assert fractions.max() < 1
    np.testing.assert_allclose((geometry.origin_yx_px + corners + fractions + N // 2)[:, ::-1], positions, atol=1e-9)


def test_patch_beyond_the_canvas_names_the_row():
    """Invariant 16: never clipped, never dropped."""
    geometry = CanvasGeometry(np.zeros(2), (10, 12))
    corners_and_fractions([[2.0, 2.0], [10.0, 8.0]], geometry, 4)
    with pytest.raises(ContractError, match=r"1 patches beyond it, the first at row 1: \[10.5, 8.0\]") as caught:
        corners_and_fractions([[2.0, 2.0], [10.5, 8.0]], geometry, 4)
    assert caught.value.codes == ("canvas.outside",)


def test_rounding_at_the_edges_is_no_error():
    geometry = CanvasGeometry(np.array([0.1, 0.1]), (6, 6))
    corners, fractions = corners_and_fractions([[2.1 - 1e-12, 4.1 + 1e-12]], geometry, 4)
    np.testing.assert_array_equal(corners, [[2, 0]])
    np.testing.assert_allclose(fractions, 0, atol=1e-9)


@pytest.mark.parametrize(
    ("positions", "code"),
    [
        (np.zeros((2, 5)), "array.shape"),
        (np.zeros(4), "array.shape"),
        (np.zeros((0, 2)), "array.empty"),
        (np.array([[0.0, np.nan]]), "array.not_finite"),
        (np.array([["a", "b"]]), "array.dtype"),
        (np.array([[0.0, 0.0], [1e9, 1e9]]), "canvas.size"),
    ],
)
def test_bad_positions_are_refused(positions, code):
    with pytest.raises(ContractError) as caught:
        canvas_geometry(positions, 8)
    assert code in caught.value.codes


@example(2, [0.0, 1e-45], 1)
@given(st.integers(1, 9), st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=8), st.sampled_from([1, 4]))
def test_group_canvas_has_room_and_none_to_spare(N, spread, multiple):
    """Invariant 19: every read, also of the additional row, is on the canvas; on a smaller one it does not."""
    relative = np.array([[[spread, spread[::-1]]]], dtype=np.float32)
    shape = group_canvas_shape(relative, N, multiple=multiple)

    def fits(side: int) -> bool:
        # Exact: of a spread of 1e-45 px a sum of floats would leave nothing, where the canvas still needs its pixel.
        exact = [Fraction(float(value)) for value in spread]
        starts = [math.floor(side // 2 - value - N // 2) for value in [*exact, *(-value for value in exact)]]
        return min(starts) >= 0 and max(starts) + N + 1 <= side

    assert shape[0] == shape[1]
    assert fits(shape[0])
    assert shape[0] % multiple == 0
    assert not fits(shape[0] - multiple)


def test_group_canvas_axes_are_y_then_x():
    """Invariant 11: a group spread along x makes a wide canvas."""
    relative = np.zeros((1, 1, 2, 4), np.float32)
    relative[0, 0, 0] = [-6, -2, 2, 6]
    assert group_canvas_shape(relative, 8) == (9, 21)
