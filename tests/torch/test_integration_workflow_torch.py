"""The whole way through the commands, each in its own process, and the result must be right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ptycho_data.files import read_reconstruction, read_scan
from ptycho_data.metrics import compare

SCAN = ("--N", "64", "--patterns", "625", "--step-px", "5", "--photons", "1e5", "--quiet")


def run(*words: str | Path) -> str:
    """One command in a new process; returns its stdout."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ptycho_cli", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_run_pytorch_train_save_load_infer(tmp_path):
    """Invariants 38 and 43: train on one object, infer another in a new process, compared with its truth.

    A blank image has no correlation at all (it is undefined) and a held-out residual above .03 here.
    """
    run("simulate", tmp_path / "train.npz", "--seed", "1", *SCAN)
    run("simulate", tmp_path / "test.npz", "--seed", "2", *SCAN)
    run(
        "train",
        tmp_path / "train.npz",
        "--output-dir",
        tmp_path / "model",
        "--gridsize",
        "2",
        "--epochs",
        "2",
        "--seed",
        "0",
        "--accelerator",
        "cpu",
        "--quiet",
    )
    (tmp_path / "train.npz").unlink()
    model = tmp_path / "moved.safetensors"
    (tmp_path / "model" / "model.safetensors").rename(model)
    for name in ("image", "again"):
        words = ("--accelerator", "cpu", "--hold-out", "0.1", "--quiet")
        run("infer", model, tmp_path / "test.npz", "--output-dir", tmp_path / name, *words)

    image, again = (read_reconstruction(tmp_path / name / "object.npz") for name in ("image", "again"))
    np.testing.assert_array_equal(image.object, again.object)
    summary = json.loads((tmp_path / "image" / "summary.json").read_text())
    assert summary["device"] == "cpu"
    assert summary["patterns"] == {"used": 563, "held_out": 62}
    assert summary["residual"]["held_out"] < 0.01

    scan = read_scan(tmp_path / "test.npz")
    figures = compare(
        image.object,
        scan.object_truth,
        weight=image.weight,
        estimate_origin_yx_px=image.origin_yx_px,
        truth_origin_yx_px=scan.object_origin_yx_px,
        remove_shift=False,
    )
    assert figures.complex_correlation > 0.95
    assert figures.amplitude_ssim > 0.8
    assert figures.phase_ssim > 0.7
