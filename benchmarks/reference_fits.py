"""Simulated scans, and what a prior is compared with on them: plain fits of the likelihood, and of total variation."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Scan
from ptycho_data.canvas import CanvasGeometry, Sites, canvas_geometry, illumination, photons_per_pixel, scan_sites
from ptycho_data.canvas.illumination import power_of
from ptycho_data.fitting import Prior, joint_reconstruction
from ptycho_data.fitting.joint import from_pairs
from ptycho_data.fitting.probes import normalised_probe
from ptycho_data.simulate import OBJECTS, defocused_disc, jittered, place, simulate_scan
from ptycho_torch.joint import JointParameters

RATE, BATCH = 0.05, 16
TV_WEIGHTS = (0.3, 0.6, 1.0, 1.6, 3.0)
SEED = 7

Image = NDArray[np.complex64]


def photographs(shape: tuple[int, int]) -> Image:
    """Two photographs that scikit-image ships, as amplitude and phase."""
    from skimage import data, transform

    camera, coins = (
        transform.resize(image() / 255.0, shape, anti_aliasing=True) for image in (data.camera, data.coins)
    )
    return ((0.7 + 0.3 * camera) * np.exp(1j * (-1 + 1.6 * coins))).astype(np.complex64)


def zone_plate(shape: tuple[int, int]) -> Image:
    """Sharp rings, the finer the further out, of a period of 4 px at the middle of the sides."""
    y, x = (np.arange(side) - side / 2 for side in shape)
    ring = np.sin(np.pi / 4 * (y[:, None] ** 2 + x**2) / (min(shape) / 2)) > 0
    return np.where(ring, 1.0, 0.7 * np.exp(-0.6j)).astype(np.complex64)


UNSEEN = {"photographs": photographs, "zone_plate": zone_plate}
"""Kinds of objects that the prior was never trained on."""


def scan_of(
    kind: str, photons: float, *, patterns: int = 225, step_px: float = 6.0, N: int = 64, whole_px: bool = False
) -> Scan:
    """A jittered raster under a defocused disc of a radius of 14 px at N = 64, 28 px at N = 128.

    Args:
        whole_px: Whether positions are rounded, so that no model has to interpolate.
    """
    positions, shape = place(jittered(patterns, step_px=step_px, seed=SEED), N)
    ranges: dict[str, Any] = {"amplitude_range": (0.7, 1.0), "phase_range_rad": (-1.0, 0.6)}
    obj = UNSEEN[kind](shape) if kind in UNSEEN else OBJECTS[kind](shape, seed=SEED + 100, **ranges)
    probe = defocused_disc(N, aperture=0.2, radius_px=14 * N // 64)
    positions = np.rint(positions) if whole_px else positions
    return simulate_scan(obj, probe, positions, photons_per_pattern=photons, seed=SEED + 1)


class Case:
    """A scan with what its images are compared with."""

    def __init__(self, scan: Scan, truth: Image | None = None) -> None:
        self.scan = scan
        self.geometry: CanvasGeometry = canvas_geometry(scan.positions_px, scan.N)
        self.sites: Sites = scan_sites(scan.positions_px, self.geometry, scan.N)
        self.probe = normalised_probe(scan.probe, 1.0)
        self.light = illumination(self.probe, self.sites)
        self.weight = np.minimum(self.light, power_of(self.probe).max())
        self.photons = float(scan.counts().sum(dtype=np.float64))
        self.photons_per_px = photons_per_pixel(self.light, self.photons)
        if truth is None:
            top, left = (self.geometry.origin_yx_px - scan.object_origin_yx_px).astype(int)
            height, width = self.geometry.shape
            truth = scan.object_truth[top : top + height, left : left + width]
        self.truth = truth

    def error(self, object_: Image) -> float:
        """``sum w |O - T|^2 / sum w |T|^2`` after the best global phase; w the light, at most max |P|^2."""
        turn = (self.weight * object_.conj() * self.truth).sum()
        return squared_error(object_ * turn / abs(turn), self.truth, self.weight)

    def tv(self, weight: float) -> Prior:
        """Total variation, of a weight in units of what the noise implies."""
        return Prior("tv", photons=self.photons, photons_per_px=self.photons_per_px, weight=weight)

    def course(self, prior: Prior | None, *, epochs: int, probe_rate: float = 0.0) -> tuple[list[Image], float]:
        """Objects after each epoch of a Poisson fit at full resolution from empty space; CPU seconds."""
        made: list[JointParameters] = []
        objects: list[Image] = []
        batches = -(-len(self.scan) // BATCH)

        def make(problem: Any) -> JointParameters:
            made.append(JointParameters(problem))
            return made[-1]

        def look(_: str, done: int, __: int) -> None:
            if done % batches == 0:
                objects.append(from_pairs(made[-1].parameters()["object"]).copy())

        began = time.process_time()
        joint_reconstruction(
            make,
            self.scan,
            self.sites,
            self.probe,
            indices=np.arange(len(self.scan)),
            mean_counts=self.photons / len(self.scan),
            epochs=epochs,
            batch_size=BATCH,
            object_learning_rate=RATE,
            probe_learning_rate=probe_rate,
            loss="poisson",
            seed=0,
            prior=prior,
            progress=look,
        )
        return objects, time.process_time() - began


def squared_error(image: NDArray[Any], truth: NDArray[Any], weight: NDArray[Any]) -> float:
    """``sum w |image - truth|^2 / sum w |truth|^2``."""
    return float((weight * np.abs(image - truth) ** 2).sum() / (weight * np.abs(truth) ** 2).sum())
