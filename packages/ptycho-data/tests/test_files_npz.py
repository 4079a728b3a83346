"""NPZ and SCAN: reading, writing, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, MissingFileError
from ptycho_contracts.testing import reference, strategies
from ptycho_data.files import combine_scans, file_sha256, read_scan, write_scan


def arrays(M=6, N=8, **changes):
    """A good NPZ of counts; a change of None leaves the key out."""
    rng = np.random.default_rng(0)
    good = {
        "diff3d": rng.poisson(40, (M, N, N)).astype(np.uint16),
        "xcoords": rng.uniform(10, 30, M),
        "ycoords": rng.uniform(20, 40, M),
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def saved(tmp_path, name="scan.npz", **changes):
    np.savez(tmp_path / name, **arrays(**changes))
    return tmp_path / name


def codes_of(path, **options):
    with pytest.raises(ContractError) as caught:
        read_scan(path, **options)
    return caught.value.codes


def test_keys_become_a_scan(tmp_path):
    """Invariant 11: xcoords is column 0, x; nothing is swapped or shifted."""
    path = saved(tmp_path, scan_index=np.array([0, 0, 0, 1, 1, 1], np.uint8), bad_pixels=np.eye(8, dtype=np.uint8))
    scan = read_scan(path)
    given_ = arrays()
    np.testing.assert_array_equal(scan.positions_px, np.stack([given_["xcoords"], given_["ycoords"]], axis=1))
    np.testing.assert_array_equal(scan.measurements, given_["diff3d"])
    assert scan.measurements.dtype == np.uint16
    assert scan.unit == "counts"
    assert scan.probe is None
    assert scan.scan_index.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(scan.bad_pixels, np.eye(8, dtype=bool))
    assert scan.metadata["sha256"] == file_sha256(path)
    assert scan.metadata["format"] == "npz"
    json.dumps(scan.metadata)


def test_other_spellings_of_the_keys(tmp_path):
    source = arrays()
    positions = np.stack([source["xcoords"], source["ycoords"]], axis=1)
    np.savez(
        tmp_path / "a.npz",
        diffraction=source["diff3d"],
        positions_px=positions.astype(">f4"),
        probe=np.ones((2, 8, 8), np.complex128),
        xcoords_start=np.zeros(99),
        unknown=np.zeros(3),
    )
    scan = read_scan(tmp_path / "a.npz")
    np.testing.assert_allclose(scan.positions_px, positions, rtol=1e-6)
    assert scan.probe.shape == (2, 8, 8)
    assert scan.probe.dtype == np.complex64


def test_photons_are_measured_on_good_pixels(tmp_path):
    """Invariant 9, 7: the dose comes from the data, in floating point, not from a label or a broken pixel."""
    counts = np.full((3, 8, 8), 60000, np.uint16)
    bad = np.zeros((8, 8), bool)
    bad[0, 0] = True
    scan = read_scan(saved(tmp_path, M=3, diff3d=counts, bad_pixels=bad, nphotons=np.float64(5.0)))
    assert scan.metadata["nphotons"] == 63 * 60000
    assert scan.metadata["nphotons_declared"] == 5.0


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i8", "f4", "f8", ">u2", ">f4"])
def test_storage_dtype_changes_nothing(tmp_path, dtype):
    """Invariant 7: the same counts in any dtype."""
    counts = np.random.default_rng(0).integers(0, 256, (6, 8, 8))
    scan = read_scan(saved(tmp_path, diff3d=counts.astype(dtype)), measurement="counts")
    np.testing.assert_array_equal(scan.counts(), counts.astype(np.float32))
    assert scan.counts().dtype == np.float32


@pytest.mark.parametrize("dtype", ["u2", "u4", "f4", "f8"])
def test_amplitude_beyond_256_is_squared_in_floating_point(tmp_path, dtype):
    """Invariant 7: values above 255 and squares above 256^2."""
    amplitude = np.random.default_rng(0).integers(200, 3000, (6, 8, 8))
    scan = read_scan(saved(tmp_path, diff3d=amplitude.astype(dtype)), measurement="amplitude")
    np.testing.assert_allclose(scan.counts(), amplitude.astype(float) ** 2, rtol=1e-6)
    photons = np.square(amplitude.astype(float)).sum() / 6
    assert scan.metadata["nphotons"] == pytest.approx(photons, rel=1e-9)
    assert scan.metadata["measurement"]["evidence"]["mean_sum_of_squares"] == pytest.approx(photons, rel=1e-9)


@given(scan=strategies.scans(), number=st.integers(0, 2**31))
@settings(max_examples=15)
def test_round_trip(tmp_path_factory, scan, number):
    """Invariant 12, 1: writing and reading gives the same arrays, unit and kinds."""
    path = tmp_path_factory.mktemp("round") / "scan.npz"
    write_scan(path, scan)
    back = read_scan(path)
    for name in ("measurements", "positions_px", "scan_index", "probe"):
        np.testing.assert_array_equal(getattr(back, name), getattr(scan, name))
        assert getattr(back, name).dtype == getattr(scan, name).dtype
    assert (back.unit, back.probe_kind) == (scan.unit, scan.probe_kind)
    # A canvas of one value is no truth; the reader says so.
    assert (back.object_truth is None) == (back.metadata["object"]["reason"] != "sensible")


def test_bright_pixel_of_the_truth_is_at_its_position(tmp_path):
    """Invariant 12, 15: a file's truth through the forward model gives the file's patterns, with any origin."""
    rng = np.random.default_rng(1)
    positions = rng.uniform(100, 112, (5, 2)) + np.array([0, 400])
    origin, shape = reference.canvas_geometry(positions, 8)
    truth = rng.uniform(0.5, 1, shape) * np.exp(1j * rng.uniform(-2, 2, shape))
    probe = rng.normal(size=(1, 8, 8)) + 1j * rng.normal(size=(1, 8, 8))
    counts = reference.simulate_counts(reference.extract_patches(truth, positions, 8, origin), probe)
    np.savez(
        tmp_path / "t.npz",
        diff3d=counts,
        positions_px=positions,
        probeGuess=probe[0],
        objectGuess=truth,
        object_origin_yx_px=origin,
        object_kind="truth",
        measurement="counts",
        probe_kind="exact",
    )
    scan = read_scan(tmp_path / "t.npz")
    assert scan.probe_kind == "exact"
    assert scan.object_truth is not None
    again = reference.simulate_counts(
        reference.extract_patches(scan.object_truth, scan.positions_px, 8, scan.object_origin_yx_px), scan.probe
    )
    np.testing.assert_allclose(again, scan.counts(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "used"), [(None, False), ("truth", True), ("reconstruction", False), ("", False)])
def test_an_object_is_the_truth_only_where_the_file_says_so(tmp_path, kind, used):
    """SCAN-3: else it may be a reconstruction; whoever knows better says so on reading."""
    image = np.exp(1j * np.random.default_rng(0).normal(size=(60, 60)))
    changes = {} if kind is None else {"object_kind": kind}
    path = saved(tmp_path, objectGuess=image, **changes)
    scan = read_scan(path)
    assert (scan.object_truth is not None) is used
    assert scan.metadata["object"]["used_as_truth"] is used
    assert scan.metadata["object"]["kind"] == ("unstated" if kind is None else kind)
    known = read_scan(path, object_is_truth=True)
    np.testing.assert_array_equal(known.object_truth, image.astype(np.complex64))
    assert known.metadata["object"]["kind"] == scan.metadata["object"]["kind"]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (np.ones((60, 60), complex), "constant"),
        (np.random.default_rng(0).normal(size=(60, 60)), "not a complex image"),
        (np.exp(1j * np.random.default_rng(0).normal(size=(30, 30))), "no room for all patches"),
        (np.full((60, 60), np.nan, complex), "not finite"),
        (None, "holds no object"),
    ],
)
def test_objects_that_cannot_be_the_truth_are_left_out_with_the_reason(tmp_path, candidate, reason):
    """Invariant 21: what is called truth can be one."""
    scan = read_scan(saved(tmp_path, objectGuess=candidate))
    assert scan.object_truth is None
    assert reason in scan.metadata["object"]["reason"]


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"diff3d": np.full((6, 8, 8), np.nan)}, ["array.not_finite"]),
        ({"diff3d": np.full((6, 8, 8), -1)}, ["array.minimum"]),
        ({"diff3d": np.ones((6, 8, 7))}, ["scan.not_square"]),
        ({"diff3d": np.ones((8, 8, 6))}, ["scan.pattern_axis"]),
        ({"diff3d": np.ones((6, 64))}, ["array.shape"]),
        ({"diff3d": np.ones((6, 8, 8), bool)}, ["array.dtype"]),
        ({"diff3d": np.ones((6, 8, 8), complex)}, ["scan.complex_patterns"]),
        ({"diff3d": np.full((6, 8, 8), "a")}, ["array.dtype"]),
        ({"diff3d": np.ones((0, 8, 8)), "xcoords": np.ones(0), "ycoords": np.ones(0)}, ["array.empty"]),
        ({"positions_px": np.ones((2, 6))}, ["scan.positions_axis"]),
        ({"positions_px": np.ones((5, 2))}, ["scan.counts_differ"]),
        ({"xcoords": np.ones(5)}, ["scan.positions_shape"]),
        ({"xcoords": np.ones((6, 1)), "ycoords": np.ones((6, 1))}, ["scan.positions_shape"]),
        ({"xcoords": np.full(6, np.inf)}, ["array.not_finite"]),
        ({"probeGuess": np.ones((8, 8))}, ["array.dtype"]),
        ({"probeGuess": np.ones((7, 7), complex)}, ["array.shape"]),
        ({"bad_pixels": np.ones((6, 6), bool)}, ["array.shape"]),
        ({"scan_index": np.ones(5, int)}, ["array.shape"]),
        ({"scan_index": np.ones(6)}, ["array.dtype"]),
        ({"nphotons": np.float64(-1)}, ["scan.scalar"]),
        ({"probe_kind": np.array("perfect")}, ["scan.kind"]),
        ({"diff3d": None}, ["scan.no_patterns"]),
        ({"ycoords": None}, ["scan.no_positions"]),
        ({"diff3d": None, "xcoords": None}, ["scan.no_patterns", "scan.no_positions"]),
        ({"diff3d": np.full((6, 8, 8), -1.5), "scan_index": np.ones(5, int)}, ["array.minimum", "array.shape"]),
    ],
)
def test_bad_content_is_one_error_with_all_problems(tmp_path, changes, codes):
    """Invariant 22, 23: layout is declared, never guessed; all problems come at once."""
    path = saved(tmp_path, **changes)
    assert set(codes_of(path)) == set(codes)
    with pytest.raises(ContractError, match=r"scan\.npz"):
        read_scan(path)


def test_messages_name_both_counts_and_the_remedy(tmp_path):
    """Invariant 23."""
    path = saved(tmp_path, xcoords=np.arange(9.0), ycoords=np.arange(9.0))
    with pytest.raises(ContractError, match="expected as many positions as patterns: 6, found 9 positions for 6 pat"):
        read_scan(path)
    with pytest.raises(ContractError, match=r"numpy.moveaxis\(patterns, -1, 0\)"):
        read_scan(saved(tmp_path, "b.npz", diff3d=np.ones((8, 8, 6))))
    with pytest.raises(ContractError, match="keys: xcoords, ycoords"):
        read_scan(saved(tmp_path, "c.npz", diff3d=None))


@pytest.mark.parametrize(("M", "N"), [(8, 8), (2, 8), (3, 8), (1, 8)])
def test_layout_does_not_depend_on_sizes(tmp_path, M, N):
    """Invariant 22: as many patterns as rows, or only two: the first axis is the pattern axis."""
    scan = read_scan(saved(tmp_path, M=M, N=N))
    np.testing.assert_array_equal(scan.measurements, arrays(M, N)["diff3d"])


@given(st.permutations(range(3)), strategies.generators)
@settings(max_examples=15)
def test_scans_alone_or_together_in_any_order(order, rng):
    """Invariant 28: patterns, positions and photons of a scan do not depend on its companions."""
    from ptycho_contracts.records import Scan
    from ptycho_data.batches.gathering import mean_counts

    scans = [
        Scan(
            measurements=rng.poisson(10 * (number + 1), (3 + number, 8, 8)).astype(np.uint8),
            unit="amplitude" if number == 1 else "counts",
            positions_px=rng.uniform(0, 50, (3 + number, 2)),
            scan_index=np.full(3 + number, 5),
        )
        for number in range(3)
    ]
    joined = combine_scans([scans[number] for number in order])
    together = mean_counts(joined)
    for place, number in enumerate(order):
        rows = np.flatnonzero(joined.scan_index == place)
        np.testing.assert_array_equal(joined.positions_px[rows], scans[number].positions_px)
        np.testing.assert_array_equal(joined.counts(rows), scans[number].counts())
        assert together[place] == pytest.approx(mean_counts(scans[number])[5], rel=1e-6)


def test_scans_of_different_sizes_are_not_joined(tmp_path):
    one, two = read_scan(saved(tmp_path)), read_scan(saved(tmp_path, "b.npz", N=9))
    with pytest.raises(ContractError, match=r"patterns of 8 x 8, 9 x 9"):
        combine_scans([one, two])


def test_format_is_found_by_content_and_written_by_name(tmp_path):
    path = saved(tmp_path).rename(tmp_path / "scan.h5")
    scan = read_scan(path)
    with pytest.raises(ContractError, match=r"suffix of a known format \(.*\.npz"):
        write_scan(tmp_path / "scan.xyz", scan)
    write_scan(tmp_path / "scan.xyz", scan, format="npz")
    assert len(read_scan(tmp_path / "scan.xyz")) == 6


def test_failed_writer_keeps_what_was_there(tmp_path, monkeypatch):
    """Invariant 27: a writer that fails leaves the old file and no other."""
    path = saved(tmp_path)
    before, scan = path.read_bytes(), read_scan(path)

    def fail(stream, **content):
        stream.write(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr("numpy.savez", fail)
    with pytest.raises(OSError, match="no space"):
        write_scan(path, scan)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["scan.npz"]


def test_where_nothing_can_be_written(tmp_path):
    scan = read_scan(saved(tmp_path))
    with pytest.raises(MissingFileError, match="existing folder"):
        write_scan(tmp_path / "no" / "scan.npz", scan)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ContractError, match="a directory"):
        write_scan(tmp_path / "folder.npz", scan)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "unit", "M", "N", "photons", "holds"),
    [
        ("siemens_star.npz", "amplitude", 516, 128, 461213, False),
        ("synth64.npz", "amplitude", 1521, 64, 100354, True),
        ("ptychodus/train_data.npz", "counts", 120, 64, 903614, True),
    ],
)
def test_shared_files(shared_data, name, unit, M, N, photons, holds):
    """Invariant 1: measured, simulated and exported files each in their own unit. None says that its object is true."""
    scan = read_scan(shared_data / name)
    assert (scan.unit, len(scan), scan.N) == (unit, M, N)
    assert scan.metadata["nphotons"] == pytest.approx(photons, rel=1e-5)
    assert scan.object_truth is None
    assert ("does not say that its object is the true one" in scan.metadata["object"]["reason"]) == holds
    assert (read_scan(shared_data / name, object_is_truth=True).object_truth is not None) == holds


@pytest.mark.shared_data
def test_truth_of_the_simulated_file_explains_its_patterns(shared_data):
    """Invariant 12, 21: file -> Scan -> truth at the positions -> patterns, to the photon noise."""
    scan = read_scan(shared_data / "synth64.npz", object_is_truth=True)
    rows = np.arange(0, len(scan), 100)
    patches = reference.extract_patches(scan.object_truth, scan.positions_px[rows], 64, scan.object_origin_yx_px)
    simulated, measured = reference.simulate_counts(patches, scan.probe), scan.counts(rows)
    residual = np.sum((np.sqrt(simulated) - np.sqrt(measured)) ** 2) / measured.sum()
    assert residual < 0.004  # the floor of this file is 0.0032


@pytest.mark.shared_data
def test_file_without_patterns_lists_its_keys(shared_data):
    with pytest.raises(ContractError, match="keys: objectGuess, probeGuess, xcoords, xcoords_start"):
        read_scan(shared_data / "run1084_probe_object_positions.npz")
