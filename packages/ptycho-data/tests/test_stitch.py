"""STI: patches and canvas, against the NumPy reference of specs/physics.md and against pixels set by hand."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import reference, strategies
from ptycho_data.canvas.geometry import CanvasGeometry, canvas_geometry
from ptycho_data.canvas.stitching import Stitcher, extract_patches
from ptycho_data.grouping.groups import group, groups_at


def complex_array(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def stitched(patches, positions, weight=None, *, geometry=None, batch=None):
    stitcher = Stitcher(geometry or canvas_geometry(positions, patches.shape[-1]))
    for start in range(0, len(patches), batch or len(patches)):
        rows = slice(start, start + (batch or len(patches)))
        own = weight[rows] if weight is not None and weight.ndim == 3 else weight
        stitcher.add(patches[rows], positions[rows], own)
    assert stitcher.patches == len(patches)
    return stitcher.result()


@given(strategies.positions(offset_px=1e4), strategies.sizes, strategies.generators)
def test_extraction_and_stitching_agree_with_the_reference(positions, N, rng):
    """Invariant 12: each against an independent oracle, not against the other."""
    geometry = canvas_geometry(positions, N)
    origin, shape = reference.canvas_geometry(positions, N)
    canvas = complex_array(rng, *shape)
    expected = reference.extract_patches(canvas, positions, N, origin)
    np.testing.assert_allclose(extract_patches(canvas, positions, geometry, N), expected, atol=1e-9)
    patches, weight = complex_array(rng, len(positions), N, N), rng.uniform(0.1, 1, (N, N))
    merged, total = reference.merge_patches(patches, weight, positions, shape, origin)
    result, found_total = stitched(patches, positions, weight)
    np.testing.assert_allclose(result, merged, atol=1e-5)
    np.testing.assert_allclose(found_total, total, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("N", [4, 5])
def test_single_bright_pixel_read_and_scatter_added(N):
    """Invariant 12, 11: object pixel (row 107, column 53) is where the position says, by arithmetic alone."""
    geometry = CanvasGeometry(np.array([100.0, 40.0]), (20, 30))
    canvas = np.zeros((20, 30), np.complex64)
    canvas[107 - 100, 53 - 40] = 2j
    patch = extract_patches(canvas, [[52.0, 108.0]], geometry, N)[0]
    assert np.argwhere(patch).tolist() == [[107 - 108 + N // 2, 53 - 52 + N // 2]]
    stitcher = Stitcher(geometry)
    stitcher.add(patch[None], [[52.0, 108.0]])
    added, weight = stitcher.result()
    assert np.argwhere(added).tolist() == [[7, 13]]
    assert added[7, 13] == 2j
    assert weight.sum() == N * N


@pytest.mark.parametrize("fraction", [(0.25, 0.0), (0.0, 0.75), (0.25, 0.75)])
def test_bright_pixel_between_pixels(fraction):
    """Invariant 12: a shift of the position by +fx, +fy moves what the patch shows by -fx, -fy."""
    fx, fy = fraction
    geometry = CanvasGeometry(np.zeros(2), (12, 12))
    canvas = np.zeros((12, 12), np.complex128)
    canvas[6, 5] = 1
    patch = extract_patches(canvas, [[5 + fx, 6 + fy]], geometry, 4)[0]
    expected = np.zeros((4, 4))
    expected[2, 2], expected[1, 2], expected[2, 1], expected[1, 1] = (
        (1 - fy) * (1 - fx),
        fy * (1 - fx),
        (1 - fy) * fx,
        fy * fx,
    )
    np.testing.assert_allclose(patch, expected, atol=1e-12)


@given(strategies.positions(), strategies.sizes, strategies.generators)
def test_scatter_add_is_the_adjoint_of_extraction(positions, N, rng):
    """Invariant 12: <extract(O), p> = <O, place(p)> for complex O and p."""
    geometry = canvas_geometry(positions, N)
    canvas, patches = complex_array(rng, *geometry.shape), complex_array(rng, len(positions), N, N)
    stitcher = Stitcher(geometry)
    stitcher.add(patches, positions)
    merged, weight = stitcher.result()
    left = np.vdot(extract_patches(canvas, positions, geometry, N), patches)
    right = np.vdot(canvas, merged * weight)
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4 * N * len(positions) ** 0.5)


@given(strategies.positions(), strategies.sizes, strategies.generators)
def test_transposing_everything_transposes_the_canvas(positions, N, rng):
    """Invariant 11."""
    patches, weight = complex_array(rng, len(positions), N, N), rng.uniform(0.1, 1, (N, N))
    canvas, total = stitched(patches, positions, weight)
    turned, turned_total = stitched(patches.transpose(0, 2, 1), positions[:, ::-1], weight.T)
    np.testing.assert_allclose(turned.T, canvas, atol=1e-6)
    np.testing.assert_allclose(turned_total.T, total, rtol=1e-6)


@given(strategies.positions(min_count=2), strategies.sizes, strategies.generators, st.integers(1, 5))
def test_order_and_batching_do_not_matter(positions, N, rng, batch):
    """Invariant 13, 39: permuting patches with their positions, or streaming them, leaves the canvas."""
    patches = complex_array(rng, len(positions), N, N)
    order = rng.permutation(len(positions))
    whole = stitched(patches, positions)
    for other in (stitched(patches[order], positions[order]), stitched(patches, positions, batch=batch)):
        np.testing.assert_allclose(other[0], whole[0], atol=1e-5)
        np.testing.assert_allclose(other[1], whole[1], rtol=1e-6)


@given(strategies.positions(min_count=2, whole=True), strategies.generators)
def test_patches_at_each_others_positions_give_another_canvas(positions, rng):
    """Invariant 13: a shuffled pairing shows."""
    assume(len(np.unique(positions, axis=0)) == len(positions))
    patches = complex_array(rng, len(positions), 6, 6)
    right, wrong = stitched(patches, positions)[0], stitched(np.roll(patches, 1, axis=0), positions)[0]
    assert np.abs(right - wrong).max() > 1e-3


@given(strategies.positions(min_count=4, max_count=12), strategies.sizes, strategies.generators)
def test_groups_are_added_channel_by_channel(positions, N, rng):
    """Invariant 14, 13: C = 4; the same as adding each member by hand."""
    groups = group(positions, gridsize=2)
    patches = complex_array(rng, len(groups), 4, N, N)
    geometry = canvas_geometry(positions, N)
    stitcher = Stitcher(geometry)
    stitcher.add_groups(patches, groups, positions)
    expected = np.zeros(geometry.shape, np.complex128)
    for row in range(len(groups)):
        for channel in range(4):
            where = positions[groups.nn_indices[row, channel]][None]
            expected += reference.scatter_add(patches[row, channel][None], where, geometry.shape, geometry.origin_yx_px)
    canvas, weight = stitcher.result()
    np.testing.assert_allclose(canvas * weight, expected, atol=1e-4)
    assert stitcher.patches == 4 * len(groups)


@given(strategies.positions(offset_px=0), strategies.sizes, strategies.generators, st.integers(-(10**6), 10**6))
def test_translated_scan_has_the_same_canvas(positions, N, rng, shift):
    """Invariant 15: only the origin moves."""
    patches = complex_array(rng, len(positions), N, N)
    here, there = stitched(patches, positions), stitched(patches, positions + np.array([shift, -shift]))
    np.testing.assert_allclose(there[0], here[0], atol=1e-5)
    np.testing.assert_allclose(there[1], here[1], atol=1e-6)


@given(strategies.positions(), strategies.sizes, strategies.generators)
def test_nothing_is_lost_at_borders(positions, N, rng):
    """Invariant 16: sum of weights = patches x patch weight; 17: one support, constants stay constant."""
    weight = rng.uniform(0, 1, (N, N)) * (rng.random((N, N)) > 0.4)
    patches = np.full((len(positions), N, N), 0.3 - 0.7j, np.complex64)
    canvas, total = stitched(patches, positions, weight)
    np.testing.assert_allclose(total.sum(dtype=float), len(positions) * weight.sum(), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(canvas[total > 0], 0.3 - 0.7j, rtol=1e-5)
    assert not canvas[total == 0].any()


def test_weights_of_any_size_are_divided_out():
    """Invariant 17: weights from 1e-30 to 1e30 leave a constant as it is, and invisible ones leave nothing."""
    for scale in (1e-30, 1.0, 1e30):
        canvas, weight = stitched(np.full((1, 4, 4), 2 + 1j), np.array([[0.5, 0.5]]), np.full((4, 4), scale))
        np.testing.assert_allclose(canvas[weight > 0], 2 + 1j, rtol=1e-6)
        assert (weight > 0).sum() == 25
    canvas, weight = stitched(np.full((1, 4, 4), 2 + 1j), np.array([[0.5, 0.5]]), np.full((4, 4), 1e-60))
    assert not weight.any()
    assert not canvas.any()


@given(strategies.positions(min_count=1), strategies.sizes, strategies.generators, st.booleans(), st.booleans())
def test_single_precision_and_many_patches_agree_with_the_reference(positions, N, rng, single, shared):
    """Invariant 12, 17, 39: STI-6, both precisions, one weight or one a patch, close together and far apart."""
    far = positions[0] + rng.uniform(-700, 700, (5, 2))
    positions = np.concatenate([np.repeat(positions, 40, axis=0), far])
    patches = complex_array(rng, len(positions), N, N).astype(np.complex64 if single else np.complex128)
    weight = rng.uniform(0, 1, (N, N) if shared else patches.shape)
    origin, shape = reference.canvas_geometry(positions, N)
    order = rng.permutation(len(positions))
    numerator = reference.scatter_add(weight * patches, positions, shape, origin)
    total = reference.scatter_add(np.broadcast_to(weight, patches.shape), positions, shape, origin).real
    largest = reference.scatter_add(np.abs(weight * patches), positions, shape, origin).real
    canvas, result = stitched(patches[order], positions[order], weight if shared else weight[order], batch=61)
    np.testing.assert_allclose(result, total, rtol=1e-5, atol=1e-9)
    assert (np.abs(canvas * result - numerator) <= 1e-5 * largest + 1e-9).all()


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e30, 1e37])
def test_single_precision_does_not_overflow(scale):
    """Invariant 17: STI-6, complex64 patches, weights near the ends of float32, far apart and together."""
    positions = np.concatenate([np.full((30, 2), 0.25), [[500.5, 3.5]]])
    patches = np.full((31, 4, 4), 2 + 1j, np.complex64)
    canvas, weight = stitched(patches, positions, np.full((4, 4), scale))
    seen = weight > 0
    np.testing.assert_allclose(canvas[seen], 2 + 1j, rtol=1e-5)
    np.testing.assert_allclose(weight.max(), 30 * scale, rtol=1e-5)
    assert seen.sum() == 50


def test_weight_per_patch():
    positions = np.zeros((2, 2))
    patches = np.stack([np.full((2, 2), 1 + 0j), np.full((2, 2), 4 + 0j)])
    weight = np.stack([np.full((2, 2), 2.0), np.full((2, 2), 1.0)])
    canvas, total = stitched(patches, positions, weight)
    np.testing.assert_allclose(canvas[:2, :2], 2.0)
    np.testing.assert_allclose(total[:2, :2], 3.0)


@given(strategies.positions(min_count=2, whole=True), strategies.generators)
def test_jittered_positions_change_the_canvas(positions, rng):
    """Invariant 20: true positions are used, not their whole parts."""
    patches = complex_array(rng, len(positions), 6, 6)
    geometry = canvas_geometry(np.concatenate([positions - 1, positions + 1]), 6)
    exact = stitched(patches, positions, geometry=geometry)[0]
    jittered = stitched(patches, positions + rng.uniform(0.1, 0.4, positions.shape), geometry=geometry)[0]
    assert np.abs(exact - jittered).max() > 1e-3


@given(strategies.sizes, strategies.generators)
def test_patch_without_margin_on_a_tight_canvas(N, rng):
    """Invariant 18: at whole positions a canvas may end with the patch, in both directions."""
    canvas = complex_array(rng, N, N + 1)
    geometry = CanvasGeometry(np.array([5.0, 7.0]), canvas.shape)
    positions = np.array([[7.0 + N // 2, 5 + N // 2], [8.0 + N // 2, 5 + N // 2]])
    patches = extract_patches(canvas, positions, geometry, N)
    np.testing.assert_allclose(patches, [canvas[:, :N], canvas[:, 1:]])
    np.testing.assert_allclose(stitched(patches, positions, geometry=geometry)[0], canvas, atol=1e-6)


@pytest.mark.parametrize(
    ("patches", "positions", "weight", "code"),
    [
        (np.ones((3, 4, 4), complex), np.zeros((2, 2)), None, "stitch.counts_differ"),
        (np.ones((1, 4, 4), complex), np.zeros((3, 2)), None, "stitch.counts_differ"),
        (np.ones((2, 4, 5), complex), np.zeros((2, 2)), None, "stitch.patches"),
        (np.ones((1, 4, 4, 4), complex), np.zeros((1, 2)), None, "stitch.patches"),
        (np.full((1, 4, 4), np.nan, complex), np.zeros((1, 2)), None, "array.not_finite"),
        (np.ones((1, 4, 4), complex), np.zeros((1, 2)), np.ones((3, 3)), "stitch.weight"),
        (np.ones((1, 4, 4), complex), np.zeros((1, 2)), -np.ones((4, 4)), "stitch.weight"),
        (np.ones((1, 4, 4), complex), np.full((1, 2), 9.0), None, "canvas.outside"),
    ],
)
def test_bad_batches_are_refused_and_add_nothing(patches, positions, weight, code):
    """Invariant 13, 16: unequal counts and patches beyond the canvas raise; nothing is broadcast or dropped."""
    stitcher = Stitcher(canvas_geometry(np.zeros((1, 2)), 4))
    with pytest.raises(ContractError) as caught:
        stitcher.add(patches, positions, weight)
    assert code in caught.value.codes
    assert stitcher.patches == 0
    assert not stitcher.result()[1].any()


def test_group_patches_of_another_layout_are_refused():
    """Invariant 14: channels last is an error, not a guess."""
    positions = np.arange(8.0).reshape(4, 2)
    stitcher = Stitcher(canvas_geometry(positions, 4))
    with pytest.raises(ContractError, match=r"\(n, C\) = \(1, 4\)"):
        stitcher.add_groups(np.ones((1, 6, 6, 4), complex), groups_at(positions, [[0, 1, 2, 3]]), positions)


def test_canvas_of_another_shape_than_its_frame_is_refused():
    with pytest.raises(ContractError, match="as its frame says"):
        extract_patches(np.zeros((9, 9)), [[4.0, 4.0]], CanvasGeometry(np.zeros(2), (9, 8)), 4)


def test_a_canvas_beyond_the_memory_is_refused_before_it_is_made(monkeypatch):
    """GEO-7."""
    monkeypatch.setattr("ptycho_data.free_memory.available_bytes", lambda: 35_999_999)
    geometry = CanvasGeometry(np.zeros(2), (1000, 1000))
    with pytest.raises(ContractError) as caught:
        Stitcher(geometry)
    assert caught.value.codes == ("memory.free",)
    monkeypatch.setattr("ptycho_data.free_memory.available_bytes", lambda: 36_000_000)
    assert Stitcher(geometry).geometry is geometry
