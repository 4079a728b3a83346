"""Figures against truth: network only, refined, wrong probe, no probe, disturbed positions; prints JSON.

usage: python benchmarks/simulated_scan.py SYNTH.npz [--train-patterns 1500] [--epochs 1] [--passes 4]

SYNTH.npz holds a simulated scan with ``objectGuess`` (truth), its probe and ``probeWrong``. The network is trained on
another simulated object (lines) under the same probe, and never sees the scan that it infers. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import ONE_THREAD, machine, show
from ptycho_contracts.records import Scan
from ptycho_data.files import read_reconstruction, read_scan, write_scan
from ptycho_data.metrics import compare
from ptycho_data.simulate import simulate

FIGURES = ("complex_correlation", "amplitude_rmse", "phase_rmse_rad", "amplitude_ssim", "phase_ssim", "frc_half")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--train-patterns", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--passes", type=int, default=4)
    given = parser.parse_args()
    scan = read_scan(given.scan, object_is_truth=True)
    with np.load(given.scan) as file:
        truth, wrong = file["objectGuess"], file["probeWrong"].astype(np.complex64)[None]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        files = written(scan, wrong, work, patterns=given.train_patterns)
        model = str(work / "train" / "model.safetensors")
        exact = ("--modes", "1")
        runs = {
            "train": ("train", files["other"], "--epochs", str(given.epochs), "--passes", str(given.passes)),
            "infer": ("infer", model, files["exact"]),
            "infer_refine_5": ("infer", model, files["exact"], "--refine", "5"),
            "reconstruct_true_probe_20": ("reconstruct", files["exact"], *exact, "--epochs", "20"),
            "reconstruct_wrong_probe_30": ("reconstruct", files["wrong"], *exact, "--epochs", "30"),
            "reconstruct_no_probe_20": ("reconstruct", files["none"], *exact, "--epochs", "20"),
            "reconstruct_moved_30": ("reconstruct", files["moved"], *exact, "--epochs", "30", "--correct-positions"),
        }
        results = {name: figures(work / name, words, truth, scan) for name, words in runs.items()}
    show(
        {
            "scan": given.scan.name,
            "machine": machine(),
            "train_patterns": given.train_patterns,
            "epochs": given.epochs,
            "passes": given.passes,
            **results,
        }
    )


def written(scan: Scan, wrong: np.ndarray, work: Path, *, patterns: int) -> dict[str, str]:
    """The scan with its probe, a wrong one and none, with moved positions, and another object under its probe."""
    moved = scan.positions_px + np.random.default_rng(5).normal(0, np.sqrt(2), scan.positions_px.shape)
    bare = {"object_truth": None, "object_origin_yx_px": None}
    scans = {
        "exact": replace(scan, probe_kind="exact", **bare),
        "wrong": replace(scan, probe=wrong, **bare),
        "none": replace(scan, probe=None, **bare),
        "moved": replace(scan, positions_px=moved, **bare),
        "other": simulate(probe=scan.probe, N=scan.N, n_patterns=patterns, step_px=5, photons_per_pattern=1e5, seed=7),
    }
    for name, value in scans.items():
        write_scan(work / f"{name}.npz", value)
    return {name: str(work / f"{name}.npz") for name in scans}


def figures(out: Path, words: tuple[str, ...], truth: np.ndarray, scan: Scan) -> dict[str, Any]:
    """Run one command; its residual, CPU seconds and, of an image, the figures against truth."""
    line = [sys.executable, "-m", "ptycho_cli", *words, "--output-dir", str(out), "--quiet"]
    done = subprocess.run(line, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(line)} failed:\n{done.stderr}")
    summary = json.loads((out / "summary.json").read_text())
    result = {name: summary[name] for name in ("residual", "cpu_seconds", "patterns_per_cpu_second") if name in summary}
    if (out / "object.npz").exists():
        image = read_reconstruction(out / "object.npz")
        score = compare(image.object, truth, weight=image.weight, estimate_origin_yx_px=image.origin_yx_px)
        result |= {name: score.to_dict()[name] for name in FIGURES}
        error = image.positions_px - scan.positions_px
        result["position_error_rms_px"] = float(np.sqrt(((error - error.mean(0)) ** 2).sum(1).mean()))
    return result


if __name__ == "__main__":
    main()
