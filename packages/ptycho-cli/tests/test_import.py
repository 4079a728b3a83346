"""The command import, and --mapping of the others (specs/cli.md, CLI-40)."""

from __future__ import annotations

import numpy as np
import pytest
from file_layouts import ptylab
from ptycho_cli.main import main
from ptycho_data.files import read_scan, write_reconstruction, write_scan


@pytest.fixture
def folder(tmp_path, scan):
    """A scan in PtyLab's layout, lab.hdf5."""
    ptylab(tmp_path, scan)
    return tmp_path


def test_it_says_what_it_took_for_what_and_writes_scan_and_mapping(folder, scan, capsys):
    """Lines of at most 120 columns; the mapping beside OUT names the data, and reads it."""
    out = folder / "out.npz"
    assert main(["import", str(folder / "lab.hdf5"), str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["patterns", "positions", "set-up", "wrote", "wrote", "next:"]
    assert "ptychogram (12, 16, 16) uint16" in lines[0]
    assert "encoder, columns y x in m" in lines[1]
    assert lines[2].split(None, 1)[1] == "wavelength 0.14089 nm, distance 2 m, detector pixel 75 um"
    written = read_scan(out)
    np.testing.assert_array_equal(written.measurements, scan.measurements)
    by_mapping = read_scan(folder / "out.toml")
    np.testing.assert_array_equal(by_mapping.positions_px, written.positions_px)
    assert written.metadata["geometry"] == by_mapping.metadata["geometry"]


def test_flags_reach_the_reader(folder, scan):
    words = ["--turn", "x'=y,y'=x", "--select", "0:6", "--crop", "8", "--quiet"]
    assert main(["import", str(folder / "lab.hdf5"), str(folder / "out.npz"), *words]) == 0
    written = read_scan(folder / "out.npz")
    np.testing.assert_array_equal(written.measurements, scan.measurements[:6, 4:12, 4:12])
    moved = written.positions_px - scan.positions_px[:6, ::-1] / 2
    np.testing.assert_allclose(moved - moved[0], 0, atol=1e-6)


def test_nothing_that_exists_is_overwritten(folder, capsys):
    """OUT and its mapping; a name of FILES never."""
    (folder / "out.toml").write_text("mine")
    words = ["import", str(folder / "lab.hdf5"), str(folder / "out.npz")]
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert not (folder / "out.npz").exists()
    assert (folder / "out.toml").read_text() == "mine"
    assert main([*words, "--overwrite", "--quiet"]) == 0
    assert "ptychogram" in (folder / "out.toml").read_text()
    write_scan(folder / "a.npz", read_scan(folder / "out.npz"))
    assert main(["import", str(folder / "a.npz"), str(folder / "a.npz"), "--overwrite"]) == 2
    assert "import.same_file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "FILES... and OUT"),
        (["lab.hdf5"], "FILES... and OUT"),
        (["lab.hdf5", "out.txt"], "a name ending in .npz"),
        (["nothing.h5", "out.npz"], "nothing.h5"),
        (["lab.hdf5", "out.npz", "--patterns", "dp"], "give --patterns KEY"),
        (["lab.hdf5", "out.npz", "--energy", "8.8"], "write --energy 8.8keV"),
        (["lab.hdf5", "out.npz", "--crop", "4"], "import.crop"),
        (["lab.hdf5", "out.npz", "--mapping", "lab.hdf5"], "a TOML file"),
    ],
    ids=str,
)
def test_bad_use_is_one_line_that_names_the_flag(folder, capsys, monkeypatch, words, said):
    monkeypatch.chdir(folder)
    assert main(["import", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (folder / "out.npz").exists()


def test_the_next_file_is_read_by_the_mapping_of_the_first(folder, scan, backend, capsys):
    """import, inspect, reconstruct and train; the backend gets the scan."""
    assert main(["import", str(folder / "lab.hdf5"), str(folder / "first.npz"), "--quiet"]) == 0
    mapping = ["--mapping", str(folder / "first.toml")]
    (folder / "lab.hdf5").rename(folder / "next.hdf5")
    data = str(folder / "next.hdf5")
    assert main(["inspect", data, *mapping]) == 0
    assert "(12, 16, 16) uint16" in capsys.readouterr().out
    assert main(["import", data, str(folder / "next.npz"), *mapping, "--quiet"]) == 0
    np.testing.assert_array_equal(read_scan(folder / "next.npz").measurements, scan.measurements)
    assert main(["reconstruct", data, *mapping, "--output-dir", str(folder / "image"), "--quiet"]) == 0
    np.testing.assert_array_equal(backend.calls["reconstruct"]["data"].measurements, scan.measurements)
    assert main(["train", data, *mapping, "--output-dir", str(folder / "model"), "--quiet"]) == 0
    np.testing.assert_array_equal(backend.calls["payload"]["data"].measurements, scan.measurements)
    (folder / "model.safetensors").write_bytes(b"weights")
    infer = ["infer", str(folder / "model.safetensors"), data, *mapping, "--output-dir", str(folder / "b"), "--quiet"]
    assert main(infer) == 0
    np.testing.assert_array_equal(backend.calls["payload"]["data"].measurements, scan.measurements)


def test_a_file_that_says_everything_needs_no_mapping(data_file, tmp_path, capsys):
    assert main(["import", str(data_file), str(tmp_path / "out.npz")]) == 0
    assert "no mapping is needed" in capsys.readouterr().out
    assert not (tmp_path / "out.toml").exists()


def test_convert_and_evaluate_read_by_a_mapping(folder, scan, backend, work_failed, capsys, monkeypatch):
    """CLI-40: a scan, and the scan of an image, which gives its set-up."""
    assert main(["import", str(folder / "lab.hdf5"), str(folder / "first.npz"), "--quiet"]) == 0
    data, mapping = str(folder / "lab.hdf5"), ["--mapping", str(folder / "first.toml")]
    assert main(["convert", data, str(folder / "second.npz"), *mapping, "--quiet"]) == 0
    np.testing.assert_array_equal(read_scan(folder / "second.npz").measurements, scan.measurements)
    write_reconstruction(folder / "object.npz", backend.result)
    product = ["convert", str(folder / "object.npz"), str(folder / "image.h5")]
    assert main([*product, "--companion", data, *mapping, "--quiet"]) == 0
    assert main(["evaluate", "--scan", data, *mapping, "--hold-out", "0.9", "--output-dir", str(folder / "out")]) == 2
    assert "at least 8 patterns" in capsys.readouterr().err
    evaluated = []

    def evaluate(scan, **_):
        evaluated.append(scan)
        raise work_failed

    monkeypatch.setattr(backend, "evaluate", evaluate)
    assert main(["evaluate", "--scan", data, *mapping]) == 1
    np.testing.assert_array_equal(evaluated[0].measurements, scan.measurements)


def test_the_mapping_that_is_read_is_never_replaced(folder, capsys):
    """CLI-45: also with --overwrite; it may have been edited by hand."""
    argv = ["import", str(folder / "lab.hdf5"), str(folder / "out.npz"), "--quiet"]
    assert main(argv) == 0
    mapping = folder / "out.toml"
    mapping.write_text(mapping.read_text() + "# by hand\n")
    assert main([*argv, "--mapping", str(mapping), "--overwrite"]) == 2
    assert "import.same_file" in capsys.readouterr().err
    assert mapping.read_text().endswith("# by hand\n")
