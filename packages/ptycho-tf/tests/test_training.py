"""Every option of the execution section at its consumer: Keras' optimiser, callbacks, fit (specs/training.md)."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from ptycho_contracts.config import ExecutionConfig, TrainingConfig
from ptycho_contracts.problems import WorkFailedError
from ptycho_data.deadline import Deadline
from ptycho_data.fitting import Attempts
from ptycho_data.stages import Watcher
from ptycho_tf import training as training_module
from ptycho_tf.framework import keras, tf
from ptycho_tf.training import TrainingOutcome, fit
from safetensors.numpy import load_file

BATCH = 4
STEPS = 6  # an epoch of 22 groups


@dataclass
class Done:
    """A training that was run, and what its Keras model looked like."""

    outcome: TrainingOutcome
    weights: dict[str, np.ndarray]
    optimiser: Any
    rates: list[float] = field(default_factory=list)
    dtypes: set[str] = field(default_factory=set)
    kernels: set[str] = field(default_factory=set)


@pytest.fixture
def run(make_model, make_task, monkeypatch):
    """Train the small model for real, and look at Keras while it works."""

    def train(*, execution: dict | None = None, max_seconds=None, epochs=1, seed=0, model=None, progress=None) -> Done:
        seen: dict[str, Any] = {"rates": [], "kernels": set()}

        class Watched(training_module._Trainee):
            def fit(self, *args: Any, callbacks: list[Any], **options: Any) -> Any:
                seen["trainee"] = self

                def note(batch: int, logs: Any) -> None:
                    seen["rates"].append(float(self.optimizer.learning_rate))

                watcher = keras.callbacks.LambdaCallback(on_train_batch_end=note)
                return super().fit(*args, callbacks=[*callbacks, watcher], **options)

        from ptycho_tf.layers import Conv

        convolve = Conv.with_kernel

        def noted(image: Any, *args: Any, **options: Any) -> Any:
            seen["kernels"].add(image.dtype.name)
            return convolve(image, *args, **options)

        monkeypatch.setattr(Conv, "with_kernel", staticmethod(noted))
        monkeypatch.setattr(training_module, "_Trainee", Watched)
        model = model or make_model(seed=seed)
        training = TrainingConfig(batch_size=BATCH, epochs=epochs, seed=seed, max_seconds=max_seconds)
        task = make_task(training, ExecutionConfig(**(execution or {})), model=model)
        task = replace(task, deadline=Deadline(max_seconds, clock=lambda: 0.0))
        outcome = fit(model, task, progress=progress)
        return Done(
            outcome,
            {name: value.numpy() for name, value in model.weights.items()},
            seen["trainee"].optimizer,
            seen["rates"],
            {tf.as_dtype(value.dtype).name for value in seen["trainee"].trainable_variables},
            seen["kernels"],
        )

    return train


def test_trains_every_weight(run, make_model):
    """Invariant 36 and NET-11: after two epochs no weight is what it was; the loss went down."""
    before = {name: value.numpy() for name, value in make_model().weights.items()}
    done = run(epochs=3, execution={"learning_rate": 0.01, "scheduler": "constant", "enable_checkpointing": False})
    assert done.outcome.steps == 3 * STEPS
    assert done.outcome.epochs == 3
    assert done.outcome.stopped_by == "epochs"
    assert done.outcome.losses.keys() == {"train_loss", "val_loss"}
    for name, value in before.items():
        assert not np.array_equal(done.weights[name], value), name


def test_same_seed_same_bits(run):
    """Invariant 42, TRN-9: for any number of readers, and the caller's generators stay as they are."""
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    state = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first = run(epochs=2).weights
    again = run(epochs=2, execution={"num_workers": 2, "prefetch_factor": 1}).weights
    other = run(epochs=2, seed=1).weights
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)
    assert any(not np.array_equal(other[name], value) for name, value in first.items())
    np.testing.assert_array_equal(np.random.get_state()[1], state[0])  # noqa: NPY002
    assert random.getstate() == state[1]


class TestExecution:
    """Options at their consumer; the others by their flags, in tests/tf."""

    @pytest.mark.parametrize(
        ("precision", "weights", "kernels"),
        [
            ("32-true", "float32", "float32"),
            ("64-true", "float64", "float64"),
            ("bf16-mixed", "float32", "bfloat16"),
            ("16-mixed", "float32", "float16"),
        ],
    )
    def test_precision(self, run, precision, weights, kernels):
        """Dtype of the variables and of the convolutions; the model comes back in float32."""
        done = run(execution={"precision": precision})
        assert done.dtypes == {weights}
        assert done.kernels == {kernels}
        assert {value.dtype.name for value in done.weights.values()} == {"float32"}
        assert isinstance(done.optimiser, keras.mixed_precision.LossScaleOptimizer) == (precision == "16-mixed")

    def test_learning_rate_and_weight_decay(self, run):
        """TRN-6."""
        done = run(execution={"learning_rate": 0.005, "scheduler": "constant"})
        assert done.rates == pytest.approx([0.005] * STEPS)
        assert done.optimiser.weight_decay == 1e-3

    def test_schedules(self, run):
        """TRN-6: over the fraction of the steps that are done."""
        fractions = np.arange(STEPS) / STEPS
        cosine = run(execution={"scheduler": "cosine"}).rates
        assert cosine == pytest.approx(list(1e-3 * (0.02 + 0.98 * (1 + np.cos(np.pi * fractions)) / 2)), rel=1e-4)
        exponential = run(execution={"scheduler": "exponential"}).rates
        assert exponential == pytest.approx(list(1e-3 * 10 ** (-1.7 * fractions)), rel=1e-4)

    def test_early_stopping(self, run):
        """TRN-7: epochs without a better metric."""
        done = run(execution={"early_stop_patience": 2, "learning_rate": 1e-12, "checkpoint_mode": "min"}, epochs=50)
        assert done.outcome.stopped_by == "early stopping"
        assert done.outcome.epochs < 50

    @pytest.mark.parametrize(("kept", "files"), [(1, 1), (2, 2), (-1, 3), (0, 0)])
    def test_checkpoints_kept(self, run, tmp_path, kept, files):
        """The best ones stay; the model has the weights of the very best."""
        done = run(execution={"checkpoint_save_top_k": kept, "learning_rate": 0.02, "scheduler": "constant"}, epochs=3)
        result = sorted(
            (tmp_path / "checkpoints").glob("*.safetensors"), key=lambda path: float(path.stem.split("=")[-1])
        )
        assert len(result) == files
        if result:
            best = load_file(result[0])
            for name, value in done.weights.items():
                np.testing.assert_array_equal(best[name], value)


def test_time_limit(run, monkeypatch):
    """TRN-7: training ends after the step in which the time is over, by a clock that is a second later at each look."""
    monkeypatch.setitem(Attempts.__init__.__kwdefaults__, "clock", partial(next, itertools.count()))
    seen: list[tuple[str, int, int]] = []
    done = run(max_seconds=16, epochs=1000, progress=lambda *report: seen.append(report))
    assert done.outcome.stopped_by == "max_seconds"
    assert done.outcome.steps == 8
    assert seen == [("training", step, 1000 * STEPS) for step in range(1, 9)]  # what was done, not filled up to all


def test_progress(run):
    """Steps done of steps in all, up to the end."""
    calls = []
    run(epochs=2, progress=lambda *call: calls.append(call))
    assert calls == [("training", step + 1, 2 * STEPS) for step in range(2 * STEPS)]


def test_who_watches_hears_the_loss(run):
    losses = []

    class Watch(Watcher):
        def __call__(self, stage, done, total, *, loss=None, picture=None):
            losses.append(float(loss))

    outcome = run(epochs=1, progress=Watch()).outcome
    assert len(losses) == STEPS
    assert losses[-1] == pytest.approx(outcome.losses["train_loss"], rel=1e-6)


def test_divergence(run, make_model):
    """TRN-11: a loss that is not finite."""
    model = make_model()
    model.weights["network.nets.0.out_conv.weight"].assign_add(tf.fill((8, 4, 3, 3), math.inf))
    with pytest.raises(WorkFailedError) as caught:
        run(model=model)
    assert caught.value.codes == ("training.diverged",)
