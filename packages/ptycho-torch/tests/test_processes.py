"""Two processes train as one (specs/training.md TRN-10)."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from ptycho_data.files import write_scan
from safetensors import safe_open
from safetensors.numpy import load_file

SCRIPT = """
import json, sys
import torch
torch.set_num_threads(1)
from ptycho_contracts.config import ExecutionConfig
from ptycho_torch.backend import create_training_payload, train
data, out, devices, options = sys.argv[1:5]
execution = ExecutionConfig(accelerator="cpu", devices=int(devices), logger_backend="none", enable_checkpointing=False)
payload = create_training_payload(data, out, json.loads(options), execution)
train(payload)
"""

OPTIONS = {
    "width": 2,
    "iterations": 1,
    "gridsize": 2,
    "n_groups": 40,
    "val_fraction": 0.1,
    "epochs": 3,
    "calibrate_probe": False,
}


@pytest.fixture
def trained(tmp_path, scan):
    """Train in so many processes, with a time-out: a rank that waits for another one fails here."""
    write_scan(tmp_path / "scan.npz", scan)
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(processes: int, **options) -> tuple[dict, dict[str, np.ndarray]]:
        out = tmp_path / f"out{processes}-{len(list(tmp_path.iterdir()))}"
        fixed = {
            name: value for name, value in OPTIONS.items() if name != "iterations" or "architecture" not in options
        }
        words = [tmp_path / "script.py", tmp_path / "scan.npz", out, processes, json.dumps({**fixed, **options})]
        done = subprocess.run(
            [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        with safe_open(out / "model.safetensors", framework="np") as file:
            provenance = json.loads(file.metadata()["provenance"])
        return provenance["training"], load_file(out / "model.safetensors")

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"architecture": "cnn"}, {"architecture": "cnn", "learning_rate": 1e-9}, {"supervised_weight": 5.0}],
    ids=["unrolled", "cnn", "restarted", "supervised"],
)
def test_two_processes_equal_one(trained, options):
    """Invariant 41: 2 x 6 groups per step and 1 x 12 give the same weights to rounding, and the same losses.

    A training that collapses is restarted in all processes at once (TRN-16).
    """
    one, weights = trained(1, batch_size=12, **options)
    two, others = trained(2, batch_size=6, **options)
    assert two["steps"] == one["steps"] == 9
    assert two["restarts"] == one["restarts"] == int("learning_rate" in options)
    if "supervised_weight" in options:
        error = one["losses"]["supervised_error"]
        assert two["losses"]["supervised_error"] == pytest.approx(error, rel=1e-3)
    assert two["losses"]["val_loss"] == pytest.approx(one["losses"]["val_loss"], rel=1e-3)
    assert two["losses"]["train_loss"] == pytest.approx(one["losses"]["train_loss"], rel=0.05)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        # Adam's step is the learning rate wherever the gradient is not 0: 9 steps of 1e-3 move a weight by 9e-3.
        np.testing.assert_allclose(others[name], value, atol=3e-4, err_msg=name)


@pytest.mark.slow
def test_time_is_over_in_all_processes_at_once(trained):
    """Invariant 41: no rank waits for a step that another one does not take; an odd rest of groups is no trap."""
    summary, _ = trained(2, batch_size=5, epochs=100_000, max_seconds=2, n_groups=39)
    assert summary["stopped_by"] == "max_seconds"
    assert summary["steps"] > 0
