"""CXI, PTYD, MAP, MEM, ZERO, OUT: one scan through every format, and what each refuses."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, MissingFileError
from ptycho_contracts.records import Scan
from ptycho_data.files import format_of, read_scan, scan_from_arrays, write_scan
from ptycho_data.simulate import simulate

GEOMETRY = {"photon_energy_ev": 8000.0, "detector_distance_m": 1.0, "detector_pixel_size_m": 75e-6}
PIXEL = 1.239841984332e-6 / 8000 / (16 * 75e-6)
MAP = """
[file]
path = "data.h5"
[patterns]
dataset = "entry/frames"
axes = "y x pattern"
unit = "counts"
zero_frequency = "corner"
[positions]
dataset = "entry/stage"
columns = "y x"
unit = "um"
sign = [-1, 1]
[probe]
dataset = "entry/probe"
axes = "y x mode"
kind = "exact"
[mask]
dataset = "entry/good"
bad = "zero"
[geometry]
photon_energy_ev = "entry/energy"
energy_unit = "keV"
detector_distance_m = 1.0
detector_pixel_size_m = 7.5e-5
"""


def small(seed=0, N=16, M=12):
    return simulate(N=N, n_patterns=M, photons_per_pattern=1e4, seed=seed)


def codes_of(path, **options):
    with pytest.raises(ContractError) as caught:
        read_scan(path, **options)
    return caught.value.codes


def with_bad_pixel(scan, counts=None):
    bad = np.zeros((scan.N, scan.N), bool)
    bad[2, 5] = True
    return Scan(
        measurements=scan.measurements if counts is None else counts,
        unit="counts",
        positions_px=scan.positions_px,
        probe=scan.probe,
        probe_kind="exact",
        bad_pixels=bad,
        object_truth=scan.object_truth,
        object_origin_yx_px=scan.object_origin_yx_px,
        metadata=scan.metadata,
    )


def write_ptyd(path, scan, chunks=3):
    order = np.random.default_rng(1).permutation(len(scan))
    with h5py.File(path, "w") as file:
        file["meta/energy"], file["meta/distance"] = 8.0, 1.0
        file["meta/psize"] = [75e-6, 75e-6]
        for number, rows in enumerate(np.array_split(order, chunks)):
            group = file.create_group(f"chunks/{number}")
            group["data"], group["indices"] = scan.measurements[rows], rows
            group["positions"] = scan.positions_px[rows, ::-1] * PIXEL
            group["weights"] = np.broadcast_to(~scan.bad_pixels, (len(rows), *scan.bad_pixels.shape))
    return path


def write_mapped(folder, scan, text=MAP):
    with h5py.File(folder / "data.h5", "w") as file:
        file["entry/frames"] = np.moveaxis(np.fft.ifftshift(scan.measurements, axes=(1, 2)), 0, -1)
        file["entry/stage"] = scan.positions_px[:, ::-1] * [1, -1] * PIXEL * 1e6
        file["entry/probe"] = np.moveaxis(scan.probe, 0, -1)
        file["entry/good"] = np.fft.ifftshift(~scan.bad_pixels).astype(np.uint8)
        file["entry/energy"] = 8.0
    (folder / "map.toml").write_text(text)
    return folder / "map.toml"


def ways(folder, scan):
    """The scan through every format, by name."""
    for name in ("a.npz", "a.h5", "a.cxi"):
        write_scan(folder / name, scan, geometry=GEOMETRY)
    return {
        "npz": read_scan(folder / "a.npz"),
        "ptychodus": read_scan(folder / "a.h5"),
        "cxi": read_scan(folder / "a.cxi"),
        "ptyd": read_scan(write_ptyd(folder / "a.ptyd", scan)),
        "mapping": read_scan(write_mapped(folder, scan)),
        "arrays": scan_from_arrays(
            scan.measurements,
            scan.positions_px[:, ::-1] * PIXEL * 1e9,
            position_unit="nm",
            position_order="yx",
            probe=scan.probe,
            bad_pixels=scan.bad_pixels,
            geometry=GEOMETRY,
            zero_frequency="centre",
        ),
    }


@given(seed=st.integers(0, 1000), M=st.integers(5, 20))
@settings(max_examples=8)
def test_one_scan_through_every_format(tmp_path_factory, seed, M):
    """Invariant 7, 11, 12, 15: counts, positions, probe, bad pixels and object are the same everywhere."""
    scan = with_bad_pixel(small(seed, M=M))
    for name, back in ways(tmp_path_factory.mktemp("ways"), scan).items():
        assert back.metadata["format"] == name
        np.testing.assert_array_equal(back.counts(), scan.counts(), err_msg=name)
        np.testing.assert_allclose(back.positions_px, scan.positions_px, atol=1e-8, err_msg=name)
        np.testing.assert_array_equal(back.bad_pixels, scan.bad_pixels, err_msg=name)
        assert back.unit == "counts"
        if name != "ptyd":
            np.testing.assert_array_equal(back.probe, scan.probe, err_msg=name)
        if name in ("npz", "ptychodus", "cxi"):
            np.testing.assert_array_equal(back.object_truth, scan.object_truth)
            np.testing.assert_array_equal(back.object_origin_yx_px, scan.object_origin_yx_px)
            assert back.probe_kind == "exact"
        if name in ("ptychodus", "cxi", "ptyd", "mapping", "arrays"):
            assert back.metadata["geometry"]["object_pixel_size_m"] == pytest.approx(PIXEL, rel=1e-9)


@pytest.mark.parametrize("name", ["a.h5", "a.cxi"])
def test_amplitude_is_exported_as_its_counts(tmp_path, name):
    """Invariant 1: suites that know only counts get the squares, as integers where they are."""
    scan = small()
    amplitude = Scan(
        measurements=np.sqrt(scan.counts()), unit="amplitude", positions_px=scan.positions_px, probe=scan.probe
    )
    write_scan(tmp_path / name, amplitude, geometry=GEOMETRY)
    back = read_scan(tmp_path / name)
    assert back.unit == "counts"
    assert back.measurements.dtype == np.uint16
    np.testing.assert_array_equal(back.counts(), scan.counts())
    assert back.object_truth is None
    assert back.metadata["object"]["kind"] == "flat"


def test_format_of(tmp_path):
    scan = with_bad_pixel(small())
    ways(tmp_path, scan)
    result = {name: format_of(tmp_path / name) for name in ("a.npz", "a.h5", "a.cxi", "a.ptyd", "map.toml", "data.h5")}
    assert list(result.values()) == ["npz", "ptychodus", "cxi", "ptyd", "mapping", "hdf5"]
    (tmp_path / "text").write_text("nothing")
    assert format_of(tmp_path / "text") is None


@pytest.mark.parametrize("declared", [None, "corner"])
@pytest.mark.parametrize("N", [15, 16])
def test_zero_frequency_in_the_corner_is_moved_and_recorded(declared, N):
    """Invariant 22: declared or measured, with the bad pixels, and on record; at odd N the two shifts differ."""
    scan = with_bad_pixel(small(N=N))
    corner = np.fft.ifftshift(scan.measurements, axes=(1, 2))
    bad = np.fft.ifftshift(scan.bad_pixels)
    back = scan_from_arrays(corner, scan.positions_px, bad_pixels=bad, zero_frequency=declared)
    np.testing.assert_array_equal(back.measurements, scan.measurements)
    np.testing.assert_array_equal(back.bad_pixels, scan.bad_pixels)
    record = back.metadata["zero_frequency"]
    assert (record["place"], record["decided_by"]) == ("corner", "measured" if declared is None else "declared")


def test_a_declared_pixel_is_moved_to_the_middle():
    """What a move by [3, -2] wraps around is marked bad."""
    scan = small()
    moved = np.roll(scan.measurements, (-3, 2), axis=(1, 2))
    back = scan_from_arrays(moved, scan.positions_px, zero_frequency=(5.2, 9.8))
    np.testing.assert_array_equal(back.measurements, scan.measurements)
    expected = np.zeros((16, 16), bool)
    expected[:3] = expected[:, -2:] = True
    np.testing.assert_array_equal(back.bad_pixels, expected)


def test_a_declared_place_that_the_patterns_contradict_is_refused(tmp_path):
    scan = small()
    corner = np.fft.ifftshift(scan.measurements, axes=(1, 2))
    with pytest.raises(ContractError, match="fftshift"):
        scan_from_arrays(corner, scan.positions_px, zero_frequency="centre")
    np.savez(tmp_path / "c.npz", diff3d=corner, positions_px=scan.positions_px)
    assert codes_of(tmp_path / "c.npz") == ("scan.zero_frequency",)


def test_marks_in_bad_pixels_are_cleared_and_others_refused():
    """Invariant 21: -1 and NaN are legal only where the mask says bad."""
    scan = with_bad_pixel(small())
    marked = scan.measurements.astype(np.float32)
    marked[:, 2, 5] = np.nan
    marked[3, 2, 5] = -1
    back = scan_from_arrays(marked, scan.positions_px, bad_pixels=scan.bad_pixels, measurement="counts")
    assert back.metadata["bad_pixel_values_cleared"] == len(scan)
    marked[0, 9, 9] = -1
    with pytest.raises(ContractError, match="values >= 0"):
        scan_from_arrays(marked, scan.positions_px, bad_pixels=scan.bad_pixels, measurement="counts")


@pytest.mark.parametrize(
    ("old", "new", "codes"),
    [
        ('unit = "counts"\n', "", ["mapping.missing"]),
        ('unit = "um"', 'unit = "inch"', ["geometry.unit"]),
        ('axes = "y x pattern"', 'axes = "y x"', ["option.choice"]),
        ('axes = "y x pattern"', 'axes = "row column y x"', ["array.shape"]),
        ('axes = "y x pattern"', 'axis = "y x pattern"', ["option.unknown", "mapping.missing"]),
        ('columns = "y x"', 'columns = "y y"', ["option.choice"]),
        ("sign = [-1, 1]", "sign = [-1, 2]", ["option.choice"]),
        ('energy_unit = "keV"', 'energy_unit = "J"', ["geometry.energy"]),
        ('energy_unit = "keV"\n', "", ["mapping.dataset"]),
        ('unit = "um"', 'unit = "m"', ["geometry.positions"]),
        ('dataset = "entry/frames"', 'dataset = "entry/nothing"', ["mapping.dataset"]),
        ('dataset = "entry/frames"', "dataset = 5", ["option.type"]),
        ('bad = "zero"', 'bad = "few"', ["option.choice"]),
        ("[probe]", "[probes]", ["option.unknown"]),
        ("[mask]", "[mask", ["mapping.toml"]),
        ('zero_frequency = "corner"', 'zero_frequency = "centre"', ["scan.zero_frequency"]),
    ],
)
def test_mappings_declare_everything(tmp_path, old, new, codes):
    """Invariant 22, 33: nothing is guessed, nothing unknown is dropped."""
    assert old in MAP
    path = write_mapped(tmp_path, with_bad_pixel(small()), MAP.replace(old, new, 1))
    assert list(codes_of(path)) == codes


@pytest.mark.parametrize("path", ["/etc/hostname", "../data.h5", "a/../../data.h5", "C:\\\\data.h5", "link.h5", ""])
def test_a_mapping_reads_only_beside_itself(tmp_path, path):
    """Invariant 45: path tricks; a companion that the caller names may be anywhere."""
    folder = tmp_path / "inner"
    folder.mkdir()
    good = write_mapped(tmp_path, with_bad_pixel(small()))
    (folder / "link.h5").symlink_to(tmp_path / "data.h5")
    (folder / "map.toml").write_text(MAP.replace("data.h5", path))
    assert codes_of(folder / "map.toml") == ("mapping.path",)
    assert len(read_scan(folder / "map.toml", companion=good.with_name("data.h5"))) == 12


def test_a_mapping_without_its_data(tmp_path):
    path = write_mapped(tmp_path, with_bad_pixel(small()))
    (tmp_path / "data.h5").unlink()
    with pytest.raises(MissingFileError, match=r"data\.h5"):
        read_scan(path)


def test_unknown_hdf5_lists_what_it_holds(tmp_path):
    write_mapped(tmp_path, with_bad_pixel(small()))
    with pytest.raises(ContractError, match=r"/entry/frames \(16, 16, 12\) uint16.*mapping file"):
        read_scan(tmp_path / "data.h5")


def spoil(path, name, value):
    with h5py.File(path, "r+") as file:
        kept = dict(file[name].attrs) if name in file else {}
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value
            file[name].attrs.update(kept)
    return path


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("entry_1/instrument_1/source_1/energy", None, "geometry.missing"),
        ("entry_1/instrument_1/source_1/energy", 1.5e-21, "geometry.energy"),
        ("entry_1/instrument_1/detector_1/distance", -1.0, "scan.scalar"),
        ("entry_1/instrument_1/detector_1/x_pixel_size", 1e-4, "geometry.object_pixel"),
        ("entry_1/sample_1/geometry_1/translation", None, "scan.no_positions"),
        ("entry_1/sample_1/geometry_1/translation", np.zeros((12, 3)), "geometry.positions"),
        ("entry_1/sample_1/geometry_1/translation", np.zeros(12), "array.shape"),
        ("entry_1/image_1/data", np.ones((1, 1, 8, 8), np.complex64), "array.shape"),
    ],
)
def test_cxi_with_a_set_up_that_cannot_be(tmp_path, name, value, code):
    write_scan(tmp_path / "a.cxi", small(), geometry=GEOMETRY)
    assert code in codes_of(spoil(tmp_path / "a.cxi", name, value))


def test_cxi_units_are_read_and_the_mask_has_bits(tmp_path):
    """Invariant 22: declared units count; 'has signal' spoils no pixel."""
    scan = with_bad_pixel(small())
    write_scan(tmp_path / "a.cxi", scan, geometry=GEOMETRY)
    with h5py.File(tmp_path / "a.cxi", "r+") as file:
        energy = file["entry_1/instrument_1/source_1/energy"]
        energy[()], energy.attrs["units"] = 8.0, "keV"
        translation = file["entry_1/sample_1/geometry_1/translation"]
        translation[()], translation.attrs["units"] = translation[()] * 1e9, "nm"
        centre = file["entry_1/ptychodus"]
        assert set(centre) > {"object_center_x_m"}
        mask = file["entry_1/instrument_1/detector_1/mask"]
        values = mask[()]
        values[0, 0], values[1, 1] = 0x1000, 8
        mask[()] = values
    back = read_scan(tmp_path / "a.cxi")
    np.testing.assert_allclose(back.positions_px, scan.positions_px, atol=1e-8)
    expected = scan.bad_pixels.copy()
    expected[1, 1] = True
    np.testing.assert_array_equal(back.bad_pixels, expected)
    assert back.metadata["units"]["photon_energy"]["unit"] == "keV"


def test_ptyd_refusals(tmp_path):
    scan = with_bad_pixel(small())
    path = write_ptyd(tmp_path / "a.ptyd", scan)
    for name, value, code in (
        ("chunks/0/positions", np.zeros((3, 2)), "scan.counts_differ"),
        ("chunks/1/indices", np.zeros(4, int), "ptyd.indices"),
        ("chunks/0/data", None, "array.shape"),
        ("meta/energy", None, "geometry.missing"),
        ("meta/energy", 8e6, "geometry.energy"),
        ("meta/center", np.array([2.0, 99.0]), "scan.zero_frequency"),
    ):
        assert code in codes_of(spoil(write_ptyd(path, scan), name, value))


@pytest.mark.shared_data
def test_nexus_examples(shared_data, tmp_path):
    """Invariant 22: units that cannot be are refused; the same arrays, declared in a mapping, are a scan."""
    one, raster = (shared_data / "nexus" / f"example_nxptycho_cxi_compatible{end}.nxs" for end in ("", "_raster"))
    assert codes_of(one) == ("geometry.energy",)
    assert codes_of(raster) == ("geometry.positions",)
    assert "array.shape" in codes_of(shared_data / "nexus" / "minimal.cxi")
    grid = tmp_path / "grid.toml"
    grid.write_text(
        '[patterns]\ndataset = "entry_1/data/data"\naxes = "row column y x"\nunit = "counts"\n'
        'zero_frequency = "centre"\n[positions]\nx = "entry_1/data/x"\ny = "entry_1/data/y"\nunit = "px"\n'
    )
    scan = read_scan(grid, companion=raster)
    assert scan.measurements.shape == (100, 32, 32)
    with h5py.File(raster) as file:
        np.testing.assert_array_equal(scan.measurements[37], file["entry_1/data/data"][3, 7])
        x, y = file["entry_1/data/x"][3, 7], file["entry_1/data/y"][3, 7]
    assert scan.positions_px[37].tolist() == [x, y]
