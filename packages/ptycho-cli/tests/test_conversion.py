"""The command convert, and inspect on what it wrote (specs/cli.md, CLI-13 and CLI-25)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import h5py
import numpy as np
import pytest
import tifffile
from ptycho_cli.commands.convert import FormatName, parsed_geometry
from ptycho_cli.commands.parameters import ImageFormat
from ptycho_cli.main import main
from ptycho_cli.output.report import OBJECT_FILES
from ptycho_contracts.problems import ContractError
from ptycho_data.files import (
    FORMATS,
    RECONSTRUCTION_FORMATS,
    read_reconstruction,
    read_scan,
    write_reconstruction,
    write_scan,
)

# lambda z / (N detector pixel) with hc = 1.239841984e-6 eV m: 16 pixels of 75 um at 2 m and 8800 eV.
SETUP = {"photon_energy_ev": 8800.0, "detector_distance_m": 2.0, "detector_pixel_size_m": 75e-6}
OBJECT_PIXEL_M = 1.239841984332e-6 / 8800 * 2 / (16 * 75e-6)
WORDS = [word for key, value in SETUP.items() for word in ("--geometry", f"{key}={value!r}")]


def test_the_formats_on_offer_are_those_that_can_be_written():
    """Invariant 37: the list is in the command so that help imports nothing."""
    of_scans = {entry.NAME for entry in FORMATS if callable(getattr(entry, "write", None))}
    assert set(get_args(FormatName)) == of_scans | set(RECONSTRUCTION_FORMATS)
    assert set(get_args(ImageFormat)) == set(RECONSTRUCTION_FORMATS) == set(OBJECT_FILES)


@pytest.mark.parametrize(("name", "format"), [("b.h5", "ptychodus"), ("b.cxi", "cxi"), ("b.npz", "npz")])
def test_there_and_back_nothing_is_lost(scan, data_file, tmp_path, capsys, name, format):
    """Counts bit for bit, positions to 1e-6 px up to their origin, the probe up to rounding."""
    there, back = tmp_path / "deep" / name, tmp_path / "back.npz"
    assert main(["convert", str(data_file), str(there), *WORDS]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {there} ({format}): 12 patterns of 16 x 16, counts")
    assert main(["convert", str(there), str(back), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    result = read_scan(back)
    np.testing.assert_array_equal(result.counts(), scan.counts())
    moved = result.positions_px - scan.positions_px
    np.testing.assert_allclose(moved - moved.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(result.probe, scan.probe, rtol=1e-6)
    known = result.metadata["geometry"]
    assert {key: known[key] for key in SETUP} == pytest.approx(SETUP)
    assert known.get("object_pixel_size_m", OBJECT_PIXEL_M) == pytest.approx(OBJECT_PIXEL_M)


def test_the_format_may_be_named_and_the_set_up_given(data_file, tmp_path):
    path = tmp_path / "any.bin"
    assert main(["convert", str(data_file), str(path), "--format", "cxi", *WORDS, "--quiet"]) == 0
    with h5py.File(path) as file:
        energy = file["entry_1/instrument_1/source_1/energy"][()]
    assert energy == pytest.approx(8800 * 1.602176634e-19)


def test_measurement_and_nphotons_decide_what_is_written(scan, tmp_path):
    amplitude = np.sqrt(scan.counts())
    x, y = scan.positions_px.T
    np.savez(tmp_path / "a.npz", diff3d=amplitude / amplitude.max(), xcoords=x, ycoords=y, probeGuess=scan.probe[0])
    words = ["--measurement", "normalised-amplitude", "--nphotons", "1234", "--quiet"]
    assert main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), *words]) == 0
    assert read_scan(tmp_path / "b.npz").counts().sum((1, 2)).mean() == pytest.approx(1234, rel=1e-3)


def test_an_image_becomes_a_product_with_the_set_up_of_its_scan(reconstruction, data_file, tmp_path, capsys):
    """CLI-25."""
    image, scan, product = tmp_path / "object.npz", tmp_path / "scan.h5", tmp_path / "product.h5"
    write_reconstruction(image, reconstruction)
    assert main(["convert", str(data_file), str(scan), *WORDS, "--quiet"]) == 0
    assert main(["convert", str(image), str(product), "--companion", str(scan)]) == 0
    with h5py.File(product) as file:
        assert file["object"].shape == (1, 20, 24)
        assert file.attrs["photon_energy_eV"] == pytest.approx(8800)
        assert file["object"].attrs["pixel_width_m"] == pytest.approx(OBJECT_PIXEL_M)
        x_m = file["probe_position_x_m"][()]
    # Ptychodus: x_px = (x_m - centre) / pixel + (W - 1) / 2; position 0 of an object from x -3, N even.
    assert "object of 24 x 20 px" in capsys.readouterr().out
    np.testing.assert_allclose(x_m, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "format"), [("b.npz", "npz"), ("b.cxi", "cxi"), ("b.h5", "ptychodus"), ("b.tif", "tiff")]
)
def test_an_image_keeps_its_pixel_size_in_every_format(reconstruction, tmp_path, capsys, name, format):
    """CLI-25: its own, where nothing else is given."""
    image, target, own = tmp_path / "object.npz", tmp_path / "new" / name, 3.1e-8
    write_reconstruction(image, replace(reconstruction, pixel_size_m=own))
    words = WORDS[:4] if format == "ptychodus" else []
    assert main(["convert", str(image), str(target), *words]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {target} ({format}): object of 24 x 20 px")
    if format == "npz":
        found = read_reconstruction(target).pixel_size_m
    elif format == "tiff":
        with tifffile.TiffFile(target) as file:
            found = file.imagej_metadata["pixel_size_m"]
    else:
        with h5py.File(target) as file:
            found = (
                file["object"].attrs["pixel_width_m"]
                if format == "ptychodus"
                else file["entry_1/image_2/image_size"][0] / 24
            )
    assert found == pytest.approx(own)


def test_a_folder_of_results_is_converted_with_the_set_up_of_its_scan(backend, data_file, tmp_path, capsys):
    """CLI-25: energy and distance are in its summary; losses, too."""
    backend.report = {"geometry": SETUP, "losses": [2.0, 1.0]}
    out = tmp_path / "out"
    assert main(["reconstruct", str(data_file), "--output-dir", str(out), "--quiet"]) == 0
    for number, source in enumerate((out, out / "object.npz")):
        product = tmp_path / f"product{number}.h5"
        assert main(["convert", str(source), str(product), "--quiet"]) == 0
        with h5py.File(product) as file:
            assert file.attrs["photon_energy_eV"] == 8800
            assert file["object"].attrs["pixel_width_m"] == pytest.approx(OBJECT_PIXEL_M)
            np.testing.assert_array_equal(file["loss_values"][()], [2.0, 1.0])
    copy = tmp_path / "elsewhere" / "object.npz"
    copy.parent.mkdir()
    copy.write_bytes((out / "object.npz").read_bytes())
    (copy.parent / "summary.json").write_text(json.dumps({"outputs": {"object.npz": "another"}, "geometry": SETUP}))
    assert main(["convert", str(copy), str(tmp_path / "c.h5")]) == 2
    assert "geometry.missing" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "elsewhere" / ".."), str(tmp_path / "c.h5")]) == 2
    assert "a folder of results with object.npz" in capsys.readouterr().err


def test_flags_of_patterns_have_no_effect_on_an_image(reconstruction, data_file, tmp_path, capsys):
    """CLI-25, CFG-24: refused, unless a scan is read for its set-up."""
    image, target = tmp_path / "object.npz", tmp_path / "b.npz"
    write_reconstruction(image, reconstruction)
    assert main(["convert", str(image), str(target), "--measurement", "counts", "--nphotons", "10"]) == 2
    error = capsys.readouterr().err
    assert "2 problems" in error
    assert "which has none beside an image: it has no patterns; only its scan has, the --companion" in error
    assert "config.no_effect" in error
    assert not target.exists()
    words = ["--companion", str(data_file), "--measurement", "counts", "--quiet"]
    assert main(["convert", str(image), str(target), *words]) == 0


def test_a_scan_is_no_picture(data_file, tmp_path, capsys):
    assert main(["convert", str(data_file), str(tmp_path / "b.tif")]) == 2
    assert "a suffix of a format for scans (.h5 for ptychodus" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["infer", "reconstruct"])
def test_a_run_writes_its_image_in_the_formats_that_were_asked_for(command, backend, scan, tmp_path, capsys):
    """CLI-72: with the set-up of its scan, in the set of results."""
    data, out, model = tmp_path / "scan.cxi", tmp_path / "out", tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    write_scan(data, scan, geometry=SETUP)
    words = [command, *([str(model)] if command == "infer" else []), str(data), "--output-dir", str(out), "--quiet"]
    assert main([*words, "--format", "cxi", "--format", "ptychodus", "--format", "tiff", "--format", "npz"]) == 0
    outputs = json.loads((out / "summary.json").read_text())["outputs"]
    assert {"object.npz", "object.cxi", "product.h5", "object.tif"} <= set(outputs)
    with h5py.File(out / "product.h5") as file:
        assert file.attrs["photon_energy_eV"] == pytest.approx(8800)
    assert main(["inspect", str(out)]) == 0
    (out / "summary.json").write_text((out / "summary.json").read_text().replace('"object.tif"', '"object.gone"'))
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 2
    assert "object.tif: expected a file that the summary names" in capsys.readouterr().err


def test_a_format_that_needs_a_set_up_is_refused_before_any_work(backend, data_file, tmp_path, capsys):
    """CLI-72."""
    out = tmp_path / "out"
    assert main(["reconstruct", str(data_file), "--output-dir", str(out), "--format", "ptychodus"]) == 2
    assert "geometry.missing" in capsys.readouterr().err
    assert backend.calls == {}
    assert not out.exists()


def test_a_conversion_that_fails_leaves_the_target_as_it_was(data_file, tmp_path, capsys):
    """CLI-20."""
    target = tmp_path / "b.h5"
    target.write_bytes(b"earlier")
    assert main(["convert", str(data_file), str(target), "--overwrite"]) == 2
    assert "--geometry KEY=VALUE" in capsys.readouterr().err
    assert target.read_bytes() == b"earlier"


def test_problems_of_a_set_up_are_reported_at_once():
    assert parsed_geometry(["a=1e-3", "b=2"]) == {"a": 1e-3, "b": 2.0}
    with pytest.raises(ContractError) as caught:
        parsed_geometry(["a=1", "a=2", "b", "=3", "c=nan", "d=x"])
    assert caught.value.codes == ("geometry.repeated", *["geometry.word"] * 4)


@pytest.mark.parametrize("name", ["b.h5", "b.cxi", "b.npz"])
def test_inspect_reads_every_format(data_file, tmp_path, capsys, name):
    """CLI-13."""
    assert main(["convert", str(data_file), str(tmp_path / name), *WORDS, "--quiet"]) == 0
    assert main(["inspect", str(tmp_path / name), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["arrays"]["measurements"] == "(12, 16, 16) uint16"
    assert {check["status"] for check in report["checks"]} <= {"ok", "info"}


@pytest.mark.parametrize("names", [("diffraction.h5", "product.h5"), ("train_data.npz", None)])
@pytest.mark.shared_data
def test_inspect_and_convert_read_ptychodus_files(shared_data, tmp_path, capsys, names):
    """CLI-13: with the second file as companion, or detected beside the first."""
    first, second = names
    words = [] if second is None else ["--companion", str(shared_data / "ptychodus" / second)]
    file = str(shared_data / "ptychodus" / first)
    assert main(["inspect", file, "--json", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["facts"]["format"] == "ptychodus"
    assert main(["convert", file, str(tmp_path / "a.npz"), *words, "--quiet"]) == 0
    np.testing.assert_array_equal(read_scan(tmp_path / "a.npz").counts(), read_scan(file).counts())


def test_a_mapping_and_its_data_are_read_by_inspect(scan, tmp_path, capsys):
    """CLI-13: any HDF5, by a mapping whose data are the companion."""
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["frames"] = scan.measurements
        file["x"], file["y"] = scan.positions_px.T
    (tmp_path / "raw.toml").write_text(
        '[patterns]\ndataset = "frames"\naxes = "pattern y x"\nunit = "counts"\nzero_frequency = "centre"\n'
        '[positions]\nx = "x"\ny = "y"\nunit = "px"\n'
    )
    words = [str(tmp_path / "raw.toml"), "--companion", str(tmp_path / "raw.h5")]
    assert main(["inspect", *words, "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert "estimate one from the patterns" in checks["probe"]["text"]
    assert main(["inspect", str(tmp_path / "raw.h5")]) == 2
    assert "frames" in capsys.readouterr().err


def test_the_orientation_of_a_real_scan_is_determined_and_its_twin_named(tmp_path, capsys):
    """CLI-13: positions swapped and one turned round; the check names what turns them back."""
    path = tmp_path / "scan.npz"
    words = ["--N", "48", "--patterns", "225", "--step-px", "5", "--object", "dead_leaves", "--seed", "4", "--quiet"]
    assert main(["simulate", str(path), *words]) == 0
    assert main(["inspect", str(path), "--orientation"]) == 0
    assert "ok   orientation" in capsys.readouterr().out
    scan = read_scan(path)
    wrong = scan.positions_px[:, ::-1] * [-1.0, 1.0]
    write_scan(path, replace(scan, positions_px=wrong, object_truth=None, object_origin_yx_px=None))
    assert main(["inspect", str(path), "--orientation", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    check = next(check for check in report["checks"] if check["name"] == "orientation")
    ranking = report["facts"]["orientation"]
    # given (-y, x): x is the second, and y the first negated.
    assert {key: ranking["best"][key] for key in ("swap_xy", "flip_x", "flip_y")} in (
        {"swap_xy": True, "flip_x": False, "flip_y": True},
        *([{"swap_xy": True, "flip_x": True, "flip_y": False}] if ranking["twin_is_equal"] else []),
    )
    assert check["status"] == "warn"
    assert ranking["best"]["rule"] in check["text"]
    assert len(ranking["residuals"]) == 8
    assert report["turn"] == ranking["best"]["rule"]
    assert f' --turn "{report["turn"]}" ' in report["next"]


def test_only_scans_have_an_orientation(reconstruction, tmp_path, capsys):
    write_reconstruction(tmp_path / "object.npz", reconstruction)
    assert main(["inspect", str(tmp_path / "object.npz"), "--orientation"]) == 2
    assert "--orientation: expected a scan" in capsys.readouterr().err
