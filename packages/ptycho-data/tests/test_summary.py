"""What runs say of themselves: times, settings, what a descent found."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pytest
from ptycho_contracts.config import DataConfig, ExecutionConfig, InferenceConfig, ModelConfig, ReconstructionConfig
from ptycho_data.files import write_scan
from ptycho_data.fitting import JointFit, TrainingOutcome
from ptycho_data.fitting.loop import History
from ptycho_data.simulate import simulate
from ptycho_data.stages import Stages
from ptycho_data.workflows.options import grouping_options, joint_options
from ptycho_data.workflows.payloads import InferencePayload, training_payload
from ptycho_data.workflows.prepared_scan import prepare_scan
from ptycho_data.workflows.summary import (
    after_joint_fit,
    all_versions,
    common_summary,
    inference_summary,
    reconstruction_summary,
    residuals,
    training_summary,
)

SCAN = simulate(N=16, n_patterns=20, step_px=2.0, photons_per_pattern=1e4, seed=1)


def test_stages_add_up(monkeypatch):
    """Times of one name are summed; a stage without CPU time has no rate."""
    wall, cpu = iter([0.0, 2.0, 10.0, 13.0, 20.0, 21.0]), iter([0.0, 1.0, 1.0, 4.0, 4.0, 4.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(time, "process_time", lambda: next(cpu))
    stages = Stages()
    for name in ("imaging", "imaging", "waiting"):
        with stages.measure(name):
            pass
    assert stages.seconds == {"imaging": 5.0, "waiting": 1.0}
    assert stages.cpu_seconds == {"imaging": 4.0, "waiting": 0.0}
    assert stages.rate(100, "imaging") == 25.0
    assert stages.rate(100, "waiting") is None
    assert stages.rate(100, "never") is None


def test_common_summary():
    """Settings by section, versions of the packages that took part."""
    stages = Stages({"imaging": 2.0}, {"imaging": 1.0})
    told = common_summary(
        (DataConfig(N=16), ReconstructionConfig(epochs=7)),
        3,
        stages,
        "cpu",
        all_versions({"pytest": version("pytest")}),
    )
    assert list(told["settings"]) == ["data", "reconstruction"]
    assert told["settings"]["reconstruction"]["epochs"] == 7
    names = ["ptycho-contracts", "ptycho-data", "pytest", "numpy"]
    assert told["versions"] == {name: version(name) for name in names}
    assert (told["seed"], told["device"], told["seconds"]) == (3, "cpu", {"imaging": 2.0})


def test_residuals_by_use():
    """Used and held-out patterns apart."""
    view = prepare_scan(SCAN, "0.25", 0)
    told = residuals(view, lambda indices: (float(indices.sum()), float(len(indices))))
    assert told == {
        "residual": {"used": float(view.used.sum()), "held_out": float(view.held_out.sum())},
        "poisson_floor": {"used": 15.0, "held_out": 5.0},
    }


def outcome(course, shifts, background) -> JointFit:
    """Of a descent."""
    nothing = np.zeros((1, 16, 16), np.complex64)
    return JointFit(nothing[0], nothing, course.losses, shifts, np.full((16, 16), background, np.float32), course)


def test_after_a_descent():
    """PHY-28: shifts are [y, x] and added to [x, y]; the background is told in counts."""
    view = prepare_scan(SCAN, "0.25", 0, correct_positions=True)
    shifts = np.zeros((20, 2))
    shifts[view.used] = [3.0, 4.0]
    course = History((2.0, 1.0), "epochs")
    moved, found = after_joint_fit(view, outcome(course, shifts, 0.25), view.used)
    expected = SCAN.positions_px.copy()
    expected[view.used] += [4.0, 3.0]
    np.testing.assert_allclose(moved.positions_px, expected)
    np.testing.assert_array_equal(moved.geometry.origin_yx_px, view.geometry.origin_yx_px)
    assert found["losses"] == [2.0, 1.0]
    assert found["position_correction_rms_px"] == pytest.approx(5.0)
    assert found["background_counts_per_pattern"] == pytest.approx(64 * view.mean_counts)


def test_after_a_descent_that_kept_positions():
    """The very same view."""
    view = prepare_scan(SCAN, None, 0)
    kept, found = after_joint_fit(view, outcome(History((1.0,), "epochs"), np.zeros((20, 2)), 0.0), view.used)
    assert kept is view
    assert (found["position_correction_rms_px"], found["background_counts_per_pattern"]) == (0.0, 0.0)
    assert (found["stopped_by"], found["validation"], found["resumed_from_epoch"]) == ("epochs", None, 0)


def test_after_a_validated_descent():
    """Its patterns do not move, and are not counted in the correction; its course is told."""
    view = prepare_scan(SCAN, "0.25", 0, correct_positions=True)
    fitted, shifts = view.used[3:], np.zeros((20, 2))
    shifts[fitted] = [0.0, 2.0]
    _, found = after_joint_fit(
        view, outcome(History((2.0,), "early stopping", (4.0, 5.0), 1, 6, 2), shifts, 0.0), fitted
    )
    assert found["position_correction_rms_px"] == pytest.approx(2.0)
    assert found["validation"] == {"patterns": 3, "losses": [4.0, 5.0], "best_epoch": 1}
    assert found["stopped_by"] == "early stopping"
    assert (found["resumed_from_epoch"], found["checkpoints_written"]) == (6, 2)


COMMON = {
    "settings",
    "versions",
    "seed",
    "device",
    "seconds",
    "cpu_seconds",
    "patterns",
    "mean_counts",
    "measurement",
    "probe",
    "patterns_per_cpu_second",
}


OUTCOME = TrainingOutcome(
    epochs=3,
    steps=10,
    losses={"val_loss": 0.25},
    device="cpu",
    stopped_by="epochs",
    uniform_loss=0.5,
    collapsed=False,
    patch_variance=0.1,
    restarts=1,
    restart_reason="uniform",
)


def test_a_training_s_summary(tmp_path):
    """CLI-22. Its rate counts the patterns of all steps: 10 of 4 batches of 8 groups of 4, in 2 CPU seconds."""
    write_scan(tmp_path / "scan.npz", SCAN)
    given = {"n_groups": 9, "gridsize": 2, "batch_size": 8, "accum_steps": 4, "seed": 5}
    payload = training_payload(tmp_path / "scan.npz", tmp_path, given)
    told = training_summary(
        payload,
        OUTCOME,
        Stages({"training": 3.0}, {"training": 2.0}),
        versions={"pytest": version("pytest")},
        used=18,
        held_out=2,
        groups=(8, 1),
        mean_counts={0: 1e4, 2: 2e4},
        probe={"calibrated": False},
        parameters=77,
    )
    assert set(told) == COMMON | {"overrides_applied", "groups", "parameters", "training"}
    assert list(told["settings"]) == ["data", "model", "training", "execution"]
    assert (told["seed"], told["device"]) == (5, "cpu")
    assert told["overrides_applied"]["gridsize"] == {"value": 2, "source": "explicit"}
    assert told["patterns"] == {"used": 18, "held_out": 2}
    assert told["groups"] == {"training": 8, "validation": 1}
    assert told["mean_counts"] == {"0": 1e4, "2": 2e4}
    assert told["probe"] == {"calibrated": False}
    assert told["parameters"] == 77
    assert told["training"] == {
        "epochs": 3,
        "steps": 10,
        "stopped_by": "epochs",
        "uniform_loss": 0.5,
        "collapsed": False,
        "patch_variance": 0.1,
        "restarts": 1,
        "restart_reason": "uniform",
        "losses": {"val_loss": 0.25},
    }
    assert told["patterns_per_cpu_second"] == 10 * 4 * 8 * 4 / 2
    json.dumps(told, allow_nan=False)


@dataclass
class Opened:
    """A bundle."""

    mean_counts: float
    provenance: dict


@pytest.mark.parametrize("collapsed", [True, False])
def test_an_image_s_summary(tmp_path, collapsed):
    """CLI-22; the model's training is told, and what was found."""
    view = prepare_scan(SCAN, "0.25", 0)
    bundle = Opened(5e4, {"training": {"collapsed": collapsed}})
    config = InferenceConfig(probe_source="file", seed=4)
    payload = InferencePayload(
        bundle, SCAN, tmp_path, DataConfig(N=16), ModelConfig(data=DataConfig(N=16)), config, ExecutionConfig(), {}
    )
    told = inference_summary(
        payload,
        view,
        SCAN.probe,
        Stages({}, {"inference": 0.5}),
        versions={},
        device="cpu",
        results={"assembly": "canvas"},
    )
    more = {"overrides_applied", "assembly", "mean_counts_of_training", "training_collapsed"}
    assert set(told) == COMMON | more
    assert list(told["settings"]) == ["data", "model", "inference", "execution"]
    assert told["seed"] == 4
    assert told["patterns"] == {"used": 15, "held_out": 5}
    assert told["mean_counts"] == view.mean_counts
    assert (told["mean_counts_of_training"], told["training_collapsed"]) == (5e4, collapsed)
    assert told["probe"]["source"] == "file"
    assert told["probe"]["mode_powers"] == pytest.approx([1])
    assert told["probe"]["overlap_with_file"] == pytest.approx(1, abs=1e-5)
    assert told["patterns_per_cpu_second"] == 30
    json.dumps(told, allow_nan=False)


def test_a_descent_s_summary():
    """CLI-22. Its rate counts only the epochs that this run took: 8 of 12."""
    view, config = prepare_scan(SCAN, "0.25", 0), ReconstructionConfig(epochs=12, seed=6)
    course = History((1.0,) * 12, "epochs", resumed_from_epoch=4)
    fit = JointFit(SCAN.probe[0], SCAN.probe, course.losses, np.zeros((20, 2)), np.zeros((16, 16)), course)
    told = reconstruction_summary(
        SCAN,
        view,
        fit,
        Stages({}, {"reconstruction": 2.0}),
        config=config,
        execution=ExecutionConfig(),
        versions={},
        device="cpu",
        fitted=12,
        search=None,
        results={"stopped_by": "epochs"},
    )
    assert set(told) == COMMON | {"epochs", "stopped_by"}
    assert list(told["settings"]) == ["reconstruction", "execution"]
    assert (told["seed"], told["epochs"]) == (6, 12)
    assert told["patterns_per_cpu_second"] == 12 * 8 / 2
    assert told["probe"]["search"] is None
    assert told["probe"]["overlap_with_file"] == pytest.approx(1, abs=1e-5)
    json.dumps(told, allow_nan=False)


def test_options_of_a_descent():
    """PHY-28: positions and background move only where asked."""
    asked = joint_options(ReconstructionConfig(correct_positions=True, fit_background=True, batch_size=3))
    plain = joint_options(ReconstructionConfig())
    assert asked["position_learning_rate"] == 0.1
    assert asked["background_learning_rate"] == 0.02
    assert asked["batch_size"] == 3
    assert plain["position_learning_rate"] == plain["background_learning_rate"] == 0
    assert plain["loss"] == ReconstructionConfig().loss


def test_options_of_grouping():
    """By the names of grouping's parameters."""
    config = DataConfig(N=16, gridsize=2, neighbor_count=7, min_distance_px=1.0, max_distance_px=9.0, sequential=True)
    assert grouping_options(config) == {
        "gridsize": 2,
        "neighbor_count": 7,
        "min_distance_px": 1.0,
        "max_distance_px": 9.0,
        "sequential": True,
    }
