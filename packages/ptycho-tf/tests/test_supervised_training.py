"""TRN-14 to TRN-16 in TensorFlow: the object in the loss, and a training that is restarted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ptycho_contracts.config import ExecutionConfig, TrainingConfig
from ptycho_contracts.testing import reference
from ptycho_data.batches import GroupBatches, mean_counts
from ptycho_data.canvas.geometry import group_canvas_shape
from ptycho_data.grouping.groups import group
from ptycho_tf.framework import tf
from ptycho_tf.loader import signature_of
from ptycho_tf.losses import supervised_error
from ptycho_tf.model import PtychoModel
from ptycho_tf.physics import extract_patches, good_pixels
from ptycho_tf.recovery import PatchVariance
from ptycho_tf.training import TrainingOutcome, fit


def patches(rng: np.random.Generator, *shape: int) -> Any:
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


class TestSupervisedError:
    """PHY-33."""

    @pytest.mark.parametrize(("groups", "channels"), [(1, 1), (3, 4)])
    def test_against_the_reference(self, groups, channels):
        """Invariant 50: value and gradient, by finite differences of the NumPy reference."""
        rng = np.random.default_rng(groups)
        estimate, truth = (patches(rng, groups, channels, 5, 5) for _ in range(2))
        estimate, weight = estimate + truth, rng.uniform(size=(5, 5))
        given = tf.Variable(estimate)
        with tf.GradientTape() as tape:
            result = supervised_error(given, tf.constant(truth), tf.constant(weight))
        assert float(result) == pytest.approx(reference.supervised_error(estimate, truth, weight), abs=1e-6)
        step = 1e-5 * patches(rng, groups, channels, 5, 5)
        ends = [reference.supervised_error(estimate + sign * step, truth, weight) for sign in (1, -1)]
        slope = float(np.sum(np.conj(tape.gradient(result, given).numpy()) * step).real)
        assert slope == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-3)

    def test_finite_where_the_correlation_is_zero(self):
        """PHY-19, invariant 53: no estimate, no correlation, no truth: finite gradients."""
        one, none = np.ones((1, 1, 2, 2), np.complex64), np.zeros((1, 1, 2, 2), np.complex64)
        apart = np.array([[[[1, 1], [-1, -1]]]], np.complex64)
        for estimate, truth in ((none, one), (apart, one), (one, none), (none, none)):
            given = tf.Variable(estimate)
            with tf.GradientTape() as tape:
                loss = supervised_error(given, tf.constant(truth), tf.ones((2, 2)))
            assert np.isfinite(tape.gradient(loss, given).numpy()).all()
            assert np.isfinite(float(loss))

    def test_what_the_model_sums(self, scan, make_model):
        """TRN-15: last estimate plus 0.3 of every earlier one, weighted by the illumination, by the NumPy reference."""
        groups = group(scan.positions_px, gridsize=2, n_groups=5, seed=0)
        dataset = GroupBatches(scan, groups, mean_counts=mean_counts(scan), truth=True)
        batch = {name: tf.constant(array) for name, array in dataset.arrays(np.arange(5)).items()}
        canvas = group_canvas_shape(groups.coords_relative, scan.N, multiple=8)
        model = make_model(gridsize=2, iterations=3)
        for variable in model.weights.values():
            variable.assign_add(tf.fill(variable.shape, 0.02))
        result = model.loss(batch, canvas_shape=canvas, kind="amplitude")
        estimates, placement, _ = model(batch, canvas_shape=canvas)
        truth = reference.extract_patches(
            scan.object_truth, scan.positions_px[groups.nn_indices.ravel()], scan.N, scan.object_origin_yx_px
        ).reshape(batch["truth"].shape)
        weight = (np.abs(scan.probe) ** 2).sum(0)
        errors = [
            reference.supervised_error(
                extract_patches(each, placement).numpy().reshape(truth.shape), truth, weight / weight.max()
            )
            for each in estimates
        ]
        assert float(result.supervised_last) == pytest.approx(errors[-1], rel=1e-4)
        assert float(result.supervised) == pytest.approx(errors[-1] + 0.3 * sum(errors[:-1]), rel=1e-4)
        bare = GroupBatches(scan, groups, mean_counts=mean_counts(scan)).arrays(np.arange(5))
        assert "truth" not in bare
        assert model.loss(bare, canvas_shape=canvas, kind="amplitude").supervised is None


@pytest.mark.parametrize("kind", ["amplitude", "poisson"])
def test_uniform_loss_against_the_reference(kind, scan, make_model):
    """TRN-14: the loss of the best uniform object, by trying all amplitudes, with bad pixels left out."""
    groups = group(scan.positions_px, gridsize=2, n_groups=4, seed=0)
    batch = GroupBatches(scan, groups, mean_counts=mean_counts(scan)).arrays(np.arange(4))
    bad = np.zeros((16, 16), bool)
    bad[6:9, 7] = True
    batch["counts"][..., 6:9, 7] = 1e5  # would weigh more than all others
    probe = reference.normalised_probe(scan.probe, float(batch["mean_counts"][0]))
    empty = np.broadcast_to(reference.simulate_counts(np.ones((1, 16, 16)), probe), batch["counts"].shape)
    loss = {"amplitude": reference.amplitude_loss, "poisson": reference.poisson_loss}[kind]
    tried = [loss(a**2 * empty, batch["counts"], good=~bad) for a in np.linspace(0.2, 1.5, 1301)]
    assert make_model().uniform_loss(batch, kind=kind, mask=good_pixels(bad)) == pytest.approx(min(tried), rel=1e-3)


def test_patch_variance_against_numpy():
    """TRN-14: by NumPy's variance, in batches of any size, and again after a reset."""
    rng = np.random.default_rng(0)
    probe, seen = patches(rng, 2, 6, 6), patches(rng, 9, 6, 6) + 2
    probe /= np.linalg.norm(probe)
    expected = (np.var(seen, axis=0) * (np.abs(probe) ** 2).sum(0)).sum()
    variance = PatchVariance(tf.constant(probe, tf.complex64))
    assert float(variance.result()) == 0
    for _ in range(2):
        for part in (seen[:1], seen[1:5], seen[5:]):
            variance.update_state(tf.constant(part))
        assert float(variance.result()) == pytest.approx(expected, rel=1e-4)
        variance.reset_state()
    variance.update_state(tf.constant(np.repeat(seen[:1], 4, 0)))
    assert float(variance.result()) == pytest.approx(0, abs=1e-5)


@pytest.fixture
def run(make_task, datasets):
    """Train a small model; one batch an epoch."""

    def train(model: PtychoModel, *, execution: dict[str, Any], progress=None, truth=False, **options: Any) -> Any:
        parts = [GroupBatches(part.source, part.groups, mean_counts=part.mean_counts, truth=truth) for part in datasets]
        training = TrainingConfig(batch_size=32, seed=3, **options)
        config = ExecutionConfig(**{"logger_backend": "csv", **execution})
        outcome = fit(model, make_task(training, config, model=model, parts=parts), progress=progress)
        return outcome, {name: value.numpy() for name, value in model.weights.items()}

    return train


class TestRecovery:
    """Invariant 46, TRN-16."""

    @staticmethod
    def dead(make_model) -> PtychoModel:
        """Far from any object: the physics cannot correct it."""
        model = make_model()
        bias = model.weights["network.nets.0.out_conv.bias"]
        bias.assign(tf.fill(bias.shape, 30.0))
        return model

    def test_recovers_without_a_past(self, run, make_model, tmp_path):
        """To rounding the training that starts with these weights and a third of the rate; reported to all."""
        seen: list[tuple[str, int, int]] = []
        execution = {"scheduler": "exponential", "enable_checkpointing": False}
        outcome, weights = run(
            self.dead(make_model),
            epochs=4,
            execution={"learning_rate": 0.03, **execution},
            progress=lambda *report: seen.append(report),
        )
        assert (outcome.restarts, outcome.epochs, outcome.steps, outcome.collapsed) == (1, 4, 4, False)
        assert "after epoch 1 of 4 was not below 0.98" in outcome.restart_reason
        assert outcome.losses["val_loss"] < 0.5 * outcome.uniform_loss
        assert outcome.patch_variance > 0
        assert outcome.losses.keys() == {"train_loss", "val_loss"}
        assert seen == [("training", 1, 4), *(("training again", step, 3) for step in (1, 2, 3))]
        rows = np.genfromtxt(tmp_path / "logs" / "metrics.csv", delimiter=",", names=True)
        assert rows["epoch"].tolist() == [0, 1, 2, 3]
        assert rows["patch_variance"][-1] == pytest.approx(outcome.patch_variance, rel=1e-5)
        alone, others = run(make_model(seed=4), epochs=3, execution={"learning_rate": 0.01, **execution})
        assert (alone.restarts, alone.restart_reason) == (0, None)
        for name, value in others.items():
            np.testing.assert_allclose(weights[name], value, rtol=1e-3, atol=1e-5, err_msg=name)

    def test_the_best_checkpoint_is_of_the_second_attempt(self, run, make_model):
        """The figures are those of the weights that are kept."""
        outcome, weights = run(self.dead(make_model), epochs=2, execution={"learning_rate": 1e-3})
        assert outcome.restarts == 1
        assert not outcome.collapsed
        assert np.abs(weights["network.nets.0.out_conv.bias"]).max() < 1

    def test_stays_collapsed_and_says_so(self, run, make_model):
        """Early stopping counts from 0 again; the second attempt has a quarter of the budget at least."""
        execution = {"learning_rate": 1e-9, "early_stop_patience": 1, "scheduler": "constant"}
        outcome, _ = run(make_model(architecture="cnn"), epochs=40, execution=execution)
        assert (outcome.collapsed, outcome.restarts, outcome.stopped_by) == (True, 1, "early stopping")
        assert outcome.epochs == 4
        short, _ = run(make_model(architecture="cnn"), epochs=1, execution=execution)
        assert (short.collapsed, short.restarts, short.epochs) == (True, 1, 2)


class TestSupervised:
    """TRN-15."""

    @staticmethod
    def error(outcome: TrainingOutcome) -> float:
        return outcome.losses["supervised_error"]

    def test_lowers_the_error_of_the_object(self, run, make_model):
        """Lower than at the start, and than with next to no weight; val_loss stays the loss on the patterns."""
        start, _ = run(make_model(), truth=True, supervised_weight=1.0, execution={"learning_rate": 1e-9})
        plain, _ = run(make_model(), execution={"learning_rate": 1e-9})
        taught, weights = run(
            make_model(), truth=True, supervised_weight=1.0, epochs=60, execution={"learning_rate": 1e-2}
        )
        hardly, others = run(
            make_model(), truth=True, supervised_weight=1e-6, epochs=60, execution={"learning_rate": 1e-2}
        )
        assert self.error(taught) < 0.95 * self.error(start)
        assert self.error(taught) < self.error(hardly)
        assert start.losses["val_loss"] == pytest.approx(plain.losses["val_loss"], rel=1e-4)
        assert "supervised_error" not in plain.losses
        assert any(not np.array_equal(weights[name], others[name]) for name in weights)

    def test_in_double_precision(self, run, make_model):
        """As in single precision."""
        options: dict[str, Any] = {"truth": True, "supervised_weight": 1.0}
        errors = [
            self.error(run(make_model(), **options, execution={"precision": precision, "learning_rate": 1e-3})[0])
            for precision in ("32-true", "64-true")
        ]
        assert errors[0] == pytest.approx(errors[1], rel=1e-2)


def test_batches_hold_the_truth_if_requested(datasets, scan):
    """BATCH-3: in the dataset's signature, with the values of the store's own rule."""
    part = datasets[0]
    dataset = GroupBatches(replace(scan), part.groups, mean_counts=part.mean_counts, truth=True)
    assert signature_of(dataset)["truth"].dtype == tf.complex64
    expected = reference.extract_patches(
        scan.object_truth, scan.positions_px[part.groups.nn_indices[:3, 0]], scan.N, scan.object_origin_yx_px
    )
    np.testing.assert_allclose(dataset.arrays(np.arange(3))["truth"][:, 0], expected, atol=1e-5)
