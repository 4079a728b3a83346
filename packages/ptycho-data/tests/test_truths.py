"""ARR-17, STORE-1a, BATCH-3, COMB: true objects of several scans, kept and read at the right place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_contracts.records import Scan, Truth
from ptycho_contracts.testing import reference, strategies
from ptycho_data.batches.gathering import gather, mean_counts
from ptycho_data.batches.truths import require_truth, truth_arrays, truth_patches
from ptycho_data.files import combine_scans, write_scan
from ptycho_data.grouping.groups import group
from ptycho_data.simulate import defocused_disc, jittered, scans_from
from ptycho_data.store.stores import create_store, open_store, verify_store
from ptycho_data.store.writer import create_store_from_chunks


def scan_at(positions_px, N, truth=None, origin=None):
    """Patterns of ones at some positions."""
    return Scan(
        measurements=np.ones((len(positions_px), N, N), np.uint16),
        unit="counts",
        positions_px=np.asarray(positions_px, np.float64),
        object_truth=truth,
        object_origin_yx_px=None if origin is None else np.asarray(origin, np.float64),
    )


@pytest.fixture(scope="module")
def synthetic() -> Scan:
    """Three objects at 12 positions each."""
    positions = jittered(12, step_px=4, seed=3) + 1e5
    return scans_from(positions, defocused_disc(16), count=3, photons_per_pattern=2e4, seed=5)


@given(
    where=st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)),
    N=st.integers(4, 9),
    pixel=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    margin=st.tuples(st.floats(0, 3), st.floats(0, 3)),
)
def test_a_bright_pixel_is_at_its_object_coordinate(where, N, pixel, margin):
    """Invariants 12, 15: four bilinear weights by hand, for fractional positions and origins."""
    side = N + 5
    row, column = pixel[0] % side, pixel[1] % side
    truth = np.zeros((side, side), np.complex64)
    truth[row, column] = 1 - 2j
    x, y = where
    origin = np.array([y - N // 2 - margin[0], x - N // 2 - margin[1]])
    patch = truth_patches(scan_at([where], N, truth, origin), [0])[0]
    # Patch pixel [i, j] reads object coordinate (y - N // 2 + i, x - N // 2 + j): a hat of width 1 about the pixel.
    along_y = np.maximum(0, 1 - np.abs((y - N // 2 + np.arange(N)) - (origin[0] + row)))
    along_x = np.maximum(0, 1 - np.abs((x - N // 2 + np.arange(N)) - (origin[1] + column)))
    np.testing.assert_allclose(patch, (1 - 2j) * np.outer(along_y, along_x), atol=1e-5)


@given(scan=strategies.scans(min_count=4), seed=st.integers(0, 5))
def test_truth_through_the_forward_model_is_the_data(tmp_path_factory, scan, seed):
    """Invariant 21: the NumPy reference simulates the noiseless counts of a batch from its truth patches."""
    groups = group(scan.positions_px, gridsize=2, n_groups=3, neighbor_count=3, seed=seed)
    for source in (scan, create_store(tmp_path_factory.mktemp("truth") / "s", scan)):
        batch = gather(source, groups, slice(None), mean_counts=mean_counts(scan), truth=True)
        assert batch.truth.shape == batch.counts.shape
        assert batch.truth.dtype == np.complex64
        counts = reference.simulate_counts(batch.truth.reshape(-1, scan.N, scan.N), scan.probe)
        np.testing.assert_allclose(batch.counts.reshape(counts.shape), counts, atol=2e-5 * counts.max())
    assert gather(scan, groups, slice(None), mean_counts=mean_counts(scan)).truth is None


def test_each_scan_has_the_truth_of_its_own(synthetic):
    """ARR-17, SIM-14: at each pattern the object of its scan, by the NumPy reference's own interpolation."""
    assert set(synthetic.truths) == {0, 1, 2}
    assert synthetic.object_truth is None
    patches = truth_patches(synthetic, np.arange(36)[::-1])[::-1]
    for number in range(3):
        mine, truth = synthetic.scan_index == number, synthetic.truths[number]
        expected = reference.extract_patches(truth.object, synthetic.positions_px[mine], 16, truth.origin_yx_px)
        np.testing.assert_allclose(patches[mine], expected, atol=1e-6)
    assert not np.allclose(synthetic.truths[0].object, synthetic.truths[1].object)


def test_combining_keeps_truths_by_the_new_numbers():
    """COMB-1: also of a file of several scans with one object, and beside a scan without any."""
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(9, 9)).astype(np.complex64) for _ in range(2))
    shared = replace(scan_at([[4, 4]] * 4, 6, first, (0, 0)), scan_index=np.array([7, 3, 3, 7]))
    alone, bare = scan_at([[5, 4]], 6, second, (1, 2)), scan_at([[0, 0]], 6)
    joined = combine_scans([bare, shared, alone])
    assert joined.scan_index.tolist() == [0, 2, 1, 1, 2, 3]
    assert set(joined.truths) == {1, 2, 3}
    np.testing.assert_array_equal(joined.truths[1].object, first)
    np.testing.assert_array_equal(joined.truths[2].object, first)
    np.testing.assert_array_equal(joined.truths[3].object, second)
    np.testing.assert_array_equal(joined.truths[3].origin_yx_px, [1, 2])


def test_a_store_keeps_the_truth_of_every_scan(synthetic, tmp_path):
    """STORE-1a and invariant 26: in the key, checksummed, read-only; written in blocks it is the same store."""
    store = create_store(tmp_path / "s", synthetic)
    verify_store(tmp_path / "s")
    for number, truth in synthetic.truths.items():
        np.testing.assert_array_equal(store.truths[number].object, truth.object)
        np.testing.assert_array_equal(store.truths[number].origin_yx_px, truth.origin_yx_px)
        assert not store.truths[number].object.flags.writeable
    brighter = synthetic.truths | {1: replace(synthetic.truths[1], object=synthetic.truths[1].object * 2)}
    moved = synthetic.truths | {1: replace(synthetic.truths[1], origin_yx_px=synthetic.truths[1].origin_yx_px + 1)}
    keys = {
        create_store(tmp_path / f"other{number}", replace(synthetic, object_truths=truths)).key
        for number, truths in enumerate((brighter, moved, {}, {0: synthetic.truths[0]}))
    }
    assert len(keys | {store.key}) == 5
    written = create_store_from_chunks(
        tmp_path / "blocks",
        lambda start: iter([synthetic.measurements[start:]]),
        shape=synthetic.measurements.shape,
        dtype=synthetic.measurements.dtype,
        unit="counts",
        positions_px=synthetic.positions_px,
        probe_kind="exact",
        metadata=synthetic.metadata,
        arrays={"scan_index": synthetic.scan_index, "probe": synthetic.probe, **truth_arrays(synthetic.truths)},
    )
    assert written.key == store.key


def test_a_damaged_truth_is_noticed(synthetic, tmp_path):
    """Invariant 44: half a pair does not open or get written; an altered value does not verify."""
    create_store(tmp_path / "s", synthetic)
    victim = tmp_path / "s" / "object_truth_2.npy"
    content = bytearray(victim.read_bytes())
    content[-3] ^= 1
    victim.write_bytes(content)
    with pytest.raises(ContractError, match=r"object_truth_2.*store\.checksum"):
        verify_store(tmp_path / "s")
    victim.unlink()
    with pytest.raises(ContractError, match="object_truth_2"):
        open_store(tmp_path / "s")
    half = {"object_truth_0": synthetic.truths[0].object}
    with pytest.raises(ContractError, match=r"object_origin_yx_px_0.*array\.missing"):
        create_store_from_chunks(
            tmp_path / "half",
            lambda start: iter(()),
            shape=(2, 4, 4),
            dtype=np.uint8,
            unit="counts",
            positions_px=np.zeros((2, 2)),
            arrays=half,
        )


def test_what_is_missing_is_reported_at_once():
    """BATCH-3: scans without truth and patches beyond one, before any work; only among the requested patterns."""
    truth = np.ones((9, 9), np.complex64)
    inside, outside, bare = (
        scan_at([[4, 4]], 6, truth, (0, 0)),
        scan_at([[40, 4]], 6, truth, (0, 0)),
        scan_at([[0, 0]], 6),
    )
    joined = combine_scans([inside, outside, bare])
    require_truth(joined, [0])
    with pytest.raises(ContractError) as caught:
        require_truth(joined, [0, 1, 2])
    assert sorted(caught.value.codes) == ["canvas.outside", "truth.missing"]
    assert "`synthetic" in str(caught.value)
    assert "true object of scan 1" in str(caught.value)
    for index, code in ((1, "canvas.outside"), (2, "truth.missing")):
        with pytest.raises(ContractError) as caught:
            truth_patches(joined, [0, index])
        assert caught.value.codes == (code,)


def test_records_refuse_truths_that_contradict(synthetic):
    """ARR-17: both ways at once, and keys that are no scan; a bad object names itself."""
    truth = synthetic.truths[0]
    with pytest.raises(ContractError) as caught:
        replace(synthetic, object_truth=truth.object, object_origin_yx_px=truth.origin_yx_px, object_truths={9: truth})
    assert caught.value.codes == ("record.truths",) * 2
    with pytest.raises(ContractError, match=r"Truth: origin_yx_px.*array\.dtype"):
        Truth(object=truth.object, origin_yx_px=np.zeros(2, np.float32))


def test_a_file_holds_one_object(synthetic, tmp_path):
    """COMB-2: refused, not dropped in silence."""
    with pytest.raises(ContractError, match=r"scan\.several_truths"):
        write_scan(tmp_path / "s.npz", synthetic)
    assert not (tmp_path / "s.npz").exists()
    write_scan(tmp_path / "s.npz", replace(synthetic, object_truths={}))
