"""DOOR, MAP-5, MAP-6: scans in the layouts of others, and what the door asks where it cannot know."""

import math

import h5py
import numpy as np
import pytest
from file_layouts import COLUMNS, LAYOUTS, ROWS, SET_UP, STEP_PX, metres
from ptycho_contracts.problems import ContractError, MissingFileError, PtychoError
from ptycho_contracts.records import Scan
from ptycho_data.files import import_scan, read_scan, write_mapping, write_scan
from ptycho_data.files.door.options import options_of
from ptycho_data.simulate import simulate


def scan_of(N=16):
    """12 patterns of N x N counts on a raster of 3 rows and 4 columns."""
    simulated = simulate(N=N, n_patterns=ROWS * COLUMNS, photons_per_pattern=1e4, seed=3)
    y, x = np.mgrid[:ROWS, :COLUMNS] * STEP_PX
    return Scan(
        measurements=simulated.measurements,
        unit="counts",
        positions_px=np.stack([x.ravel(), y.ravel()], axis=1) + 20.0,
        probe=simulated.probe,
    )


@pytest.fixture(scope="module")
def scan():
    return scan_of()


def read(files, mapping=None, measurement="auto", nphotons=None, **options):
    return import_scan(files, options=options_of(options), mapping=mapping, measurement=measurement, nphotons=nphotons)


def require_same(found, scan, name):
    np.testing.assert_allclose(found.counts(), scan.counts(), rtol=1e-6, err_msg=name)
    moved = found.positions_px - scan.positions_px
    np.testing.assert_allclose(moved - moved[0], 0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_layouts_of_others_become_the_same_scan(tmp_path, scan, layout):
    """Invariants 7, 22: counts, positions in pixels, and the same again by the mapping that was written."""
    files, options = layout(tmp_path, scan)
    first = read(files, **options)
    require_same(first.scan, scan, layout.__name__)
    assert len(first.lines) >= 3
    write_mapping(tmp_path / "map.toml", first.tables, note="for a test")
    data = files[0]
    again = read_scan(data, mapping=tmp_path / "map.toml") if "positions" not in options else first.scan
    require_same(again, scan, layout.__name__)
    np.testing.assert_array_equal(again.measurements, first.scan.measurements)
    np.testing.assert_array_equal(again.positions_px, first.scan.positions_px)
    assert again.metadata["geometry"] == first.scan.metadata["geometry"]


def test_a_mapping_beside_the_data_is_read_alone(tmp_path, scan):
    """MAP-4: what `[file]` names is read, also a folder of frames."""
    frames, options = LAYOUTS[[one.__name__ for one in LAYOUTS].index("tiff_folder")](tmp_path, scan)
    tables = {"file": {"path": "tiff"}, **read(frames, **options).tables}
    write_mapping(tmp_path / "map.toml", tables, note="two\nlines")
    require_same(read_scan(tmp_path / "map.toml"), scan, "mapping")


def test_the_next_scan_has_files_of_its_own_name(tmp_path, scan):
    """MAP-4: {stem} in the name of the second file."""
    np.save(tmp_path / "run7.npy", scan.measurements)
    np.savetxt(tmp_path / "run7_pos.csv", scan.positions_px, header="x,y", delimiter=",")
    first = read([tmp_path / "run7.npy", tmp_path / "run7_pos.csv"], position_unit="px")
    assert first.tables["positions"]["file"] == "{stem}_pos.csv"
    write_mapping(tmp_path / "map.toml", first.tables, note="")
    np.save(tmp_path / "run8.npy", scan.measurements[:5])
    with pytest.raises(MissingFileError, match=r"run8_pos\.csv"):
        read_scan(tmp_path / "run8.npy", mapping=tmp_path / "map.toml")
    np.savetxt(tmp_path / "run8_pos.csv", scan.positions_px[:5, ::-1], header="x,y", delimiter=",")
    second = read_scan(tmp_path / "run8.npy", mapping=tmp_path / "map.toml")
    np.testing.assert_array_equal(second.positions_px, scan.positions_px[:5, ::-1])


def test_what_is_told_takes_precedence_over_the_mapping(tmp_path, scan):
    """DOOR-7: energy instead of a wavelength, a turn on top; [x, y] becomes [y, -x]."""
    files, _ = LAYOUTS[[one.__name__ for one in LAYOUTS].index("ptylab")](tmp_path, scan)
    write_mapping(tmp_path / "map.toml", read(files).tables, note="")
    told = read(files, mapping=tmp_path / "map.toml", energy="17.6keV", turn="x'=y, y'=-x")
    assert "wavelength_m" not in told.tables["geometry"]
    # Half the wavelength, half the object pixel, twice the positions in pixels.
    expected = 2 * np.stack([scan.positions_px[:, 1], -scan.positions_px[:, 0]], axis=1)
    moved = told.scan.positions_px - expected
    np.testing.assert_allclose(moved - moved[0], 0, atol=1e-6)


def test_electrons_have_a_relativistic_wavelength(tmp_path, scan):
    """DOOR-11: 1.96875 pm at 300 kV (textbook value); pixel = lambda z / (N p)."""
    np.save(tmp_path / "a.npy", scan.measurements.reshape(ROWS, COLUMNS, 16, 16))
    told = read([tmp_path / "a.npy"], step=0.1, position_unit="nm", kv=300, detector_pixel="50um", distance="80mm")
    expected = 1.96875e-12 * 80e-3 / (16 * 50e-6)
    assert told.scan.metadata["geometry"]["object_pixel_size_m"] == pytest.approx(expected, rel=1e-5)
    assert told.scan.positions_px[1, 0] == pytest.approx(0.1e-9 / expected, rel=1e-5)


def test_a_raster_may_run_back_and_forth_and_be_rotated(tmp_path, scan):
    """DOOR-8: positions by hand."""
    np.save(tmp_path / "a.npy", scan.measurements[:4])
    told = read(
        [tmp_path / "a.npy"],
        raster=(2, 2),
        step=(3, 2),
        position_unit="px",
        serpentine=True,
        rotate=90,
        turn="x'=x,y'=-y",
    )
    # (0,0) (2,0) (2,3) (0,3) -> y reversed -> rotated by 90 degrees from x towards y: (x, y) becomes (-y, x).
    np.testing.assert_allclose(told.scan.positions_px, [[0, 0], [0, 2], [3, 2], [3, 0]], atol=1e-12)


def test_frames_that_are_not_square_are_cropped_around_their_bright_centre(tmp_path, scan):
    """DOOR-9: a detector of 20 x 40 pixels whose beam is at (11, 25)."""
    frames = np.zeros((len(scan), 20, 40), np.uint16)
    frames[:, 3:19, 17:33] = scan.measurements
    np.save(tmp_path / "a.npy", frames)
    told = read([tmp_path / "a.npy"], raster=f"{ROWS},{COLUMNS}", step=1, position_unit="px", crop=16, centre="11,25")
    np.testing.assert_array_equal(told.scan.measurements, scan.measurements)
    found = read([tmp_path / "a.npy"], raster=f"{ROWS},{COLUMNS}", step=1, position_unit="px")
    assert found.scan.N == 20
    assert np.abs(np.array(found.scan.metadata["detector"]["centre"]) - [11, 25]).max() <= 1
    # The square of 20 begins a row above the detector or ends below it, unless the beam is in its middle row.
    assert found.scan.bad_pixels is None or not found.scan.bad_pixels[1:-1].any()


def test_crop_and_bin_keep_positions_and_pixels_true(tmp_path):
    """DOOR-9: lambda z = object pixel x N x detector pixel holds before and after, positions in metres too."""
    scan = scan_of(N=32)
    np.savez(tmp_path / "a.npz", data=scan.measurements, pos_x=metres(scan)[:, 0], pos_y=metres(scan)[:, 1])
    whole = read([tmp_path / "a.npz"], **SET_UP).scan
    for options, N, pixel in (({"crop": 16}, 16, 1), ({"bin": 2}, 16, 2), ({"crop": 24, "bin": 2}, 12, 2)):
        small = read([tmp_path / "a.npz"], **SET_UP, **options).scan
        geometry, before = small.metadata["geometry"], whole.metadata["geometry"]
        assert small.N == N
        assert geometry["detector_pixel_size_m"] == pytest.approx(75e-6 * pixel)
        ratio = geometry["object_pixel_size_m"] / before["object_pixel_size_m"]
        assert ratio == pytest.approx(32 / (N * pixel))
        np.testing.assert_allclose(small.positions_px * ratio, whole.positions_px, rtol=1e-9)
    binned = read([tmp_path / "a.npz"], **SET_UP, bin=2).scan.measurements
    np.testing.assert_array_equal(binned[:, 5, 7], scan.measurements[:, 10:12, 14:16].sum(axis=(1, 2)))


@pytest.mark.parametrize("told", [{}, {"zero_frequency": "corner"}, {"zero_frequency": "8,8"}])
def test_patterns_are_centred_before_they_are_cropped(tmp_path, scan, told):
    """DOOR-9: the zero frequency in the corner, measured or told; at its place, told as a pixel."""
    stored = scan.measurements if "8,8" in told.values() else np.fft.ifftshift(scan.measurements, axes=(1, 2))
    np.savez(tmp_path / "a.npz", data=stored, coords=scan.positions_px)
    found = read([tmp_path / "a.npz"], crop=8, **told).scan
    np.testing.assert_array_equal(found.measurements, scan.measurements[:, 4:12, 4:12])
    assert found.metadata["zero_frequency"]["decided_by"] == ("declared" if told else "measured")


def test_a_beam_beside_the_middle_is_found_and_told(tmp_path, scan):
    """DOOR-9: moved by (-3, +2) pixels; what comes from beyond the detector is bad."""
    frames = np.roll(scan.measurements, (-3, 2), axis=(1, 2))
    np.savez(tmp_path / "a.npz", data=frames, coords=scan.positions_px)
    expected = np.zeros((16, 16), bool)
    expected[:3], expected[:, -2:] = True, True
    for centre in ("5,10", "auto"):
        found = read([tmp_path / "a.npz"], centre=centre).scan
        assert np.abs(np.array(found.metadata["detector"]["centre"]) - [5, 10]).max() <= (centre == "auto")
        if centre == "5,10":
            np.testing.assert_array_equal(found.bad_pixels, expected)
            np.testing.assert_array_equal(found.measurements[:, 3:, :-2], scan.measurements[:, 3:, :-2])


def test_amplitudes_are_binned_as_their_squares(tmp_path, scan):
    np.savez(
        tmp_path / "a.npz", amplitudes=np.sqrt(scan.counts()), xcoords=scan.positions_px[:, 0], ycoords=np.zeros(12)
    )
    binned = read([tmp_path / "a.npz"], bin=2).scan
    assert binned.unit == "amplitude"
    expected = scan.counts().reshape(12, 8, 2, 8, 2).sum(axis=(2, 4))
    np.testing.assert_allclose(binned.counts(), expected, rtol=1e-5)


def test_pixels_that_the_detector_marks_are_bad_and_others_are_not(tmp_path, scan):
    """DOOR-9: a module gap at the highest value, a hot and a dead pixel; the bright centre stays."""
    frames = scan.measurements.astype(np.uint32)
    frames[:, 4, :] = np.iinfo(np.uint32).max
    frames[:, 12, 13] = 60_000
    frames[:, 8, 9] = 0
    np.save(tmp_path / "a.npy", frames)
    found = read([tmp_path / "a.npy"], raster=f"{ROWS},{COLUMNS}", step=1, position_unit="px")
    expected = np.zeros((16, 16), bool)
    expected[4], expected[12, 13], expected[8, 9] = True, True, True
    np.testing.assert_array_equal(found.scan.bad_pixels, expected)
    assert any(line.startswith("mask") for line in found.lines)
    assert found.scan.metadata["nphotons"] < 1.1e4


def test_noise_around_a_subtracted_dark_is_cleared_not_masked(tmp_path, scan):
    """DOOR-9: every pixel is negative at times; one always -1, one sometimes not a number."""
    noise = np.random.default_rng(0).normal(0, 0.3, scan.measurements.shape).astype(np.float32)
    frames = scan.measurements + noise
    frames[:, 2, 3], frames[4, 5, 6] = -1, np.nan
    expected = np.where(frames > 0, frames, 0)
    np.savez(tmp_path / "a.npz", data=frames, coords=scan.positions_px)
    found = read([tmp_path / "a.npz"], measurement="counts").scan
    bad = np.zeros((16, 16), bool)
    bad[2, 3] = bad[5, 6] = True
    np.testing.assert_array_equal(found.bad_pixels, bad)
    np.testing.assert_array_equal(found.measurements[:, ~bad], expected[:, ~bad])
    cleared = found.metadata["detector"]["mask"]["negative_values_cleared"]
    assert cleared == int((frames < 0)[:, ~bad].sum()) > 100


def test_a_16_bit_detector_marks_pixels_by_its_highest_value(tmp_path, scan):
    """A value that is reached once is no mark."""
    frames = scan.measurements.astype(np.uint16)
    frames[:, 1, 1], frames[3, 8, 8] = 65535, 65535
    np.savez(tmp_path / "a.npz", data=frames, coords=scan.positions_px)
    bad = np.zeros((16, 16), bool)
    bad[1, 1] = True
    np.testing.assert_array_equal(read([tmp_path / "a.npz"]).scan.bad_pixels, bad)


def test_dark_threshold_mask_and_selection(tmp_path, scan):
    """DOOR-9 by hand."""
    np.savez(tmp_path / "a.npz", data=scan.measurements + 3, positions_px=scan.positions_px)
    mask = np.zeros((16, 16), np.uint8)
    mask[2, 2] = 1
    np.save(tmp_path / "dark.npy", np.full((16, 16), 3, np.uint16))
    np.save(tmp_path / "mask.npy", mask)
    given = {"dark": tmp_path / "dark.npy", "mask": tmp_path / "mask.npy", "threshold": 2, "select": "2:10:2"}
    for path in (tmp_path / "a.npz", tmp_path / "known.npz"):
        if path.name == "known.npz":
            raised = Scan(measurements=scan.measurements + 3, unit="counts", positions_px=scan.positions_px)
            write_scan(path, raised)
        found = read([path], **given).scan
        expected = np.where(scan.measurements[2:10:2] < 2, 0, scan.measurements[2:10:2])
        np.testing.assert_array_equal(found.counts() * ~mask.astype(bool), expected * ~mask.astype(bool))
        np.testing.assert_array_equal(found.bad_pixels, mask.astype(bool))
        np.testing.assert_array_equal(found.positions_px, scan.positions_px[2:10:2])


@pytest.mark.parametrize("known", [False, True])
def test_a_flat_field_is_divided_out(tmp_path, scan, known):
    """DOOR-9 by hand: half the response, a dead pixel, a dark that is no whole number; counts stay counts."""
    flat = np.ones((16, 16))
    flat[:, 8:] = 0.5
    flat[3, 3] = 0
    good = flat > 0
    relative = flat / flat[good].mean()
    np.save(tmp_path / "flat.npy", flat)
    np.save(tmp_path / "dark.npy", np.full((16, 16), 0.25))
    if known:
        write_scan(
            tmp_path / "a.npz", Scan(measurements=scan.measurements, unit="counts", positions_px=scan.positions_px)
        )
    else:
        np.savez(tmp_path / "a.npz", data=scan.measurements, positions_px=scan.positions_px)
    found = read([tmp_path / "a.npz"], flat=tmp_path / "flat.npy", dark=tmp_path / "dark.npy").scan
    assert found.unit == "counts"
    np.testing.assert_array_equal(found.bad_pixels, ~good)
    expected = np.clip(scan.measurements - 0.25, 0, None)[:, good] / relative[good]
    np.testing.assert_allclose(found.measurements[:, good], expected, rtol=1e-6)


def test_amplitudes_are_corrected_as_their_squares(tmp_path, scan):
    """DOOR-9: dark and flat are of counts."""
    x, y = scan.positions_px.T
    np.savez(tmp_path / "a.npz", amplitudes=np.sqrt(scan.counts() + 4), xcoords=x, ycoords=y)
    np.save(tmp_path / "dark.npy", np.full((16, 16), 4))
    np.save(tmp_path / "flat.npy", np.where(np.arange(16) < 8, 3.0, 1.0) * np.ones((16, 1)))
    found = read([tmp_path / "a.npz"], dark=tmp_path / "dark.npy", flat=tmp_path / "flat.npy", measurement="amplitude")
    expected = scan.counts() / np.where(np.arange(16) < 8, 1.5, 0.5)
    np.testing.assert_allclose(found.scan.counts(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("side", "start"), [(24, 4), (17, 0), (25, 4)])
def test_patterns_are_padded_with_masked_zeros(tmp_path, scan, side, start):
    """DOOR-9: the zero frequency stays at [N // 2, N // 2]; object pixels are smaller, positions more of them."""
    np.savez(tmp_path / "a.npz", data=scan.measurements, coords=scan.positions_px)
    plain, found = (
        read([tmp_path / "a.npz"], position_unit="px", **SET_UP, **given).scan for given in ({}, {"pad": side})
    )
    inside = slice(start, start + 16)
    np.testing.assert_array_equal(found.measurements[:, inside, inside], scan.measurements)
    expected = np.ones((side, side), bool)
    expected[inside, inside] = False
    np.testing.assert_array_equal(found.bad_pixels, expected)
    assert found.measurements.sum() == scan.measurements.sum()
    np.testing.assert_allclose(found.positions_px, scan.positions_px * side / 16)
    assert found.pixel_size_m == pytest.approx(plain.pixel_size_m * 16 / side)


def test_crop_bin_and_pad_follow_each_other(tmp_path, scan):
    """A known format by the same steps as a guessed one; the field in metres is that of the stored patterns."""
    x, y = metres(scan).T
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dp"], file["x"], file["y"] = scan.measurements, x, y
    given = {**SET_UP, "crop": 12, "bin": 2, "pad": 10}
    found = read([tmp_path / "a.h5"], position_unit="m", **given)
    write_scan(tmp_path / "b.npz", Scan(measurements=scan.measurements, unit="counts", positions_px=scan.positions_px))
    known = read([tmp_path / "b.npz"], **given).scan
    for result in (found.scan, known):
        assert result.N == 10
        np.testing.assert_allclose(result.positions_px * result.pixel_size_m, metres(scan), rtol=1e-6)
        np.testing.assert_array_equal(result.measurements, found.scan.measurements)
    by_mapping = read([tmp_path / "a.h5"], mapping=written(tmp_path / "map.toml", found.tables)).scan
    np.testing.assert_array_equal(by_mapping.measurements, found.scan.measurements)
    np.testing.assert_array_equal(by_mapping.positions_px, found.scan.positions_px)


def written(path, tables):
    write_mapping(path, tables, note="")
    return path


def test_a_flat_of_a_mapping_lies_beside_the_data(tmp_path, scan):
    """MAP-4: it is read from there for the next file; another one may be named."""
    np.savez(tmp_path / "a.npz", data=scan.measurements, coords=scan.positions_px)
    for name, left in (("flat.npy", 2.0), ("other.npy", 4.0)):
        np.save(tmp_path / name, np.where(np.arange(16) < 8, left, 1.0) * np.ones((16, 1)))
    first = read([tmp_path / "a.npz"], flat=tmp_path / "flat.npy")
    mapping = written(tmp_path / "map.toml", first.tables)
    again = read([tmp_path / "a.npz"], mapping=mapping)
    np.testing.assert_array_equal(again.scan.measurements, first.scan.measurements)
    other = read([tmp_path / "a.npz"], mapping=mapping, flat=tmp_path / "other.npy").scan
    ratio = other.measurements.sum() / first.scan.measurements.sum()
    assert ratio != pytest.approx(1, abs=1e-3)


def test_a_damaged_second_file_is_named_and_not_its_role(tmp_path, scan):
    np.save(tmp_path / "a.npy", scan.measurements)
    np.savez(tmp_path / "p.npz", xy=scan.positions_px)
    (tmp_path / "p.npz").write_bytes((tmp_path / "p.npz").read_bytes()[:200])
    with pytest.raises(ContractError, match=r"p\.npz") as caught:
        read([tmp_path / "a.npy", tmp_path / "p.npz"])
    assert caught.value.codes == ("npz.truncated",)


def test_positions_tell_the_axes_where_two_other_sides_are_equal(tmp_path, scan):
    """DOOR-6: 12 patterns of 12 x 16 are no 16 patterns of 12 x 12."""
    np.savez(tmp_path / "a.npz", data=scan.measurements[:, 2:14], coords=scan.positions_px)
    found = read([tmp_path / "a.npz"])
    assert found.tables["patterns"]["axes"] == "pattern y x"
    assert found.scan.measurements.shape == (12, 12, 12)


def test_a_known_format_needs_no_mapping_and_takes_corrections(tmp_path):
    """DOOR-12: the truth leaves with a crop, and stays with a selection."""
    simulated = simulate(N=32, n_patterns=12, photons_per_pattern=1e4, seed=0)
    write_scan(tmp_path / "a.npz", simulated)
    plain = read([tmp_path / "a.npz"], select="0:6")
    assert plain.tables == {}
    np.testing.assert_array_equal(plain.scan.object_truth, simulated.object_truth)
    cropped = read([tmp_path / "a.npz"], crop=16).scan
    assert cropped.object_truth is None
    assert cropped.probe is None
    np.testing.assert_array_equal(cropped.measurements, simulated.measurements[:, 8:24, 8:24])
    np.testing.assert_array_equal(cropped.positions_px, simulated.positions_px / 2)


def test_a_scan_in_pixels_takes_its_set_up_and_keeps_everything_else(tmp_path):
    """DOOR-12: lambda z = object pixel x N x detector pixel, before and after a crop; the truth stays without one."""
    simulated = simulate(N=32, n_patterns=12, photons_per_pattern=1e4, seed=0)
    write_scan(tmp_path / "a.npz", simulated)
    whole = read([tmp_path / "a.npz"], **SET_UP).scan
    expected = 1.239841984332e-6 / 8800 * 2 / (32 * 75e-6)
    assert whole.metadata["geometry"]["object_pixel_size_m"] == pytest.approx(expected)
    np.testing.assert_array_equal(whole.object_truth, simulated.object_truth)
    assert whole.probe_kind == simulated.probe_kind == "exact"
    half = read([tmp_path / "a.npz"], **SET_UP, crop=16).scan
    assert half.metadata["geometry"]["object_pixel_size_m"] == pytest.approx(2 * expected)


def test_intensities_of_any_scale_need_their_photons(tmp_path, scan):
    """DOOR-10: patterns that sum to about 1 become 5000 photons each, in the mean."""
    np.savez(tmp_path / "a.npz", data=scan.counts() / 1.2345e4, positions_px=scan.positions_px)
    with pytest.raises(ContractError) as caught:
        read([tmp_path / "a.npz"])
    assert caught.value.codes == ("scan.unit_undeclared",)
    found = read([tmp_path / "a.npz"], measurement="normalised-intensity", nphotons=5000)
    assert found.scan.unit == "amplitude"
    ratio = found.scan.counts().sum() / scan.counts().sum()
    np.testing.assert_allclose(found.scan.counts(), scan.counts() * ratio, rtol=1e-4, atol=1e-6)
    assert found.scan.counts().sum(axis=(1, 2)).mean() == pytest.approx(5000, rel=1e-5)
    assert found.tables["patterns"]["nphotons"] == 5000


def lone(folder, scan, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return [folder / "a.npz"]


def without_positions(folder, scan):
    return lone(folder, scan, data=scan.measurements)


def in_an_unknown_unit(folder, scan):
    return lone(folder, scan, data=scan.measurements, pos_x=metres(scan)[:, 0] * 1e6, pos_y=metres(scan)[:, 1] * 1e6)


def with_two_stacks(folder, scan):
    return lone(folder, scan, raw=scan.measurements, clean=scan.measurements, positions=scan.positions_px)


def with_two_stages(folder, scan):
    x, y = scan.positions_px.T
    return lone(folder, scan, data=scan.measurements, stage1_x=x, stage1_y=y, stage2_x=y, stage2_y=x)


def an_image(folder, scan):
    return lone(folder, scan, image=scan.measurements[0])


def good(folder, scan):
    return lone(folder, scan, data=scan.measurements, positions_px=scan.positions_px)


def with_too_few_positions(folder, scan):
    return lone(folder, scan, data=scan.measurements, positions=scan.positions_px[:-1])


@pytest.mark.parametrize(
    ("write", "options", "code", "words"),
    [
        (without_positions, {}, "door.positions", "`raster=ROWS,COLUMNS` with `step=STEP`"),
        (without_positions, {"step": 1}, "door.raster", "`raster=ROWS,COLUMNS`"),
        (without_positions, {"raster": "3,5", "step": 1, "position_unit": "px"}, "door.raster", "3 x 5"),
        (without_positions, {"raster": "3", "step": 1, "position_unit": "px"}, "door.numbers", "`raster`"),
        (good, {"raster": "3,4", "step": 1, "position_unit": "px", "positions": "a.csv"}, "door.raster", "one of them"),
        (good, {"serpentine": True}, "door.raster", "`raster=ROWS,COLUMNS`"),
        (in_an_unknown_unit, {}, "door.position_unit", "`position_unit=px`, or m, um, nm"),
        (in_an_unknown_unit, {"position_unit": "um"}, "door.set_up", "`distance` and `detector_pixel`"),
        (in_an_unknown_unit, {"energy": "8.8"}, "door.quantity", "`energy=8.8keV`"),
        (in_an_unknown_unit, {"distance": "2 miles"}, "geometry.unit", "a unit of m"),
        (in_an_unknown_unit, {"detector_pixel": "-75um"}, "door.quantity", "`detector_pixel=75um`"),
        (in_an_unknown_unit, {"kv": 300, "energy": "8keV"}, "door.quantity", "`kv`"),
        (in_an_unknown_unit, {"kv": 0}, "config.value", ">= 1"),
        (in_an_unknown_unit, {"bin": 2.5}, "config.value", "an integer"),
        (with_two_stacks, {}, "door.patterns", "`patterns=KEY`"),
        (with_two_stages, {}, "door.positions", "`positions=KEY`"),
        (with_too_few_positions, {}, "door.positions", r"positions \(11, 2\)"),
        (an_image, {}, "door.patterns", "give all frames, or their folder"),
        (good, {"patterns": "dp"}, "door.patterns", "the file holds data"),
        (good, {"positions": "stage"}, "door.positions", "correct `positions`"),
        (good, {"positions": "data"}, "door.positions", "`positions=X,Y`"),
        (good, {"axes": "y x"}, "door.axes", "'pattern y x'"),
        (good, {"axes": "pattern y z"}, "door.axes", "'pattern y x'"),
        (good, {"turn": "x=y"}, "door.turn", "x'=y, y'=-x"),
        (good, {"select": "90:"}, "door.select", "some of the 12 patterns"),
        (good, {"select": "a:b"}, "door.select", "START:STOP"),
        (good, {"crop": 1000}, "door.crop", "8 to 32"),
        (good, {"crop": 8, "bin": 4}, "door.bin", "smaller `bin`"),
        (good, {"centre": "99,3"}, "door.centre", "`centre=auto`"),
        (good, {"centre": "middle"}, "door.numbers", "`centre`"),
        (good, {"zero_frequency": "left"}, "door.zero_frequency", "centre, corner, measured or Y,X"),
        (good, {"position_unit": "inch"}, "config.value", "'um'"),
        (good, {"postions": "x"}, "config.unknown", "did you mean 'positions'"),
    ],
    ids=str,
)
def test_what_cannot_be_known_is_one_question_that_names_its_option(tmp_path, scan, write, options, code, words):
    """DOOR-6, DOOR-7: code, and how to mend it."""
    with pytest.raises(PtychoError, match=words) as caught:
        read(write(tmp_path, scan), **options)
    assert set(caught.value.codes) == {code}


def test_a_frame_of_another_shape_is_named(tmp_path, scan):
    for number, pattern in enumerate(scan.measurements):
        np.save(tmp_path / f"f{number}.npy", pattern if number != 7 else pattern[:8])
    with pytest.raises(ContractError, match=r"f7\.npy.*frames of shape \(16, 16\)"):
        read([tmp_path], raster="3,4", step=1, position_unit="px")


def test_frames_may_have_keys_of_their_own(tmp_path, scan):
    """DOOR-2: each file names its pattern after itself; several arrays of that shape are a question."""
    for number, pattern in enumerate(scan.measurements):
        np.savez(tmp_path / f"f{number}.npz", **{f"cbed_{number}": pattern, "time": 1.0})
    found = read([tmp_path], raster="3,4", step=1, position_unit="px").scan
    np.testing.assert_array_equal(found.measurements, scan.measurements)
    np.savez(tmp_path / "f5.npz", one=pattern, two=pattern)
    with pytest.raises(ContractError, match=r"f5\.npz"):
        read([tmp_path], raster="3,4", step=1, position_unit="px")


def test_a_mapping_of_some_files_of_a_folder_names_them(tmp_path, scan):
    """MAP-6: a dark frame beside the others stays out; so it does for the next folder."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "dark_1.npy", scan.measurements[0])
        for number, pattern in enumerate(scan.measurements):
            np.save(tmp_path / folder / f"frame_{number}.npy", pattern)
    files = [tmp_path / "a" / f"frame_{number}.npy" for number in range(12)]
    tables = read(files, raster="3,4", step=1, position_unit="px", dark=tmp_path / "a" / "dark_1.npy").tables
    assert tables["frames"]["names"] == "frame_*.npy"
    tables["detector"].pop("dark")
    write_mapping(tmp_path / "map.toml", tables, note="")
    np.testing.assert_array_equal(
        read_scan(tmp_path / "b", mapping=tmp_path / "map.toml").measurements, scan.measurements
    )


def test_files_may_be_named_by_a_pattern(tmp_path, scan):
    """DOOR-2: natural order, and other files of the folder are left alone."""
    for number, pattern in enumerate(scan.measurements):
        np.save(tmp_path / f"f{number}.npy", pattern)
    (tmp_path / "notes.txt").write_text("nothing")
    found = read([tmp_path / "f*.npy"], raster="3,4", step=1, position_unit="px").scan
    np.testing.assert_array_equal(found.measurements, scan.measurements)
    with pytest.raises(MissingFileError, match=r"g\*\.npy"):
        read([tmp_path / "g*.npy"])


def test_an_object_pixel_that_contradicts_the_set_up_is_left_out_and_said(tmp_path, scan):
    np.savez(
        tmp_path / "a.npz",
        data=scan.measurements,
        positions=metres(scan),
        dx=1e-9,
        energy_ev=8800.0,
        distance=2.0,
        pixel_size=75e-6,
    )
    found = read([tmp_path / "a.npz"])
    require_same(found.scan, scan, "dx")
    assert any(line.startswith("left out") and "dx" in line for line in found.lines)
    assert math.isclose(found.scan.metadata["geometry"]["photon_energy_ev"], 8800.0)


@pytest.mark.shared_data
def test_a_measured_scan_under_other_names(shared_data, tmp_path):
    """The Siemens star without a word of its format: amplitudes by their values, positions by their names."""
    known = read_scan(shared_data / "siemens_star.npz")
    x, y = known.positions_px.T
    np.savez(tmp_path / "s.npz", frames=known.measurements, coord_x=x, coord_y=y, prb=known.probe)
    found = read([tmp_path / "s.npz"], position_unit="px").scan
    assert found.unit == "amplitude"
    np.testing.assert_array_equal(found.measurements, known.measurements)
    np.testing.assert_array_equal(found.positions_px, known.positions_px)
    np.testing.assert_array_equal(found.probe, known.probe)


@pytest.mark.parametrize("words", ["x{x}_y{y}", "run3_col{x:03d}_row{y:03d}", "c{x}r{y}", "max_{y}_{x}"])
def test_names_that_say_row_and_column(tmp_path, words):
    """DOOR-2: where a name gives the column first, and says so, the frames still are row by row."""
    folder = tmp_path / "frames"
    folder.mkdir()
    rows, columns = 3, 5
    for y in range(rows):
        for x in range(columns):
            frame = np.full((16, 16), 100 * y + x, np.uint16)
            np.save(folder / (words.format(x=x + 8, y=y + 8) + ".npy"), frame)
    scan = read([folder], step="2", position_unit="px").scan
    value = scan.measurements[:, 0, 0].astype(int)
    np.testing.assert_array_equal(value, [100 * y + x for y in range(rows) for x in range(columns)])
    steps = scan.positions_px - scan.positions_px[0]
    np.testing.assert_array_equal(steps, [[2 * x, 2 * y] for y in range(rows) for x in range(columns)])


def test_names_with_decimals_stay_row_by_row(tmp_path):
    """DOOR-2: a number with decimals is exchanged as a whole; positions of the same order pair with their frames."""
    folder = tmp_path / "frames"
    folder.mkdir()
    points = [(x, y) for y in (0.0, 0.5) for x in (0.0, 0.5, 1.0)]
    for number, (x, y) in enumerate(points):
        np.save(folder / f"x{x:.1f}_y{y:.1f}.npy", np.full((16, 16), number, np.uint16))
    np.savetxt(tmp_path / "points.csv", 4 * np.array(points), delimiter=",", header="x,y")
    scan = read([folder], positions=tmp_path / "points.csv", position_unit="px").scan
    np.testing.assert_array_equal(scan.measurements[:, 0, 0], np.arange(6))


def test_whole_amplitudes_are_binned_as_their_squares(tmp_path, scan):
    """DOOR-9: whatever their dtype, where the unit is told."""
    root = np.rint(4 * np.sqrt(scan.counts()))
    np.savez(tmp_path / "whole.npz", data=root, x=scan.positions_px[:, 0], y=scan.positions_px[:, 1])
    binned = read([tmp_path / "whole.npz"], measurement="amplitude", position_unit="px", bin=2).scan
    assert binned.unit == "amplitude"
    assert np.sum(binned.counts()) == pytest.approx(np.sum(np.square(root)), rel=1e-3)
