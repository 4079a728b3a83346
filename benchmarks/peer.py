"""A scan reconstructed by a peer, through its public interface; run by the interpreter of the peer's own environment.

usage: PYTHON benchmarks/peer.py {ptychi,ptylab} SCAN.npz IMAGES.npz

SCAN.npz: counts (M, N, N), corners (M, 2) whole pixels [y, x] of the patches on the canvas, probe (N, N) in
sqrt(counts), fit_probe, shape of the canvas, epochs (E,). IMAGES.npz: objects (E, H, W) after these epochs, cpu_s (E,).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Given = dict[str, Any]


def ptychi(given: Given) -> Iterator[np.ndarray]:
    """Least-squares maximum likelihood (LSQML) by default settings, with the noise model that did better in trials."""
    import ptychi.api as api
    from ptychi.api.task import PtychographyTask
    from ptychi.utils import rescale_probe

    counts, corners = given["counts"].astype(np.float32), given["corners"]
    options = api.LSQMLOptions()
    options.reconstructor_options.default_device = api.Devices.CPU
    options.reconstructor_options.batch_size = min(44, max(4, len(counts) // 4))
    few = counts.sum() < 1e4 * len(counts)
    options.reconstructor_options.noise_model = api.NoiseModels.POISSON if few else api.NoiseModels.GAUSSIAN
    options.reconstructor_options.random_seed = 0
    options.probe_options.optimizable = bool(given["fit_probe"])
    # It takes the middle of a patch, between two pixels if N is even, for its position.
    options.object_options.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    options.object_options.position_origin_coords = 2 * [(counts.shape[-1] - 1) / 2]
    task = PtychographyTask(
        options,
        diffraction_data=counts,
        object_data=np.ones((1, *given["shape"]), np.complex64),
        probe_data=rescale_probe(given["probe"][None, None], counts),
        probe_position_y_px=corners[:, 0].astype(np.float32),
        probe_position_x_px=corners[:, 1].astype(np.float32),
    )
    for epochs in np.diff(given["epochs"], prepend=0):
        task.run(int(epochs))
        yield task.get_data_to_cpu("object", as_numpy=True)[0]


def ptylab(given: Given) -> Iterator[np.ndarray]:
    """The extended iterative engine (ePIE) by default settings."""
    import h5py
    from PtyLab import Engines, easyInitialize

    counts, N = given["counts"], given["counts"].shape[-1]
    middle = given["corners"].max(axis=0) // 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.hdf5"
        with h5py.File(path, "w") as file:  # in units in which wavelength * distance / (N * detector pixel) is 1
            file["ptychogram"], file["encoder"] = counts.astype(np.float32), (given["corners"] - middle).astype(float)
            file["wavelength"], file["dxd"], file["zo"] = 1.0, 1.0, float(N)
        _, reconstruction, _, _, engine = easyInitialize(path, Engines.ePIE, dummyMonitor=True)
    reconstruction.probe = given["probe"][None, None, None, None].astype(np.complex64)
    if not given["fit_probe"]:
        engine.betaProbe = 0.0
    top, left = reconstruction.No // 2 - N // 2 - middle
    height, width = given["shape"]
    for engine.numIterations in np.diff(given["epochs"], prepend=0):
        engine.reconstruct()
        yield np.squeeze(reconstruction.object)[top : top + height, left : left + width]


def main() -> None:
    peer, scan, images = sys.argv[1:]
    with np.load(scan) as file:
        given = dict(file)
    np.random.seed(0)  # noqa: NPY002 - what the peer draws from
    objects, seconds = [], []
    began = time.process_time()
    for image in {"ptychi": ptychi, "ptylab": ptylab}[peer](given):
        seconds.append(time.process_time() - began)
        objects.append(np.array(image, np.complex64))
    np.savez(images, objects=np.stack(objects), cpu_s=np.array(seconds))


if __name__ == "__main__":
    main()
