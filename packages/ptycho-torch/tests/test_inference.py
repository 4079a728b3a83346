"""From a scan and a model to an object, on one canvas and by stitching (specs/training.md IMG)."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptycho_contracts.testing import reference
from ptycho_data.batches import ModuliStream
from ptycho_data.canvas import sparse_subsets
from ptycho_data.grouping import group
from ptycho_data.workflows import CanvasTask
from ptycho_data.workflows.infer import infer_by_groups, infer_on_canvas
from ptycho_torch.backend import BACKEND
from ptycho_torch.model import PtychoModel


@pytest.fixture(scope="module")
def view(scan, view_of):
    """All patterns of the scan."""
    return view_of(scan)


@pytest.fixture(scope="module")
def model(scan, make_model) -> PtychoModel:
    """An untrained ``unrolled``: physics alone, which already gives an image."""
    return make_model(scan.probe, gridsize=2, iterations=2)


def groups_of(view, gridsize=2):
    """One group a used pattern."""
    return group(view.positions_px, gridsize=gridsize, allowed=view.used)


def residual(view, object_, indices=None) -> float:
    """R of the NumPy reference, for an object that belongs to a probe of unit energy."""
    chosen = view.used if indices is None else indices
    patches = reference.extract_patches(object_, view.positions_px[chosen], view.source.N, view.geometry.origin_yx_px)
    probe = reference.normalised_probe(view.source.probe, view.mean_counts)
    return reference.residual(reference.simulate_counts(patches, probe), view.source.counts(chosen))


def image(how, model, view, **options):
    """By either way of inference."""
    if how == "canvas":
        return infer_on_canvas(BACKEND, model, view, **options)
    return infer_by_groups(BACKEND, model, view, groups_of(view), **options)


ways = pytest.mark.parametrize("how", ["canvas", "groups"])


@ways
def test_an_image_explains_the_patterns(how, model, view):
    """Right place, right orientation, right scale: far better than empty space, mirrored or shifted images."""
    result = image(how, model, view)
    assert result.shape == view.geometry.shape
    assert result.dtype == np.complex64
    own = residual(view, result)
    for wrong in (np.ones_like(result), result[::-1], result[:, ::-1], np.roll(result, 2, 0), np.roll(result, 2, 1)):
        assert own < 0.6 * residual(view, wrong)


@ways
@settings(max_examples=8)
@given(move=st.tuples(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6)))
def test_translation_moves_the_origin_only(how, model, view, view_of, move):
    """Invariant 15, to a million pixels: the same bits."""
    where = np.round(view.positions_px * 8) / 8
    here = view_of(replace(view.source, positions_px=where))
    there = view_of(replace(view.source, positions_px=where + move))
    np.testing.assert_array_equal(image(how, model, there), image(how, model, here))
    np.testing.assert_array_equal(there.geometry.origin_yx_px - here.geometry.origin_yx_px, move[::-1])


@ways
@pytest.mark.parametrize("factor", [0.25, 64])
def test_dose_leaves_the_object(how, model, view, view_of, factor):
    """Invariant 1."""
    brighter = replace(view.source, measurements=np.asarray(view.source.measurements, np.float32) * np.float32(factor))
    np.testing.assert_allclose(image(how, model, view_of(brighter)), image(how, model, view), atol=1e-4)


@ways
def test_storage_of_the_patterns_is_no_matter(how, model, view, view_of):
    """Invariant 7: integers, floats and amplitudes."""
    expected = image(how, model, view)
    counts = np.asarray(view.source.measurements)
    for stored, unit in (
        (counts.astype(np.uint32), "counts"),
        (counts.astype(np.float64), "counts"),
        (np.sqrt(counts.astype(np.float64)), "amplitude"),
    ):
        other = view_of(replace(view.source, measurements=stored, unit=unit))
        np.testing.assert_allclose(image(how, model, other), expected, atol=1e-4)


@ways
def test_moved_positions_change_the_image(how, model, view, view_of):
    """Invariant 20: on the same canvas, because the outermost positions set its size and stay."""
    low, high = view.positions_px.min(0), view.positions_px.max(0)
    moved = view.positions_px + np.random.default_rng(0).uniform(-1, 1, view.positions_px.shape)
    outermost = (view.positions_px == low) | (view.positions_px == high)
    moved = np.where(outermost.any(1, keepdims=True), view.positions_px, np.clip(moved, low, high))
    result = image(how, model, view_of(replace(view.source, positions_px=moved)))
    assert np.abs(result - image(how, model, view)).max() > 0.1


@ways
def test_transposed_scans_have_transposed_images(how, view, view_of, make_model):
    """Invariant 11: positions, patterns and probe turned over the diagonal."""
    turned = replace(
        view.source,
        measurements=np.ascontiguousarray(np.swapaxes(view.source.measurements, 1, 2)),
        positions_px=np.ascontiguousarray(view.positions_px[:, ::-1]),
        probe=np.ascontiguousarray(np.swapaxes(view.source.probe, 1, 2)),
        object_truth=None,
        object_origin_yx_px=None,
    )
    # Untrained nets add nothing: what remains is physics, which knows no preferred axis.
    here = image(how, make_model(view.source.probe, gridsize=2), view)
    there = image(how, make_model(turned.probe, gridsize=2), view_of(turned))
    # Rounding grows where it is dark; a wrong axis anywhere would show everywhere.
    difference = np.abs(there.T - here)
    assert difference.mean() < 1e-3
    assert difference.max() < 0.05
    assert np.abs(there - here).mean() > 0.05


@ways
def test_held_out_patterns_change_no_bit(how, model, view, view_of):
    """Invariant 10: neither their content nor that of any of them."""
    held = np.arange(0, 64, 7)
    altered = np.array(view.source.measurements)
    altered[held] = altered[held][:, ::-1] * 3 + 1
    one, other = (
        view_of(replace(view.source, measurements=data), held=held) for data in (view.source.measurements, altered)
    )
    np.testing.assert_array_equal(image(how, model, one), image(how, model, other))


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64, 1000])
def test_groups_in_any_batches(model, view, batch_size):
    """Invariants 8, 39: the same image, to rounding, however many patterns at once."""
    model = PtychoModel(model.config, view.source.probe)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    groups = groups_of(view)
    expected = infer_by_groups(BACKEND, model, view, groups)
    np.testing.assert_allclose(
        infer_by_groups(BACKEND, model, view, groups, batch_size=batch_size), expected, atol=1e-4
    )


def test_order_of_the_groups_is_no_matter(model, view):
    """Invariant 13: stitching sums in float64."""
    groups = groups_of(view)
    order = np.random.default_rng(0).permutation(len(groups))
    shuffled = type(groups)(
        **{name: getattr(groups, name)[order] for name in ("nn_indices", "coords_offsets", "coords_relative")}
    )
    np.testing.assert_allclose(
        infer_by_groups(BACKEND, model, view, shuffled), infer_by_groups(BACKEND, model, view, groups), atol=1e-5
    )


def test_unstitched_pixels_are_empty_space(model, view):
    """Pixels of the canvas that no group covers hold 1, and never NaN."""
    groups = groups_of(view)
    few = type(groups)(
        **{name: getattr(groups, name)[:1] for name in ("nn_indices", "coords_offsets", "coords_relative")}
    )
    result = infer_by_groups(BACKEND, model, view, few)
    assert np.isfinite(result).all()
    corners = (view.positions_px[groups.nn_indices[0]][:, ::-1] - 16 - view.geometry.origin_yx_px).astype(int)
    covered = np.zeros(result.shape, bool)
    for y, x in corners:
        covered[y : y + 33, x : x + 33] = True
    assert (~covered).any()
    np.testing.assert_array_equal(result[~covered], 1)


def test_permuted_patterns_give_the_same_object_nearly(model, view, view_of):
    """Patterns and positions in another order fall into other subsets of the pass: the image explains as much.

    It is not the same to rounding: a pass is sequential (IMG-3).
    """
    order = np.random.default_rng(3).permutation(64)
    other = view_of(
        replace(
            view.source,
            measurements=view.source.measurements[order],
            positions_px=view.positions_px[order],
            scan_index=view.source.scan_index[order],
        )
    )
    one, two = infer_on_canvas(BACKEND, model, view), infer_on_canvas(BACKEND, model, other)
    np.testing.assert_array_equal(infer_on_canvas(BACKEND, model, view), one)
    assert residual(other, two) == pytest.approx(residual(view, one), rel=0.1)


def test_permuted_patterns_in_one_subset_give_the_same_image(make_model, view, view_of):
    """Invariant 13: one subset of one iteration is a plain sum over patterns."""
    order = np.random.default_rng(3).permutation(64)
    model = make_model(view.source.probe, iterations=1, passes=1)
    few = replace(view, used=np.arange(2))
    other = view_of(
        replace(
            view.source,
            measurements=view.source.measurements[order],
            positions_px=view.positions_px[order],
            scan_index=view.source.scan_index[order],
        )
    )
    result = []
    for one, used in ((few, few.used), (other, np.array([np.argmax(order == 1), np.argmax(order == 0)]))):
        part = replace(one, used=used, mean_counts=1e5)
        stream = ModuliStream(part.source, [used], passes=1, mean_counts=1e5)
        subsets = [np.arange(2)]
        result += BACKEND.infer_canvas(model, CanvasTask(stream, one.sites[used], subsets))
    np.testing.assert_allclose(result[0], result[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 5, 1])
def test_subsets_are_all_patterns_once(model, view, batch_size):
    """A pass uses every pattern; none of its steps more than was allowed."""
    subsets = sparse_subsets(model.probe_array(), view.sites, most=batch_size)
    together = np.concatenate(subsets)
    assert sorted(together.tolist()) == list(range(64))
    assert max(map(len, subsets)) <= (batch_size or 64)
    assert len(subsets) > 1


def test_memory_is_that_of_a_subset(model, view):
    """Invariant 39: the patterns are never all read at once."""
    reads = []

    class Counting:
        N, bad_pixels, scan_index = 32, None, view.source.scan_index

        def __len__(self):
            return len(view.source)

        def counts(self, index=slice(None)):
            reads.append(len(index))
            return view.source.counts(index)

    counted = replace(view, source=Counting())
    infer_on_canvas(BACKEND, model, counted, batch_size=6)
    assert max(reads) <= 6
    assert sum(reads) == model.config.iterations * model.config.passes * 64
    reads.clear()
    infer_by_groups(BACKEND, model, counted, groups_of(view), batch_size=8)
    assert max(reads) == 8


@ways
@pytest.mark.parametrize("workers", [1, 2])
def test_readers_ahead_change_no_bit(how, model, view, workers):
    """Invariant 42, and they end with the work."""
    before = threading.active_count()
    result = image(how, model, view, num_workers=workers, batch_size=8)
    np.testing.assert_array_equal(result, image(how, model, view, batch_size=8))
    assert threading.active_count() == before


@ways
def test_progress(how, model, view):
    """Done counts up to all, under one name."""
    seen = []
    image(how, model, view, progress=lambda *report: seen.append(report))
    names, done, totals = zip(*seen, strict=True)
    assert len(set(names)) == len(set(totals)) == 1
    assert list(done) == sorted(done)
    assert done[-1] == totals[0]


@ways
def test_bad_pixels_do_not_matter(how, model, view, view_of):
    """PHY-9."""
    bad = np.zeros((32, 32), bool)
    bad[16, 16] = bad[3, 4] = True
    wild = np.array(view.source.measurements)
    wild[:, bad] = 40000
    one, other = (
        view_of(replace(view.source, measurements=data, bad_pixels=bad)) for data in (view.source.measurements, wild)
    )
    np.testing.assert_array_equal(image(how, model, one), image(how, model, other))


@ways
def test_random_state_and_inputs_stay(how, model, view):
    """Invariant 42."""
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    measured, where = np.array(view.source.measurements), view.positions_px.copy()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    image(how, model, view)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    np.testing.assert_array_equal(view.source.measurements, measured)
    np.testing.assert_array_equal(view.positions_px, where)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_residual_against_the_reference(view):
    """PHY-22 and PHY-23, in chunks, and of each pattern; None for no patterns."""
    rng = np.random.default_rng(0)
    object_ = (rng.random(view.geometry.shape) + 1j * rng.random(view.geometry.shape)).astype(np.complex64)
    probe = reference.normalised_probe(view.source.probe, view.mean_counts).astype(np.complex64)
    chosen = np.array([3, 9, 50])
    result = BACKEND.residual(view.source, object_, probe, view.sites, chosen, device="cpu")
    patches = reference.extract_patches(object_, view.positions_px[chosen], 32, view.geometry.origin_yx_px)
    simulated = reference.simulate_counts(patches, probe)
    measured = view.source.counts(chosen)
    assert result.value == pytest.approx(reference.residual(simulated, measured), rel=1e-4)
    each = [reference.residual(one, counts) for one, counts in zip(simulated, measured, strict=True)]
    assert result.squares / result.counts == pytest.approx(each, rel=1e-4)
    assert result.floor == pytest.approx(reference.poisson_floor(simulated), rel=0.02)
    none = BACKEND.residual(view.source, object_, probe, view.sites, chosen[:0], device="cpu")
    assert (none.value, none.floor, len(none.squares)) == (None, None, 0)
