"""A model trained in one backend opens in the other, predicts the same and continues training there (BUN-1, TRN-12)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

SMALL = ("--n-groups", "64", "--width", "4")
PREDICTION, STEPS = 1e-5, 1e-3
BACKENDS = ("torch", "tf")
MODELS = {
    "one mode": ("--passes", "2", "--iterations", "2"),
    "two modes": ("--passes", "2", "--iterations", "2", "--modes", "2", "--calibrate-probe"),
    "cnn": ("--architecture", "cnn"),
}

pytestmark = pytest.mark.slow


def relative(result: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="session")
def trained(cli, scan_file, tmp_path_factory):
    """Bundle of a kind of model, trained once by each requested backend."""
    made: dict[tuple[str, str], Path] = {}

    def bundle(backend: str, kind: str) -> Path:
        if (backend, kind) not in made:
            folder = tmp_path_factory.mktemp("model")
            words = ("--output-dir", folder, "--validation", scan_file, *SMALL, *MODELS[kind])
            pace = ("--epochs", "8", "--batch-size", "8", "--learning-rate", "0.003")
            cli[backend]("train", scan_file, *words, *pace)
            made[backend, kind] = folder / "model.safetensors"
        return made[backend, kind]

    return bundle


@pytest.mark.parametrize(
    ("kind", "assembly"), [("one mode", "groups"), ("two modes", "canvas"), ("cnn", "groups")], ids=str
)
@pytest.mark.parametrize("trained_by", BACKENDS)
def test_both_predict_the_same(cli, scan_file, trained, tmp_path, trained_by, kind, assembly):
    """Weights, probe and mean counts mean the same in both; a trained net, whose last layer is no longer zero."""
    objects = {}
    for name in BACKENDS:
        words = ("--output-dir", tmp_path / name, "--assembly", assembly)
        cli[name]("infer", trained(trained_by, kind), scan_file, *words)
        with np.load(tmp_path / name / "object.npz") as file:
            objects[name] = {key: file[key] for key in file.files}
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert f"ptycho-{name}" in summary["versions"]
    for key in objects["torch"]:
        assert relative(objects["tf"][key], objects["torch"][key]) <= PREDICTION, key
    assert len(objects["tf"]["probe"]) == (2 if kind == "two modes" else 1)
    assert np.std(np.abs(objects["tf"]["object"])) > 0.002, "a uniform image would agree as well"


@pytest.mark.parametrize("kind", ["one mode", "cnn"])
@pytest.mark.parametrize("trained_by", BACKENDS)
def test_training_continues_from_the_other_s_bundle(cli, scan_file, trained, tmp_path, trained_by, kind):
    """TRN-12, TRN-6: from the same weights both backends take the same two steps."""
    start = load_file(trained(trained_by, kind))
    after = {}
    for name in BACKENDS:
        words = ("--output-dir", tmp_path / name, "--validation", scan_file, *SMALL, *MODELS[kind])
        pace = ("--start-from", trained(trained_by, kind), "--epochs", "1", "--batch-size", "32")
        cli[name]("train", scan_file, *words, *pace)
        after[name] = load_file(tmp_path / name / "model.safetensors")
    names = [name for name in start if name.startswith("network.")]
    assert names
    steps = {
        backend: np.concatenate([(after[backend][name] - start[name]).ravel() for name in names])
        for backend in BACKENDS
    }
    assert np.abs(steps["torch"]).max() > 0.001, "the learning rate"
    assert relative(steps["tf"], steps["torch"]) <= STEPS


@pytest.mark.parametrize(
    ("words", "most"), [(("--levels", "1"), 1e-3), ((), 1e-2)], ids=["full level", "coarse levels"]
)
def test_both_reconstruct_the_same(cli, scan_file, tmp_path, words, most):
    """PHY-27, PHY-36: the same order, the same steps. Rounding grows: in 32 passes with the prior at the coarse level,
    a probe changed by 1e-7 changes this object by 5e-4 within one backend.
    """
    objects = {}
    for name in BACKENDS:
        options = ("--output-dir", tmp_path / name, "--epochs", "5", "--modes", "2", *words)
        cli[name]("reconstruct", scan_file, *options)
        with np.load(tmp_path / name / "object.npz") as file:
            objects[name] = file["object"]
    assert relative(objects["tf"], objects["torch"]) <= most
