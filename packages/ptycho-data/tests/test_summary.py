"""Summaries of runs: times, settings, results of a joint reconstruction."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np
import pytest
from ptycho_contracts.config import DataConfig, ExecutionConfig, InferenceConfig, ModelConfig, ReconstructionConfig
from ptycho_data.files import write_scan
from ptycho_data.fitting import FarFieldResidual, JointFit, TrainingOutcome
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
    for name in ("inference", "inference", "waiting"):
        with stages.measure(name):
            pass
    assert stages.seconds == {"inference": 5.0, "waiting": 1.0}
    assert stages.cpu_seconds == {"inference": 4.0, "waiting": 0.0}
    assert stages.rate(100, "inference") == 25.0
    assert stages.rate(100, "waiting") is None
    assert stages.rate(100, "never") is None


def test_common_summary():
    """Settings by section, versions of the packages that took part."""
    stages = Stages({"inference": 2.0}, {"inference": 1.0})
    reported = common_summary(
        "reconstruct",
        (DataConfig(N=16), ReconstructionConfig(epochs=7)),
        3,
        stages,
        "cpu",
        all_versions({"pytest": version("pytest")}),
    )
    assert list(reported["settings"]) == ["data", "reconstruction"]
    assert reported["settings"]["reconstruction"]["epochs"] == 7
    assert reported["settings"]["data"] == {"nphotons": 1e5, "measurement": "auto"}
    names = ["ptycho-contracts", "ptycho-data", "pytest", "numpy"]
    assert reported["versions"] == {name: version(name) for name in names}
    assert (reported["seed"], reported["device"], reported["seconds"]) == (3, "cpu", {"inference": 2.0})


def test_residuals_by_use():
    """Used and held-out patterns apart."""
    view = prepare_scan(SCAN, "0.25", 0)

    def residual(indices):
        return FarFieldResidual(
            float(indices.sum()), float(len(indices)), indices.astype(float), np.full(len(indices), 2.0)
        )

    reported = residuals(view, residual)
    assert reported == {
        "residual": {"used": float(view.used.sum()), "held_out": float(view.held_out.sum())},
        "poisson_floor": {"used": 15.0, "held_out": 5.0},
    }
    by_place = residuals(view, residual, by_place=True)["residual_map"]["residual"]
    assert by_place == [[pytest.approx(view.used.mean() / 2)]], "one cell for 15 patterns"


def outcome(history, shifts, background) -> JointFit:
    """Of a joint reconstruction."""
    nothing = np.zeros((1, 16, 16), np.complex64)
    return JointFit(nothing[0], nothing, history.losses, shifts, np.full((16, 16), background, np.float32), history)


def test_after_a_joint_reconstruction():
    """PHY-28: shifts are [y, x] and added to [x, y]; the background is reported in counts."""
    view = prepare_scan(SCAN, "0.25", 0, correct_positions=True)
    shifts = np.zeros((20, 2))
    shifts[view.used] = [3.0, 4.0]
    history = History((2.0, 1.0), "epochs")
    moved, result = after_joint_fit(view, outcome(history, shifts, 0.25), view.used)
    expected = SCAN.positions_px.copy()
    expected[view.used] += [4.0, 3.0]
    np.testing.assert_allclose(moved.positions_px, expected)
    np.testing.assert_array_equal(moved.geometry.origin_yx_px, view.geometry.origin_yx_px)
    assert result["losses"] == [2.0, 1.0]
    assert result["position_correction_rms_px"] == pytest.approx(5.0)
    assert result["background_counts_per_pattern"] == pytest.approx(64 * view.mean_counts)


def test_after_a_joint_reconstruction_that_kept_positions():
    """The very same view."""
    view = prepare_scan(SCAN, None, 0)
    kept, result = after_joint_fit(view, outcome(History((1.0,), "epochs"), np.zeros((20, 2)), 0.0), view.used)
    assert kept is view
    assert (result["position_correction_rms_px"], result["background_counts_per_pattern"]) == (0.0, 0.0)
    assert (result["stopped_by"], result["validation"], result["resumed_from_epoch"]) == ("epochs", None, 0)


def test_after_a_validated_joint_reconstruction():
    """Its patterns do not move, and are not counted in the correction; its history is reported."""
    view = prepare_scan(SCAN, "0.25", 0, correct_positions=True)
    fitted, shifts = view.used[3:], np.zeros((20, 2))
    shifts[fitted] = [0.0, 2.0]
    _, result = after_joint_fit(
        view, outcome(History((2.0,), "early stopping", (4.0, 5.0), 1, 6, 2), shifts, 0.0), fitted
    )
    assert result["position_correction_rms_px"] == pytest.approx(2.0)
    assert result["validation"] == {"patterns": 3, "losses": [4.0, 5.0], "best_epoch": 1}
    assert result["stopped_by"] == "early stopping"
    assert (result["resumed_from_epoch"], result["checkpoints_written"]) == (6, 2)


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
    reported = training_summary(
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
    assert set(reported) == COMMON | {"overrides_applied", "groups", "parameters", "training"}
    assert list(reported["settings"]) == ["data", "model", "training", "execution"]
    assert (reported["seed"], reported["device"]) == (5, "cpu")
    assert reported["overrides_applied"]["gridsize"] == {"value": 2, "source": "explicit"}
    assert reported["patterns"] == {"used": 18, "held_out": 2}
    assert reported["groups"] == {"training": 8, "validation": 1}
    assert reported["mean_counts"] == {"0": 1e4, "2": 2e4}
    assert reported["probe"] == {"calibrated": False}
    assert reported["parameters"] == 77
    assert reported["training"] == {
        "epochs": 3,
        "steps": 10,
        "stopped_by": "epochs",
        "uniform_loss": 0.5,
        "collapsed": False,
        "patch_variance": 0.1,
        "restarts": 1,
        "restart_reason": "uniform",
        "interrupted_by": None,
        "losses": {"val_loss": 0.25},
    }
    assert reported["patterns_per_cpu_second"] == 10 * 4 * 8 * 4 / 2
    json.dumps(reported, allow_nan=False)


@dataclass
class Opened:
    """A bundle."""

    mean_counts: float
    provenance: dict


@pytest.mark.parametrize("collapsed", [True, False])
def test_an_image_s_summary(tmp_path, collapsed):
    """CLI-22; the model's training is reported, and the results."""
    view = prepare_scan(SCAN, "0.25", 0)
    bundle = Opened(5e4, {"training": {"collapsed": collapsed}})
    config = InferenceConfig(probe_source="file", seed=4)
    payload = InferencePayload(
        bundle, SCAN, tmp_path, DataConfig(N=16), ModelConfig(data=DataConfig(N=16)), config, ExecutionConfig(), {}
    )
    reported = inference_summary(
        payload,
        view,
        SCAN.probe,
        Stages({}, {"inference": 0.5}),
        versions={},
        device="cpu",
        results={"assembly": "canvas"},
    )
    more = {"overrides_applied", "assembly", "mean_counts_of_training", "training_collapsed"}
    assert set(reported) == COMMON | {"object_pixel_size_m", "geometry", "fresnel_number"} | more
    assert list(reported["settings"]) == ["data", "model", "inference", "execution"]
    assert reported["seed"] == 4
    assert reported["patterns"] == {"used": 15, "held_out": 5}
    assert reported["mean_counts"] == view.mean_counts
    assert (reported["mean_counts_of_training"], reported["training_collapsed"]) == (5e4, collapsed)
    assert reported["probe"]["source"] == "file"
    assert reported["probe"]["mode_powers"] == pytest.approx([1])
    assert reported["probe"]["overlap_with_file"] == pytest.approx(1, abs=1e-5)
    assert reported["patterns_per_cpu_second"] == 30
    json.dumps(reported, allow_nan=False)


def test_summary_of_a_joint_reconstruction():
    """CLI-22. Its rate counts only the epochs that this run took: 8 of 12."""
    known = replace(SCAN, metadata={"geometry": {"object_pixel_size_m": 1.2e-8}})
    view, config = prepare_scan(known, "0.25", 0), ReconstructionConfig(epochs=12, seed=6)
    history = History((1.0,) * 12, "epochs", resumed_from_epoch=4)
    fit = JointFit(SCAN.probe[0], SCAN.probe, history.losses, np.zeros((20, 2)), np.zeros((16, 16)), history)
    reported = reconstruction_summary(
        known,
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
    assert set(reported) == COMMON | {"epochs", "object_pixel_size_m", "geometry", "fresnel_number", "stopped_by"}
    assert reported["object_pixel_size_m"] == 1.2e-8
    assert reported["geometry"] == {"object_pixel_size_m": 1.2e-8}
    assert list(reported["settings"]) == ["reconstruction", "execution"]
    assert (reported["seed"], reported["epochs"]) == (6, 12)
    assert reported["patterns_per_cpu_second"] == 12 * 8 / 2
    assert reported["probe"]["search"] is None
    assert reported["probe"]["overlap_with_file"] == pytest.approx(1, abs=1e-5)
    json.dumps(reported, allow_nan=False)


def test_options_of_a_joint_reconstruction():
    """PHY-28: positions and background move only if requested."""
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
