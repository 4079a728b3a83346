"""A model trained in one backend opens in the other and predicts the same (specs/bundle.md, BUN-1)."""

from __future__ import annotations

import json

import numpy as np
import pytest

SMALL = ("--epochs", "3", "--n-groups", "40", "--width", "4", "--learning-rate", "0.01")
PREDICTION = 1e-5


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "assembly"), [("unrolled", "canvas"), ("unrolled", "groups"), ("cnn", "groups")]
)
@pytest.mark.parametrize("trained_by", ["torch", "tf"])
def test_both_predict_the_same(cli, scan_file, tmp_path_factory, trained_by, architecture, assembly):
    """Weights, probe and gauge mean the same in both; a trained net, whose last layer is no longer zero."""
    folder = tmp_path_factory.mktemp("exchange")
    cli[trained_by]("train", scan_file, "--output-dir", folder / "model", "--architecture", architecture, *SMALL)
    objects = {}
    for name in ("torch", "tf"):
        words = ("--output-dir", folder / name, "--assembly", assembly)
        cli[name]("infer", folder / "model" / "model.safetensors", scan_file, *words)
        with np.load(folder / name / "object.npz") as file:
            objects[name] = {key: file[key] for key in file.files}
        summary = json.loads((folder / name / "summary.json").read_text())
        assert f"ptycho-{name}" in summary["versions"]
    for key in objects["torch"]:
        assert relative(objects["tf"][key], objects["torch"][key]) <= PREDICTION, key
    assert np.std(np.abs(objects["tf"]["object"])) > 0.002, "a flat image would agree as well"


@pytest.mark.slow
def test_both_descend_the_same(cli, scan_file, tmp_path):
    """PHY-27: the same order, the same steps; rounding grows with the steps."""
    objects = {}
    for name in ("torch", "tf"):
        cli[name]("reconstruct", scan_file, "--output-dir", tmp_path / name, "--epochs", "5", "--modes", "2")
        with np.load(tmp_path / name / "object.npz") as file:
            objects[name] = file["object"]
    assert relative(objects["tf"], objects["torch"]) <= 1e-3
