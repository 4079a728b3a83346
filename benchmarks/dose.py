"""What the learned prior gains, by dose: error beside the truth, and CPU seconds, of joint reconstructions.

Objects of simulated kinds (other seeds than the prior was trained on), photographs, and a measured star with its counts
thinned. Beside the likelihood fit stopped by the truth, and total variation with the weight chosen by the truth.
One thread; ``python benchmarks/dose.py [--quick] [--star FILE]`` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig
from ptycho_contracts.records import Scan
from ptycho_data import workflows
from ptycho_data.canvas import CanvasGeometry, Sites, canvas_geometry, illumination, photons_per_pixel, scan_sites
from ptycho_data.canvas.illumination import power_of
from ptycho_data.files import read_scan
from ptycho_data.fitting import Prior, joint_reconstruction
from ptycho_data.fitting.joint import from_pairs
from ptycho_data.fitting.probes import normalised_probe
from ptycho_data.simulate import OBJECTS, defocused_disc, jittered, place, simulate_scan
from ptycho_torch.backend import BACKEND
from ptycho_torch.joint import JointParameters

EPOCHS, RATE, BATCH = 30, 0.05, 16
TV_WEIGHTS = (0.3, 0.6, 1.0, 1.6, 3.0)
SEED = 7
CASES = [
    ("dead_leaves", 300),
    ("dead_leaves", 1000),
    ("dead_leaves", 3000),
    ("lines", 300),
    ("lines", 1000),
    ("lines", 3000),
    ("lines", 1e4),
    ("lines", 1e5),
    ("random_field", 300),
    ("random_field", 1000),
    ("random_field", 3000),
    ("random_field", 1e4),
    ("photographs", 1000),
    ("photographs", 1e4),
    ("photographs", 1e5),
    ("dead_leaves", 1e4),
    ("dead_leaves", 1e5),
    ("dead_leaves", 1e6),
]


def photographs(shape: tuple[int, int]) -> NDArray[np.complex64]:
    """Two photographs that scikit-image ships, as amplitude and phase."""
    from skimage import data, transform

    camera, coins = (
        transform.resize(image() / 255.0, shape, anti_aliasing=True) for image in (data.camera, data.coins)
    )
    return ((0.7 + 0.3 * camera) * np.exp(1j * (-1 + 1.6 * coins))).astype(np.complex64)


def scan_of(kind: str, photons: float, *, patterns: int = 225, step_px: float = 6.0) -> Scan:
    """225 patterns of 64 x 64 under a defocused disc of 14 px radius, 6 px apart."""
    positions, shape = place(jittered(patterns, step_px=step_px, seed=SEED), 64)
    ranges: dict[str, Any] = {"amplitude_range": (0.7, 1.0), "phase_range_rad": (-1.0, 0.6)}
    obj = photographs(shape) if kind == "photographs" else OBJECTS[kind](shape, seed=SEED + 100, **ranges)
    probe = defocused_disc(64, aperture=0.2, radius_px=14)
    return simulate_scan(obj, probe, positions, photons_per_pattern=photons, seed=SEED + 1)


class Case:
    """A scan with what its images are compared with."""

    def __init__(self, scan: Scan, truth: NDArray[np.complex64] | None = None) -> None:
        self.scan = scan
        self.geometry: CanvasGeometry = canvas_geometry(scan.positions_px, scan.N)
        self.sites: Sites = scan_sites(scan.positions_px, self.geometry, scan.N)
        self.probe = normalised_probe(scan.probe, 1.0)
        self.light = illumination(self.probe, self.sites)
        self.photons = float(scan.counts().sum(dtype=np.float64))
        if truth is None:
            top, left = (self.geometry.origin_yx_px - scan.object_origin_yx_px).astype(int)
            height, width = self.geometry.shape
            truth = scan.object_truth[top : top + height, left : left + width]
        self.truth = truth

    def error(self, object_: NDArray[np.complex64]) -> float:
        """``sum w |O - T|^2 / sum w |T|^2`` after the best global phase; w the light, at most max |P|^2."""
        weight = np.minimum(self.light, power_of(self.probe).max())
        turn = (weight * object_.conj() * self.truth).sum()
        left = weight * np.abs(object_ * turn / abs(turn) - self.truth) ** 2
        return float(left.sum() / (weight * np.abs(self.truth) ** 2).sum())

    def course(self, prior: Prior | None, *, epochs: int = EPOCHS) -> tuple[list[float], float]:
        """Error after each epoch of a fit of the object alone at full resolution, from empty space; CPU seconds."""
        made: list[JointParameters] = []
        errors: list[float] = []
        batches = -(-len(self.scan) // BATCH)

        def make(problem: Any) -> JointParameters:
            made.append(JointParameters(problem))
            return made[-1]

        def look(_: str, done: int, __: int) -> None:
            if done % batches == 0:
                errors.append(self.error(from_pairs(made[-1].parameters()["object"])))

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
            probe_learning_rate=0.0,
            loss="poisson",
            seed=0,
            prior=prior,
            progress=look,
        )
        return errors, time.process_time() - began

    def reconstructed(self, **options: Any) -> tuple[float, float]:
        """Error and CPU seconds of ``reconstruct``."""
        config = ReconstructionConfig(modes=len(self.scan.probe), **options)
        began = time.process_time()
        result, _ = workflows.reconstruct(BACKEND, self.scan, config=config, execution_config=ExecutionConfig())
        return self.error(result.object), time.process_time() - began


def compared(case: Case) -> dict[str, Any]:
    """All methods on one case."""
    light = photons_per_pixel(case.light, case.photons)
    errors, seconds = case.course(None)
    tv = {
        weight: case.course(Prior("tv", photons=case.photons, photons_per_px=light, weight=weight))[0][-1]
        for weight in TV_WEIGHTS
    }
    known = {"probe_learning_rate": 0.0, "object_learning_rate": RATE}
    prior, prior_seconds = case.reconstructed(prior="network", **known)
    none, none_seconds = case.reconstructed(prior="none", **known)
    default, default_seconds = case.reconstructed()
    best, best_tv = min(errors), min(tv.values())
    return {
        "photons_per_px": round(light, 1),
        "likelihood_stopped_by_truth": {"error": best, "epoch": errors.index(best) + 1, "cpu_s_30_epochs": seconds},
        "tv_weight_by_truth": {"error": best_tv, "weight": min(tv, key=tv.__getitem__)},
        "prior_known_probe": {
            "error": prior,
            "cpu_s": prior_seconds,
            "over_likelihood": prior / best,
            "over_tv": prior / best_tv,
            "cost": prior_seconds / seconds,
        },
        "none_known_probe": {"error": none, "cpu_s": none_seconds, "over_likelihood": none / best},
        "default": {"error": default, "cpu_s": default_seconds, "over_likelihood": default / best},
    }


def thinned_stars(path: Path) -> Iterator[tuple[str, Case]]:
    """The measured star with a part of its counts; truth is the image of all of them, modes those calibrated on it."""
    full = read_scan(path)
    config = ReconstructionConfig(modes=3, epochs=30, levels=1, prior="none", loss="amplitude")
    image, _ = workflows.reconstruct(BACKEND, full, config=config, execution_config=ExecutionConfig())
    counts = np.rint(full.counts()).astype(np.int64)
    for part in (10, 100, 1000):
        thin = np.random.default_rng(part).binomial(counts, 1 / part).astype(np.float32)
        scan = replace(
            full, measurements=thin, unit="counts", probe=image.probe / np.float32(part**0.5), probe_kind="exact"
        )
        yield f"star 1/{part}", Case(scan, image.object)


def main() -> None:
    """All cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three cases only")
    parser.add_argument("--star", type=Path, help="file of the measured star")
    typed = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for kind, photons in CASES[1:20:7] if typed.quick else CASES:
        results[f"{kind} {photons:g}"] = compared(Case(scan_of(kind, photons)))
    for name, case in thinned_stars(typed.star) if typed.star else ():
        results[name] = compared(case)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
