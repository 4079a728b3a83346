"""Files as new users have them: empty, cut, of another kind, with the wrong keys, shapes, units and numbers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ptycho_contracts.config import DataConfig, ModelConfig
from ptycho_contracts.records import Reconstruction, Scan
from ptycho_data.bundle_file import BundleFile, write_bundle
from ptycho_data.files import write_reconstruction, write_scan
from ptycho_data.simulate import PROBES
from safetensors.numpy import save_file

CBF_START = b"###CBF: VERSION 1.5\r\n"
TIFF_START = b"II*\0"


def make_wrong_files(folder: Path, scan: Scan) -> None:
    """Fill a folder.

    Args:
        folder: An empty one.
        scan: Counts with a probe; it becomes ``scan.npz``, which is right, and of it the wrong ones.
    """
    write_scan(folder / "scan.npz", scan)
    with np.load(folder / "scan.npz") as archive:
        right = dict(archive)
    _broken(folder)
    for name, changes in _variants(right).items():
        arrays = {key: value for key, value in {**right, **changes}.items() if value is not None}
        np.savez(folder / f"{name}.npz", **arrays)
    _arrays_and_tables(folder, right)
    _models(folder)
    _results(folder, scan.N)
    _texts(folder)


def _broken(folder: Path) -> None:
    (folder / "folder").mkdir()
    (folder / "empty.npz").touch()
    (folder / "text.npz").write_text("my notes on the beamtime\n")
    (folder / "cut.npz").write_bytes((folder / "scan.npz").read_bytes()[:3000])
    (folder / "frame.tif").write_bytes(TIFF_START + bytes(60))
    (folder / "frame.cbf").write_bytes(CBF_START + bytes(60))


def _variants(right: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What differs from the right scan, by the name of the file; None: the key is left out."""
    counts, x, y = right["diff3d"], right["xcoords"], right["ycoords"]
    floats = counts.astype(np.float32)
    with_nan = floats.copy()
    with_nan[0, 0, 0] = np.nan
    nobody = {"measurement": None, "probeGuess": None}
    return {
        "other_keys": {"diff3d": None, "patterns_of_today": counts},
        "no_positions": {"xcoords": None},
        "transposed": {"diff3d": np.moveaxis(counts, 0, -1)},
        "few_positions": {"xcoords": x[:7], "ycoords": y[:7]},
        "more_x_than_y": {"ycoords": y[:7]},
        "positions_2xM": {"positions_px": np.stack([x, y]), "xcoords": None, "ycoords": None},
        "nan": {"diff3d": with_nan},
        "nan_positions": {"xcoords": np.full_like(x, np.nan)},
        "negative": {"diff3d": counts.astype(np.int32) - 5},
        "complex": {"diff3d": counts.astype(np.complex64)},
        "one": {"diff3d": counts[:1], "xcoords": x[:1], "ycoords": y[:1], "scan_index": None},
        "image_only": {"diff3d": counts[0]},
        "odd": {"diff3d": counts[:, :15, :15], "probeGuess": None},
        "oblong": {"diff3d": counts[:, :, :14]},
        "metres": {"xcoords": x * 1e-8, "ycoords": y * 1e-8},
        "huge": {"xcoords": x * 1e7, "ycoords": y * 1e7},
        "stray": {"xcoords": np.where(np.arange(len(x)) == 3, 1e5, x)},
        "small_probe": {"probeGuess": right["probeGuess"][:, :8, :8]},
        "real_probe": {"probeGuess": np.abs(right["probeGuess"])},
        "black": {"diff3d": 0 * counts},
        "shifted": {"diff3d": np.fft.fftshift(counts, axes=(1, 2))},
        "floats": {"diff3d": floats / floats.max(), **nobody},
        "contradiction": {"diff3d": floats, **nobody, "probeGuess": right["probeGuess"] * 15.8},
        "unknown_unit": {"measurement": np.array("intensity")},
        "normalised": {"diff3d": floats / floats.max(), "measurement": np.array("normalised-amplitude")},
        "words": {"diff3d": np.array(["a", "b"] * 6)},
        "pickled": {"diff3d": np.array([None] * len(x), dtype=object)},
        "two_scans": {"scan_index": np.arange(len(x)) % 2},
    }


def _arrays_and_tables(folder: Path, right: Mapping[str, Any]) -> None:
    counts, x, y = right["diff3d"], right["xcoords"], right["ycoords"]
    np.save(folder / "stack.npy", counts)
    np.save(folder / "floats.npy", counts.astype(np.float32) / 7.3)
    np.save(folder / "image.npy", counts[0])
    np.save(folder / "indices.npy", np.array([0, 99]))
    rows = np.stack([x, y], axis=1)
    for name, count in (("positions.csv", len(x)), ("seven.csv", 7)):
        np.savetxt(folder / name, rows[:count], delimiter=",", header="x,y", comments="")
    (folder / "ragged.csv").write_text("x,y\n1,2\n3,4,5\n")
    for name, patterns in (("lab.h5", counts), ("floats.h5", counts.astype(np.float32) / 7.3)):
        with h5py.File(folder / name, "w") as file:
            file.update({"frames": patterns, "x": x, "y": y})
    with h5py.File(folder / "groups_only.h5", "w") as file:
        file.create_group("entry")
    (folder / "cut.h5").write_bytes((folder / "lab.h5").read_bytes()[:2000])


def _models(folder: Path) -> None:
    """Bundles without a network, which are read before it is looked for, and broken ones."""
    for name, N in (("model", 16), ("model_of_32", 32)):
        config = ModelConfig(data=DataConfig(N=N, gridsize=2), modes=1, architecture="unrolled", iterations=2, width=4)
        weights = {"network.a": np.ones((), np.float32)}
        content = BundleFile(config, weights, PROBES["defocused_disc"](N), 1234.5, {"seed": 3})
        write_bundle(folder / f"{name}.safetensors", content)
    whole = (folder / "model.safetensors").read_bytes()
    changed = {
        "newer": whole.replace(b'"schema":"2"', b'"schema":"9"'),
        "altered": whole[:-3] + b"abc",
        "cut": whole[:300],
    }
    for name, content in changed.items():
        assert content != whole
        (folder / f"{name}.safetensors").write_bytes(content)
    save_file({"weight": np.ones(3, np.float32)}, folder / "foreign.safetensors")


def _results(folder: Path, N: int) -> None:
    amplitude = np.ones((20, 24)) * (1 + np.arange(24) / 40)
    image = Reconstruction(
        object=amplitude.astype(np.complex64),
        origin_yx_px=np.array([5.0, -3.0]),
        weight=np.ones((20, 24), np.float32),
        probe=np.ones((1, N, N), np.complex64),
        positions_px=np.zeros((12, 2)),
    )
    write_reconstruction(folder / "object.npz", image)
    (folder / "unfinished").mkdir()
    shutil.copy(folder / "object.npz", folder / "unfinished" / "object.npz")


def _texts(folder: Path) -> None:
    texts = {
        "fraction.toml": "gridsize = 2.5\n",
        "whole_float.toml": "gridsize = 2.0\n",
        "misspelt.toml": "gridsiz = 2\n",
        "other_table.toml": "[training]\ngridsize = 2\n",
        "no_toml.toml": "gridsize: 2\n",
        "half_mapping.toml": '[patterns]\ndataset = "frames"\n',
        "fraction_mapping.toml": '[patterns]\ndataset = "frames"\naxes = "pattern y x"\nunit = "auto"\n'
        'zero_frequency = "measured"\n[detector]\nbin = 2.5\n[positions]\nx = "x"\ny = "y"\nunit = "px"\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
