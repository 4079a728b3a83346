"""Reconstructions as NPZ, CXI, Ptychodus' product and TIFF (specs/files.md, OUT-4 to OUT-7, REC-1).

Oracles: h5py and tifffile, and constants of physics written down here.
"""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_contracts.records import Reconstruction
from ptycho_data.files import (
    RECONSTRUCTION_FORMATS,
    read_reconstruction,
    reconstruction_formats,
    require_reconstruction_formats,
    write_reconstruction,
)

J_PER_EV, HC_J_M = 1.602176634e-19, 1.98644586e-25
PIXEL_M = 2e-8
SET_UP = {"photon_energy_ev": 8000.0, "detector_distance_m": 2.0, "object_pixel_size_m": PIXEL_M}
N = 16


def image(height: int = 20, width: int = 24, *, seed: int = 0, pixel_size_m: float | None = PIXEL_M) -> Reconstruction:
    """An image with an unseen margin of 2 px, its origin at y 5.25, x -3."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(4, height, width))
    probe = rng.normal(size=(2, 2, N, N))
    weight = np.zeros((height, width), np.float32)
    weight[2:-2, 2:-2] = 3.0
    return Reconstruction(
        object=(values[0] + 1j * values[1]).astype(np.complex64),
        origin_yx_px=np.array([5.25, -3.0]),
        weight=weight,
        probe=(probe[0] + 1j * probe[1]).astype(np.complex64),
        positions_px=rng.uniform(10, 20, (7, 2)),
        pixel_size_m=pixel_size_m,
    )


def test_cxi_holds_the_image_in_si_units(tmp_path):
    """OUT-5: read by h5py alone."""
    written = image()
    write_reconstruction(tmp_path / "a.cxi", written, geometry=SET_UP)
    with h5py.File(tmp_path / "a.cxi") as file:
        entry = file["entry_1"]
        assert file["cxi_version"][()] == 160
        assert entry["definition"][()] == b"NXcxi_ptycho"
        lit = written.weight > 0
        np.testing.assert_array_equal(entry["image_2/data"][0][lit], written.object[lit])
        np.testing.assert_array_equal(entry["image_2/mask"][()], np.where(lit, 0, 0x200))
        np.testing.assert_array_equal(entry["image_1/data"][0], written.probe)
        np.testing.assert_array_equal(entry["ptycho_1/weight"][()], written.weight)
        translation = entry["sample_1/geometry_1/translation"]
        assert translation.attrs["units"] == "m"
        np.testing.assert_allclose(translation[:, :2], written.positions_px * PIXEL_M, rtol=1e-12)
        np.testing.assert_array_equal(translation[:, 2], 0)
        np.testing.assert_allclose(entry["image_2/y"][()], (np.arange(20) + 5.25) * PIXEL_M, rtol=1e-12)
        np.testing.assert_allclose(entry["image_2/x"][()], (np.arange(24) - 3.0) * PIXEL_M, rtol=1e-12)
        np.testing.assert_allclose(entry["image_2/image_size"][()], [24 * PIXEL_M, 20 * PIXEL_M, 0])
        instrument = entry["instrument_1"]
        assert instrument["source_1/energy"][()] == pytest.approx(8000 * J_PER_EV)
        assert instrument["source_1/energy"].attrs["units"] == "J"
        wavelength = HC_J_M / (8000 * J_PER_EV)
        assert instrument["beam_1/incident_wavelength"][()] == pytest.approx(wavelength, rel=1e-6)
        assert instrument["detector_1/distance"][()] == 2.0
        # The far field: object pixel = wavelength * distance / (N * detector pixel).
        expected = wavelength * 2.0 / (N * PIXEL_M)
        assert instrument["detector_1/x_pixel_size"][()] == pytest.approx(expected, rel=1e-6)
        groups = {name: item.attrs["NX_class"] for name, item in entry.items() if "NX_class" in item.attrs}
        assert groups["image_2"] == "NXdata"
        assert groups["instrument_1"] == "NXinstrument"


def test_cxi_needs_only_the_pixel_size(tmp_path):
    """OUT-5: what is not known is not written; nothing is made up."""
    write_reconstruction(tmp_path / "a.cxi", image())
    with h5py.File(tmp_path / "a.cxi") as file:
        instrument = file["entry_1/instrument_1"]
        assert list(instrument["detector_1"]) == []
        assert "source_1" not in instrument
    with pytest.raises(ContractError, match="the side of an object pixel, since CXI is in metres") as caught:
        write_reconstruction(tmp_path / "b.cxi", image(pixel_size_m=None))
    assert caught.value.codes == ("geometry.missing",)
    assert not (tmp_path / "b.cxi").exists()


@given(
    height=st.integers(5, 40),
    width=st.integers(5, 40),
    seed=st.integers(0, 99),
    pixel_size_m=st.none() | st.floats(1e-12, 1e-6),
)
def test_a_tiff_gives_the_object_back(height, width, seed, pixel_size_m, tmp_path_factory):
    """OUT-6: amplitude and phase of single precision; NaN where nothing was seen; the pixel as ImageJ reads it."""
    written = image(height, width, seed=seed, pixel_size_m=pixel_size_m)
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    write_reconstruction(path, written)
    with tifffile.TiffFile(path) as file:
        pages, notes, tags = file.asarray(), file.imagej_metadata, file.pages[0].tags
        resolution = tags["XResolution"].value, tags["YResolution"].value
    assert pages.dtype == np.float32
    assert pages.shape == (2, height, width)
    assert notes["Labels"] == ["amplitude", "phase [rad]"]
    lit = written.weight > 0
    assert np.isnan(pages[:, ~lit]).all()
    back = pages[0] * np.exp(1j * pages[1])
    np.testing.assert_allclose(back[lit], written.object[lit], rtol=1e-5, atol=1e-6)
    if pixel_size_m is None:
        assert "unit" not in notes
        return
    assert notes["unit"] == "nm"
    assert notes["pixel_size_m"] == pytest.approx(pixel_size_m)
    for above, below in resolution:
        assert below / above * 1e-9 == pytest.approx(pixel_size_m, rel=1e-6)


def test_an_npz_keeps_its_pixel_size_and_takes_a_better_one(tmp_path):
    """REC-1."""
    write_reconstruction(tmp_path / "a.npz", image())
    assert read_reconstruction(tmp_path / "a.npz").pixel_size_m == PIXEL_M
    write_reconstruction(tmp_path / "b.npz", image(), geometry={"object_pixel_size_m": 1e-8})
    assert read_reconstruction(tmp_path / "b.npz").pixel_size_m == 1e-8
    write_reconstruction(tmp_path / "c.npz", image(pixel_size_m=None))
    assert read_reconstruction(tmp_path / "c.npz").pixel_size_m is None
    three = {"photon_energy_ev": 8000.0, "detector_distance_m": 2.0, "detector_pixel_size_m": 75e-6}
    write_reconstruction(tmp_path / "d.npz", image(pixel_size_m=None), geometry=three)
    pixel = HC_J_M / (8000 * J_PER_EV) * 2.0 / (N * 75e-6)
    assert read_reconstruction(tmp_path / "d.npz").pixel_size_m == pytest.approx(pixel, rel=1e-6)


def test_a_product_has_pixel_losses_and_name(tmp_path):
    """OUT-4, OUT-7."""
    write_reconstruction(tmp_path / "p.h5", image(), geometry=SET_UP, losses=[2.0, 1.0], name="star")
    with h5py.File(tmp_path / "p.h5") as file:
        assert file.attrs["name"] == "star"
        assert file["object"].attrs["pixel_width_m"] == PIXEL_M
        np.testing.assert_array_equal(file["loss_values"][()], [2.0, 1.0])
        np.testing.assert_allclose(file["probe_position_x_m"][()], image().positions_px[:, 0] * PIXEL_M)


@pytest.mark.parametrize(
    ("name", "geometry", "code"),
    [
        ("a.h5", {"photon_energy_ev": 8000.0}, "geometry.missing"),
        ("a.xyz", {}, "file.format"),
        ("a.tif", {"object_pixel_size_m": -1.0}, "scan.scalar"),
        ("a.npz", {**SET_UP, "detector_pixel_size_m": 1e-3}, "geometry.object_pixel"),
    ],
)
def test_what_cannot_be_written_is_refused(name, geometry, code, tmp_path):
    with pytest.raises(ContractError) as caught:
        write_reconstruction(tmp_path / name, image(), geometry=geometry)
    assert code in caught.value.codes
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_told_before_any_work(monkeypatch):
    """OUT-7."""
    monkeypatch.setattr(reconstruction_formats, "find_spec", lambda _: None)
    with pytest.raises(ContractError, match=r"pip install 'ptycho-data\[tiff\]'"):
        require_reconstruction_formats(["tiff"], {}, N=N, where="scan.npz")
    require_reconstruction_formats(["npz"], {}, N=N, where="scan.npz")


@pytest.mark.parametrize("format", RECONSTRUCTION_FORMATS)
def test_a_write_that_fails_leaves_what_was_there(format, tmp_path, monkeypatch):
    """CLI-20: a full disk."""
    path = tmp_path / f"a{RECONSTRUCTION_FORMATS[format][0]}"
    path.write_bytes(b"earlier")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ptycho_data.atomic_files.move_into_place", full)
    with pytest.raises(OSError, match="No space left"):
        write_reconstruction(path, image(), geometry=SET_UP)
    assert path.read_bytes() == b"earlier"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("name", "where"), [("a.cxi", "entry_1/ptychodus/"), ("a.h5", "")])
def test_positions_keep_the_numbers_of_their_patterns(name, where, tmp_path):
    """PTY-3: and without any they are 0, 1, ...."""
    numbers = np.array([3, 4, 6, 7, 8, 20, 21])
    for indexes in (numbers, None):
        write_reconstruction(tmp_path / name, image(), geometry=SET_UP, indexes=indexes)
        with h5py.File(tmp_path / name) as file:
            expected = np.arange(7) if indexes is None else numbers
            np.testing.assert_array_equal(file[where + "probe_position_indexes"], expected)
