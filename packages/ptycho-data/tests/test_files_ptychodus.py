"""PTY: Ptychodus' own files are one scan; each that Ptychodus loads wrongly is refused; ours open there."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from ptycho_contracts.problems import ContractError, MissingFileError
from ptycho_contracts.records import Reconstruction
from ptycho_data.files import pattern_indexes, read_scan, write_product, write_scan
from ptycho_data.simulate import simulate

GEOMETRY = {"photon_energy_ev": 8000.0, "detector_distance_m": 1.0, "detector_pixel_size_m": 75e-6}
WAYS = ["product.h5", "diffraction.h5", "product_NPZ.npz", "train_data.npz", "training_data.h5"]


def codes_of(path, **options):
    with pytest.raises(ContractError) as caught:
        read_scan(path, **options)
    return caught.value.codes


@pytest.fixture
def folder(shared_data, tmp_path):
    """A writable copy of Ptychodus' files."""
    for path in (shared_data / "ptychodus").iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


def read_way(folder, way):
    companion = folder / "diffraction.h5" if way == "product_NPZ.npz" else None
    return read_scan(folder / way, companion=companion, object_is_truth=True)


@pytest.mark.shared_data
@pytest.mark.parametrize("way", WAYS)
def test_each_file_is_the_same_scan(folder, way):
    """Invariant 11, 12: positions by Ptychodus' formula plus half a pixel, counts and arrays untouched."""
    scan = read_way(folder, way)
    with h5py.File(folder / "product.h5") as product, h5py.File(folder / "diffraction.h5") as diffraction:
        object_ = product["object"]
        height, width = object_.shape[-2:]
        pixel = object_.attrs["pixel_width_m"]
        row_of = {int(index): row for row, index in enumerate(product["probe_position_indexes"][()])}
        rows = [row_of[int(index)] for index in diffraction["indexes"][()]]
        x = (product["probe_position_x_m"][()] - object_.attrs["center_x_m"]) / pixel + (width - 1) / 2
        y = (product["probe_position_y_m"][()] - object_.attrs["center_y_m"]) / pixel + (height - 1) / 2
        np.testing.assert_allclose(scan.positions_px, np.stack([x, y], axis=1)[rows] + 0.5, atol=1e-6)
        np.testing.assert_array_equal(scan.probe, product["probe"][0])
        np.testing.assert_array_equal(scan.object_truth, object_[0])
        bad = diffraction["bad_pixels"][()]
        np.testing.assert_array_equal(scan.bad_pixels, bad)
        # The training files fill the bad pixels; all others are the same photons.
        np.testing.assert_array_equal(scan.measurements[:, ~bad], diffraction["patterns"][()][:, ~bad])
    assert (scan.unit, scan.measurements.dtype) == ("counts", np.uint16)
    assert scan.object_origin_yx_px.tolist() == [0, 0]
    assert scan.metadata["object"]["agreement"]["given"] < 0.002


@pytest.mark.shared_data
@pytest.mark.parametrize("way", WAYS)
def test_a_reconstruction_is_never_silently_the_truth(folder, way):
    """SCAN-3: Ptychodus writes what it reconstructed under the same names; it is still compared with the patterns."""
    companion = folder / "diffraction.h5" if way == "product_NPZ.npz" else None
    scan = read_scan(folder / way, companion=companion)
    assert scan.object_truth is None
    assert "it may be a reconstruction" in scan.metadata["object"]["reason"]
    assert scan.metadata["object"]["agreement"]["explains"]


@pytest.mark.shared_data
def test_half_a_pixel_is_what_the_counts_say(folder):
    """Invariant 12: with the truth at hand, no other shift of the patches explains the patterns as well.

    The oracle is a plain simulation with patches by Fourier shift, not the reader's own check.
    """
    scan = read_scan(folder / "product.h5", object_is_truth=True)
    probe, truth = scan.probe.astype(complex), scan.object_truth.astype(complex)
    height, width = truth.shape
    frequencies = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]

    def residual(shift):
        total = photons = 0.0
        for row in range(0, len(scan), 12):
            y, x = scan.positions_px[row, ::-1] - 32 + shift
            i, j = int(np.floor(y)), int(np.floor(x))
            ramp = np.exp(2j * np.pi * (frequencies[0] * (y - i) + frequencies[1] * (x - j)))
            patch = np.fft.ifft2(np.fft.fft2(truth) * ramp)[i : i + 64, j : j + 64]
            wave = np.fft.fftshift(np.fft.fft2(probe * patch, norm="ortho"), axes=(1, 2))
            expected = np.square(np.abs(wave)).sum(axis=0)
            # The file's uint16 has wrapped around in the brightest pixels.
            good = ~scan.bad_pixels & (expected < 45000)
            measured = scan.measurements[row][good].astype(float)
            expected = expected[good] * measured.sum() / expected[good].sum()
            total += np.square(np.sqrt(measured) - np.sqrt(expected)).sum()
            photons += measured.sum()
        return total / photons

    shifts = [-0.5, -0.2, 0.0, 0.2, 0.5]
    residuals = [residual(shift) for shift in shifts]
    assert int(np.argmin(residuals)) == 2
    assert residuals[0] > 3 * residuals[2]
    assert residuals[4] > 3 * residuals[2]


def edit(path, **changes):
    """Change datasets of an HDF5 file, keeping their attributes."""
    with h5py.File(path, "r+") as file:
        for name, change in changes.items():
            attributes, value = dict(file[name].attrs), change(file[name][()])
            del file[name]
            file[name] = value
            file[name].attrs.update(attributes)


def in_pixels(path):
    with h5py.File(path) as file:
        pixel = file["object"].attrs["pixel_width_m"]
    edit(path, probe_position_x_m=lambda x: x / pixel, probe_position_y_m=lambda y: y / pixel)


def swapped(path):
    with h5py.File(path) as file:
        x, y = file["probe_position_x_m"][()], file["probe_position_y_m"][()]
    edit(path, probe_position_x_m=lambda _: y, probe_position_y_m=lambda _: x)


def attributes(name, **values):
    def change(path):
        with h5py.File(path, "r+") as file:
            file[name].attrs.update(values)

    return change


def other_pixel(path):
    attributes("object", pixel_width_m=5e-8, pixel_height_m=5e-8)(path)
    attributes("probe", pixel_width_m=5e-8, pixel_height_m=5e-8)(path)


def nan_in(array):
    array = array.copy()
    array.reshape(-1)[7] = np.nan
    return array


WRONG = {
    "positions in pixels": (in_pixels, "scan.positions_outside"),
    "x and y swapped": (swapped, "scan.positions_outside"),
    "centre 0": (attributes("object", center_x_m=0.0, center_y_m=0.0), "scan.positions_outside"),
    "wrong pixel size": (other_pixel, "geometry.object_pixel"),
    "object pixel unlike probe pixel": (attributes("object", pixel_width_m=5e-8), "geometry.probe_pixel"),
    "wrong energy": (attributes("/", photon_energy_eV=9000.0), "geometry.object_pixel"),
    "NaN in the object": (lambda path: edit(path, object=nan_in), "array.not_finite"),
    "NaN in the positions": (lambda path: edit(path, probe_position_x_m=nan_in), "array.not_finite"),
    "indexes shifted by 1000": (
        lambda path: edit(path, probe_position_indexes=lambda i: i + 1000),
        "ptychodus.unpaired",
    ),
    "indexes repeated": (lambda path: edit(path, probe_position_indexes=lambda i: i // 2), "ptychodus.indexes"),
    "one coordinate truncated": (lambda path: edit(path, probe_position_y_m=lambda y: y[:-10]), "scan.counts_differ"),
    "probe of the wrong size": (lambda path: edit(path, probe=lambda p: p[..., :32, :32]), "array.shape"),
    "indexes shifted by one place": (
        lambda path: edit(path, probe_position_indexes=lambda i: np.roll(i, 1)),
        "scan.positions_contradicted",
    ),
    "near field": (attributes("/", far_field=False), "ptychodus.near_field"),
}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", WRONG)
def test_silently_wrong_products_are_refused(folder, name):
    """Invariant 11, 13, 23: what Ptychodus loads without a warning is one clear error, as HDF5 and as NPZ."""
    spoil, code = WRONG[name]
    spoil(folder / "product.h5")
    assert code in codes_of(folder / "product.h5")
    archive = as_npz(folder / "product.h5")
    assert code in codes_of(archive, companion=folder / "diffraction.h5")


def as_npz(path):
    """The same product in the keys of Ptychodus' NPZ."""
    with h5py.File(path) as file:
        arrays = {name: file[name][()] for name in file}
        arrays |= {name: value for name, value in file.attrs.items() if not isinstance(value, str)}
        arrays |= {f"object_{name}": value for name, value in file["object"].attrs.items()}
        arrays |= {f"probe_{name}": value for name, value in file["probe"].attrs.items()}
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"probe_position_x_px": lambda x: x * 3.2e-8}, "scan.positions_outside"),
        ({"probe_position_y_px": lambda y: y[:-1]}, "scan.positions_shape"),
        ({"object": nan_in}, "array.not_finite"),
        ({"probe": lambda p: p[:, :32, :32]}, "array.shape"),
    ],
)
def test_wrong_training_files_are_refused(folder, changes, code):
    edit(folder / "training_data.h5", **changes)
    assert code in codes_of(folder / "training_data.h5")


@pytest.fixture
def square(tmp_path):
    """A product whose object is square and centred: only the patterns distinguish x from y."""
    scan = simulate(N=32, n_patterns=80, photons_per_pattern=1e5, seed=3)
    write_scan(tmp_path / "both.h5", scan, geometry=GEOMETRY)
    return tmp_path / "both.h5"


def test_swapped_axes_are_detected_by_the_patterns_alone(square):
    """Invariant 11: a swap that stays within the object."""
    with h5py.File(square) as file:
        x, y = file["probe_position_x_m"][()], file["probe_position_y_m"][()]
        centre = file["object"].attrs["center_x_m"], file["object"].attrs["center_y_m"]
    edit(
        square,
        probe_position_x_m=lambda _: y - centre[1] + centre[0],
        probe_position_y_m=lambda _: x - centre[0] + centre[1],
    )
    with pytest.raises(ContractError, match="correct the positions: x and y swapped"):
        read_scan(square)
    edit(square, probe_position_x_m=lambda _: 2 * centre[0] - x, probe_position_y_m=lambda _: y)
    with pytest.raises(ContractError, match="correct the positions: x reversed"):
        read_scan(square)


def test_an_object_that_explains_nothing_is_no_truth(square):
    """Invariant 21: a start that was never fitted is read, and not called truth."""
    noise = np.random.default_rng(0)
    edit(square, object=lambda o: np.exp(1j * noise.normal(size=o.shape)).astype(np.complex64))
    scan = read_scan(square)
    assert scan.object_truth is None
    assert "no better than a uniform object" in scan.metadata["object"]["reason"]


@pytest.mark.shared_data
def test_a_missing_companion_is_named(folder):
    (folder / "product.h5").rename(folder / "mine.h5")
    with pytest.raises(ContractError, match=r"its product file.*`companion=product.h5`"):
        read_scan(folder / "diffraction.h5")
    with pytest.raises(ContractError, match="which holds the patterns"):
        read_scan(folder / "mine.h5")
    scan = read_scan(folder / "mine.h5", companion=folder / "diffraction.h5")
    assert scan.metadata["companion"]["found_by"] == "argument"
    assert codes_of(folder / "mine.h5", companion=folder / "product_NPZ.npz") == ("scan.companion",)
    assert codes_of(folder / "train_data.npz", companion=folder / "mine.h5") == ("scan.companion",)
    with pytest.raises(MissingFileError):
        read_scan(folder / "mine.h5", companion=folder / "nothing.h5")


@pytest.mark.shared_data
def test_patterns_pair_by_index_value_in_any_order(folder):
    """Invariant 13: rows of either file may be permuted; further positions are dropped, and counted."""
    before = read_scan(folder / "product.h5")
    order = np.random.default_rng(0).permutation(120)
    names = ("probe_position_indexes", "probe_position_x_m", "probe_position_y_m")
    edit(folder / "product.h5", **{name: lambda array: array[order] for name in names})
    np.testing.assert_array_equal(read_scan(folder / "product.h5").positions_px, before.positions_px)
    edit(folder / "diffraction.h5", indexes=lambda i: i[5:], patterns=lambda p: p[5:])
    fewer = read_scan(folder / "product.h5")
    np.testing.assert_array_equal(fewer.positions_px, before.positions_px[5:])
    assert fewer.metadata["pairing"]["positions_without_pattern"] == 5


def reconstruction(scan):
    return Reconstruction(
        object=scan.object_truth,
        origin_yx_px=scan.object_origin_yx_px,
        weight=np.ones(scan.object_truth.shape, np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
    )


@pytest.mark.parametrize("N", [32, 33])
def test_products_hold_what_old_and_new_readers_need(tmp_path, N):
    """Invariant 15: positions in metres about the object's centre, by Ptychodus' rule, for even and odd N."""
    scan = simulate(N=N, n_patterns=20, photons_per_pattern=1e4, seed=0)
    write_product(tmp_path / "p.h5", reconstruction(scan), geometry=GEOMETRY, losses=[2.0, 1.0])
    with h5py.File(tmp_path / "p.h5") as file:
        requested = {
            "name",
            "comments",
            "exposure_time_s",
            "photon_energy_eV",
            "probe_energy_eV",
            "probe_photon_count",
            "detector_object_distance_m",
            "mass_attenuation_m2_per_kg",
            "tomography_angle_deg",
            "far_field",
        }
        assert requested <= set(file.attrs)
        assert {"pixel_width_m", "pixel_height_m"} <= set(file["probe"].attrs)
        assert file["object_layer_spacing_m"].shape == (0,)
        assert file["loss_values"][()].tolist() == [2.0, 1.0]
        pixel, width = file["object"].attrs["pixel_width_m"], file["object"].shape[-1]
        x = (file["probe_position_x_m"][()] - file["object"].attrs["center_x_m"]) / pixel + (width - 1) / 2
        # The middle of a patch of N pixels, (N - 1) / 2, in the array's own pixels.
        first = scan.positions_px[:, 0] - N // 2 - scan.object_origin_yx_px[1]
        np.testing.assert_allclose(x, first + (N - 1) / 2, atol=1e-9)
        assert pixel == pytest.approx(1.239841984e-6 / 8000 / (N * 75e-6), rel=1e-8)


def test_no_product_without_a_set_up(tmp_path):
    scan = simulate(N=16, n_patterns=9, photons_per_pattern=1e4, seed=0)
    with pytest.raises(ContractError, match="at least three of photon_energy_ev"):
        write_scan(tmp_path / "s.h5", scan)
    with pytest.raises(ContractError, match="lambda z"):
        write_scan(tmp_path / "s.h5", scan, geometry={**GEOMETRY, "object_pixel_size_m": 1e-6})
    with pytest.raises(ContractError, match="did you mean 'photon_energy_ev'"):
        write_scan(tmp_path / "s.h5", scan, geometry={"photon_energy": 8000.0})
    assert not list(tmp_path.iterdir())


@pytest.mark.shared_data
@pytest.mark.parametrize("select", ["::2", "::-1", "5:"])
def test_selected_patterns_keep_their_numbers(folder, select):
    """PTY-3: by the first and last number of Python's own slice."""
    with h5py.File(folder / "diffraction.h5") as file:
        stored = file["indexes"][()]
    first, last, step = ([int(word) if word else None for word in select.split(":")] + [None])[:3]
    scan = read_scan(folder / "diffraction.h5", select=select)
    np.testing.assert_array_equal(pattern_indexes(scan), stored[slice(first, last, step)])


def test_three_scalars_give_the_fourth(tmp_path):
    """FAR-4: on reading, so that pictures, formats and checks all know it; lambda z / (N p) by hand."""
    scan = simulate(N=32, n_patterns=9, step_px=4.0, seed=1)
    set_up = {"photon_energy_ev": 8000.0, "detector_distance_m": 2.0, "detector_pixel_size_m": 75e-6}
    write_scan(tmp_path / "scan.npz", replace(scan, metadata={"geometry": set_up}))
    found = read_scan(tmp_path / "scan.npz")
    assert found.pixel_size_m == pytest.approx(1.23984198e-6 / 8000 * 2.0 / (32 * 75e-6), rel=1e-6)
