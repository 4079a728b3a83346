"""Products of ours as Ptychodus itself opens them (specs/files.md, PTY)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ptycho_cli.main import main
from ptycho_contracts.records import Reconstruction
from ptycho_data.files import read_scan, write_reconstruction, write_scan
from ptycho_data.simulate import simulate

pytest.importorskip("ptychodus", reason="run: nox -s ptychodus")

GEOMETRY = {"photon_energy_ev": 8800.0, "detector_distance_m": 2.0, "detector_pixel_size_m": 75e-6}
WAVELENGTH_M = 1.23984198e-6 / 8800.0


@pytest.fixture(scope="module")
def opened() -> Callable[..., dict[str, Any]]:
    """What Ptychodus says of a product beside its diffraction file, by the acceptance script of the shared data."""
    here = Path(__file__).resolve().parents[3] / "shared" / "data"
    script = Path(os.environ.get("PTYCHO_SHARED_DATA", here)).parent / "check" / "ptychodus_open_product.py"
    if not script.is_file():
        pytest.skip(f"needs the acceptance script: none at {script}; set PTYCHO_SHARED_DATA")

    def run(product: Path, diffraction: Path) -> dict[str, Any]:
        words = [sys.executable, str(script), str(product), "--diffraction", str(diffraction), "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
        said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        assert (done.returncode, said["problems"]) == (0, []), done.stderr
        return said

    return run


@pytest.fixture(scope="module")
def scan():
    return simulate(N=32, n_patterns=60, step_px=4.0, photons_per_pattern=1e4, seed=1)


def image_of(scan) -> Reconstruction:
    """The true object as a result."""
    return Reconstruction(
        object=scan.object_truth,
        origin_yx_px=scan.object_origin_yx_px,
        weight=np.ones(scan.object_truth.shape, np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
    )


def test_a_scan_and_an_image_of_it(opened, scan, tmp_path):
    """PTY-4: the pixel, and the positions on the object's array, half a pixel before ours."""
    diffraction, product, image = (tmp_path / name for name in ("diffraction.h5", "image.h5", "object.npz"))
    write_scan(diffraction, scan, geometry=GEOMETRY)
    write_reconstruction(image, image_of(scan))
    assert main(["convert", str(image), str(product), "--companion", str(diffraction)]) == 0
    said = opened(product, diffraction)
    assert said["n_positions"] == 60
    assert said["paired_patterns"] == [60, 32, 32]
    assert said["pixel_m"] == pytest.approx([WAVELENGTH_M * 2.0 / (32 * 75e-6)] * 2, rel=1e-6)
    for axis, name in enumerate("xy"):
        ours = scan.positions_px[:, axis] - scan.object_origin_yx_px[1 - axis] - 0.5
        assert said["positions_px"][name] == pytest.approx([ours.min(), ours.max()], abs=1e-3)


@pytest.mark.shared_data
def test_an_image_of_its_own_file(opened, tmp_path):
    """Energy, pixel and number of positions as in its own product."""
    folder = Path(os.environ.get("PTYCHO_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    diffraction = folder / "ptychodus" / "diffraction.h5"
    scan = read_scan(diffraction)
    height, width = (int(np.ptp(scan.positions_px[:, axis])) + 2 * scan.N for axis in (1, 0))
    image = Reconstruction(
        object=np.ones((height, width), np.complex64),
        origin_yx_px=scan.positions_px.min(0)[::-1] - scan.N,
        weight=np.ones((height, width), np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
    )
    write_reconstruction(tmp_path / "object.npz", image)
    product = tmp_path / "product.h5"
    assert main(["convert", str(tmp_path / "object.npz"), str(product), "--companion", str(diffraction)]) == 0
    ours, theirs = opened(product, diffraction), opened(folder / "ptychodus" / "product.h5", diffraction)
    for name in ("energy_eV", "distance_m", "n_positions", "paired_patterns"):
        assert ours[name] == theirs[name]
    assert ours["pixel_m"] == pytest.approx(theirs["pixel_m"], rel=1e-6)


def test_patterns_that_are_missing_from_the_middle(opened, scan, tmp_path):
    """PTY-3: a product keeps the indexes of the diffraction file that it belongs to."""
    diffraction, image, product = (tmp_path / name for name in ("diffraction.h5", "object.npz", "image.h5"))
    write_scan(diffraction, scan, geometry=GEOMETRY)
    numbers = np.delete(np.arange(62), [7, 30])
    with h5py.File(diffraction, "r+") as file:
        for name in ("indexes", "probe_position_indexes"):
            file[name][...] = numbers
    write_reconstruction(image, image_of(scan))
    assert main(["convert", str(image), str(product), "--companion", str(diffraction)]) == 0
    with h5py.File(product) as file:
        np.testing.assert_array_equal(file["probe_position_indexes"], numbers)
    assert opened(product, diffraction)["paired_patterns"] == [60, 32, 32]
