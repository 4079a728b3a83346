"""Inference from coarse to fine against full resolution only, on scans with truth; prints JSON.

usage: python benchmarks/coarse_to_fine.py [SYNTH.npz] [--train-groups 1500] [--repeats 3] [--backend torch] [--joint]

One network, trained on a simulated object of lines, infers the demo's test scan, SYNTH.npz if given (a scan with its
true probe and object), and objects of three kinds under annular pupils of .1 to .14 cycles per pixel with random
aberrations (1500 patterns of 64 x 64, 88,000 photons, step .55 of the probe's rms radius), each with the scan's own
probe, with one level and with the default levels in turn. CPU seconds are the least of the repeats. One thread.
With --joint: joint reconstructions from a guessed probe (the true one defocused), as before there were levels and
priors (30 epochs at full resolution, amplitude loss) and now, and the model ``pretrained``, which needs no training.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from measuring import ONE_THREAD, machine, show
from numpy.typing import NDArray
from ptycho_contracts.records import Scan
from ptycho_data.files import read_scan
from ptycho_data.simulate import simulate

OBJECTS = ("lines", "random_field", "dead_leaves")
FIGURES = ("complex_correlation", "phase_rmse_rad", "phase_ssim", "amplitude_rmse")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path, nargs="?")
    parser.add_argument("--train-groups", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backend", choices=("torch", "tf"), default="torch")
    parser.add_argument("--joint", action="store_true")
    given = parser.parse_args()
    if "OMP_NUM_THREADS" not in os.environ:  # numerical libraries read it when they are loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    package = import_module(f"ptycho_{given.backend}")
    if given.joint:
        joint = {name: joint_fits(package, scan) for name, scan in scans(given.scan)}
        return show({"machine": machine(), "backend": given.backend, "results": joint})
    other = simulate(n_patterns=1500, step_px=5.0, photons_per_pattern=1e5, seed=1)
    model, _ = package.train(other, epochs=1, n_groups=given.train_groups, accelerator="cpu", seed=0)
    results = {name: compared(package, model, scan, given.repeats) for name, scan in scans(given.scan)}
    show({"machine": machine(), "backend": given.backend, "train_groups": given.train_groups, "results": results})


def scans(synthetic: Path | None) -> Iterator[tuple[str, Scan]]:
    """Scans with their truths, by name."""
    yield "demo", simulate(n_patterns=1500, step_px=5.0, photons_per_pattern=1e5, seed=2)
    if synthetic is not None:
        yield synthetic.stem, read_scan(synthetic, object_is_truth=True)
    for seed, kind in enumerate(OBJECTS, start=1):
        probe = annular_probe(64, seed=seed)
        step = 0.55 * rms_radius_px(probe)
        yield (
            f"annular probe {seed}, {kind}",
            simulate(
                object_kind=kind, n_patterns=1500, step_px=step, photons_per_pattern=8.8e4, seed=10 + seed, probe=probe
            ),
        )


def annular_probe(N: int, *, seed: int) -> NDArray[np.complex64]:
    """(N, N) beam of a ring of .1 to .14 cycles per pixel, its edges soft, with random aberrations of orders 2 to 4."""
    rng, q = np.random.default_rng(seed), np.fft.fftfreq(N)
    qy, qx = np.meshgrid(q, q, indexing="ij")
    radius = np.hypot(qy, qx)
    orders = [(i, j) for i in range(5) for j in range(5 - i) if i + j >= 2]
    phase = sum(rng.normal(0, 4.8) * (qx / 0.14) ** i * (qy / 0.14) ** j for i, j in orders)
    ring = 1 / (1 + np.exp(-2 * N * (radius - 0.1))) / (1 + np.exp(2 * N * (radius - 0.14)))
    beam: NDArray[np.complex64] = np.fft.fftshift(np.fft.ifft2(ring * np.exp(1j * phase))).astype(np.complex64)
    return beam


def rms_radius_px(probe: NDArray[np.complex64]) -> float:
    """Root of the mean squared distance from the middle, weighted by |P|^2."""
    power, centred = np.abs(probe) ** 2, np.arange(len(probe)) - len(probe) // 2
    return float(np.sqrt((power * (centred[:, None] ** 2 + centred[None] ** 2)).sum() / power.sum()))


def compared(package: Any, model: Any, scan: Scan, repeats: int) -> dict[str, Any]:
    """Figures with one level and with the default ones, and their ratios."""
    runs: dict[str, list[dict[str, Any]]] = {"one_level": [], "coarse_to_fine": []}
    for _ in range(repeats):
        for name, levels in (("one_level", 1), ("coarse_to_fine", None)):
            image, summary = package.infer(model, scan, levels=levels, probe_source="file", accelerator="cpu")
            figures = package.evaluate(image, scan).report["figures"]
            run = {figure: figures[figure] for figure in FIGURES}
            run |= {"residual": summary["residual"]["used"], "levels_px": summary["levels_px"]}
            runs[name].append(run | {"cpu_s": summary["cpu_seconds"]["inference"]})
    best = {name: min(some, key=lambda run: run["cpu_s"]) for name, some in runs.items()}
    ratios = {
        key: best["coarse_to_fine"][key] / best["one_level"][key] for key in ("phase_rmse_rad", "residual", "cpu_s")
    }
    return {**best, "ratios": ratios}


JOINT = {
    "30 epochs, one level": {"levels": 1, "prior": "none", "loss": "amplitude", "epochs": 30},
    "levels, no prior, 30 epochs": {"prior": "none", "loss": "amplitude", "epochs": 30},
    "levels, no prior, 8 epochs": {"prior": "none", "loss": "amplitude", "epochs": 8},
    "default": {},
    "default, 8 epochs": {"epochs": 8},
    "default, 4 epochs": {"epochs": 4},
}


def joint_fits(package: Any, scan: Scan) -> dict[str, Any]:
    """Figures and CPU seconds of joint reconstructions from a guess, and of ``pretrained`` with either probe."""
    squared = np.add.outer(*2 * [np.fft.fftfreq(scan.N) ** 2])
    guess = np.fft.ifft2(np.fft.fft2(scan.probe) * np.exp(0.3j * np.pi * scan.N * squared)).astype(np.complex64)
    guessed = replace(scan, probe=guess, probe_kind="guess")
    runs = {
        name: package.reconstruct(guessed, modes=1, accelerator="cpu", **options) for name, options in JOINT.items()
    }
    runs["pretrained, guessed probe"] = package.infer("pretrained", guessed, accelerator="cpu")
    exact = replace(scan, probe_kind="exact")
    runs["pretrained, true probe"] = package.infer("pretrained", exact, accelerator="cpu")
    results = {}
    for name, (image, summary) in runs.items():
        figures = package.evaluate(image, scan).report["figures"]
        results[name] = {figure: figures[figure] for figure in FIGURES} | {
            "residual": summary["residual"]["used"],
            "cpu_s": summary["cpu_seconds"],
            "cpu_s_in_all": sum(summary["cpu_seconds"].values()),
            "patterns_per_cpu_second": summary["patterns_per_cpu_second"],
        }
    return results


if __name__ == "__main__":
    main()
