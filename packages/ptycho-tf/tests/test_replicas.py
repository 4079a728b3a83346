"""Several devices train as one (specs/training.md TRN-10), on virtual devices of a CPU."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.config import ExecutionConfig
from ptycho_contracts.problems import ContractError
from ptycho_data.files import write_scan
from ptycho_tf.replicas import deal, prepare_devices, require_possible
from safetensors import safe_open
from safetensors.numpy import load_file

SCRIPT = """
import json, sys
from ptycho_contracts.config import ExecutionConfig
from ptycho_tf.backend import create_training_payload, train
data, out, devices, options, execution = sys.argv[1:6]
execution = ExecutionConfig(accelerator="cpu", devices=int(devices), logger_backend="none", **json.loads(execution))
train(create_training_payload(data, out, json.loads(options), execution))
"""

OPTIONS = {
    "width": 2,
    "iterations": 1,
    "passes": 2,
    "gridsize": 2,
    "n_groups": 40,
    "val_fraction": 0.1,
    "epochs": 3,
    "calibrate_probe": False,
}


@pytest.fixture
def trained(tmp_path, scan):
    """Train on so many devices in its own process, whose devices TensorFlow has not counted yet."""
    write_scan(tmp_path / "scan.npz", scan)
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(devices: int, execution: dict | None = None, **options) -> tuple[dict, dict[str, np.ndarray]]:
        out = tmp_path / f"out{devices}-{len(list(tmp_path.iterdir()))}"
        rounds = ("iterations", "passes") if options.get("architecture") == "cnn" else ()
        fixed = {name: value for name, value in OPTIONS.items() if name not in rounds}
        words = [
            tmp_path / "script.py",
            tmp_path / "scan.npz",
            out,
            devices,
            json.dumps({**fixed, **options}),
            json.dumps(execution or {}),
        ]
        done = subprocess.run(
            [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        with safe_open(out / "model.safetensors", framework="np") as file:
            provenance = json.loads(file.metadata()["provenance"])
        return provenance["training"], load_file(out / "model.safetensors")

    return run


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["unrolled", "cnn"])
def test_two_devices_equal_one(trained, architecture):
    """Invariant 41: 2 x 6 groups per step and 1 x 12 give the same weights to rounding, and the same losses."""
    clipped = {"gradient_clip_val": 0.01}
    one, weights = trained(1, clipped, batch_size=12, architecture=architecture)
    two, others = trained(2, clipped, batch_size=6, architecture=architecture)
    assert two["steps"] == one["steps"] == 9
    for name in ("val_loss", "train_loss"):
        assert two["losses"][name] == pytest.approx(one["losses"][name], rel=1e-3)
    assert two["patch_variance"] == pytest.approx(one["patch_variance"], rel=1e-3)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        # Adam's step is the learning rate wherever the gradient is not 0: 9 steps of 1e-3 move a weight by 9e-3.
        np.testing.assert_allclose(others[name], value, atol=3e-4, err_msg=name)


@given(st.integers(1, 60), st.integers(1, 9))
def test_deal(rows, count):
    """Every row is dealt once, in parts of nearly one size, and no device is without one."""
    parts = deal(np.arange(rows), count)
    assert len(parts) == count
    assert all(len(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert sorted(np.unique(np.concatenate(parts))) == list(range(rows))
    if rows >= count:
        assert sum(map(len, parts)) == rows


def test_what_tensorflow_cannot_follow_is_refused():
    """All at once, each with its reason."""
    requested = ExecutionConfig(devices=2, num_nodes=3, strategy="ddp", accum_steps=2)
    with pytest.raises(ContractError) as caught:
        require_possible(requested)
    assert caught.value.codes == ("execution.impossible",) * 3
    assert "mirrors the model on its devices" in str(caught.value)


def test_more_devices_than_there_are():
    """A CPU cannot be divided once TensorFlow is at work: what there is, is named."""
    from ptycho_tf.framework import tf

    assert len(tf.config.list_logical_devices("CPU")) == 1
    with pytest.raises(ContractError) as caught:
        prepare_devices(ExecutionConfig(accelerator="cpu", devices=3))
    assert caught.value.codes == ("device.absent",)
    assert "at most 1" in str(caught.value)
