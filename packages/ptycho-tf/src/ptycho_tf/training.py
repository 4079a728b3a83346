"""Training of a model on groups, by Keras' fit and callbacks (specs/training.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ptycho_contracts.config import ExecutionConfig, TrainingConfig
from ptycho_data.batches import common_canvas_shape
from ptycho_data.bundle_file import NETWORK
from ptycho_data.fitting import (
    PATCH_VARIANCE,
    WEIGHT_DECAY,
    Attempts,
    TrainingOutcome,
    training_diverged,
    training_outcome,
)
from ptycho_data.stages import Progress
from ptycho_data.workflows import TrainingTask

from ptycho_tf.checkpoints import Checkpoints
from ptycho_tf.clock import Clock, plateau, steps_done
from ptycho_tf.devices import on_device
from ptycho_tf.framework import keras, tf
from ptycho_tf.layers import fresh, put_weights
from ptycho_tf.loader import make_loader
from ptycho_tf.loggers import loggers
from ptycho_tf.model import PtychoModel, light_on
from ptycho_tf.optimiser import AdamW
from ptycho_tf.physics import Tensor, good_pixels
from ptycho_tf.recovery import PatchVariance, Recovery, Renamed
from ptycho_tf.replicas import Replicas, fraction_of, merged, require_possible, summed
from ptycho_tf.resuming import Saver

_PRECISIONS = {
    "32-true": ("float32", "float32"),
    "64-true": ("float64", "float64"),
    "16-mixed": ("float32", "float16"),
    "bf16-mixed": ("float32", "bfloat16"),
}
"""Dtypes of weights and physics, and of the convolutions."""


class _Trainee(keras.Model):
    """The model with its losses, as Keras expects them."""

    def __init__(
        self,
        model: PtychoModel,
        *,
        training: TrainingConfig,
        canvas_shape: tuple[int, int],
        masks: tuple[Tensor | None, Tensor | None],
        scores_objects: bool,
    ) -> None:
        super().__init__()
        self._ptycho = model
        self._options: dict[str, Any] = {"canvas_shape": canvas_shape, "kind": training.loss}
        self._supervised_weight = training.supervised_weight
        self._training_mask, self._validation_mask = masks
        names = ("train_loss", "loss", *(["supervised_error"] if scores_objects else []))
        self._mean = {name: keras.metrics.Mean(name=name) for name in names}
        self._variance = PatchVariance(model.probe)
        self.built = True

    def _maybe_symbolic_build(self, *_: Any, **__: Any) -> None:
        """Does nothing, because all is built: Keras would use up a batch, and change the order of the next ones."""

    @property
    def trainable_variables(self) -> list[Any]:
        """The network's variables; Keras finds only layers of its own."""
        return list(self._ptycho.weights.values())

    @property
    def named_weights(self) -> dict[str, Any]:
        """The network's variables by their names in a bundle."""
        return self._ptycho.weights

    @property
    def metrics(self) -> list[Any]:
        """Means over an epoch, which Keras resets to 0."""
        return [*self._mean.values(), self._variance]

    @tf.autograph.experimental.do_not_convert
    def train_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of the optimiser; ``train_loss`` so far in this epoch."""
        variables = self.trainable_variables
        dtype = self._ptycho.dtype
        light, groups = fraction_of(light_on(batch, self._training_mask), dtype), fraction_of(_groups_in(batch), dtype)
        with tf.GradientTape() as tape:
            losses = self._ptycho.loss(batch, mask=self._training_mask, **self._options)
            total = losses.total * light
            if losses.supervised is not None:
                total = total + self._supervised_weight * losses.supervised * groups
            scaled = self.optimizer.scale_loss(total)
        self.optimizer.apply(merged(tape.gradient(scaled, variables)), variables)
        value = tf.where(tf.math.is_finite(total), losses.last * light, total)
        return self._logged("train_loss", value, batch)

    @tf.autograph.experimental.do_not_convert
    def test_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``val_loss`` and other figures so far: Keras puts ``val_`` before the names."""
        losses, dtype = self._ptycho.loss(batch, mask=self._validation_mask, **self._options), self._ptycho.dtype
        light, groups = (
            fraction_of(light_on(batch, self._validation_mask), dtype),
            fraction_of(_groups_in(batch), dtype),
        )
        logged = self._logged("loss", losses.last * light, batch)
        if losses.supervised_last is not None:
            logged |= self._logged("supervised_error", losses.supervised_last * groups, batch)
        self._variance.update_state(losses.patches)
        return logged | {PATCH_VARIANCE: self._variance.result()}

    def _logged(self, name: str, part: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean over the epoch so far of a figure of which each device has a part; the same on all devices."""
        value, groups = summed([part, tf.cast(_groups_in(batch), part.dtype)])
        self._mean[name].update_state(value, sample_weight=groups)
        return {name: self._mean[name].result()}


def _groups_in(batch: dict[str, Tensor]) -> Tensor:
    return tf.cast(tf.shape(batch["counts"])[0], tf.float32)


def fit(model: PtychoModel, task: TrainingTask, *, progress: Progress | None = None) -> TrainingOutcome:
    """Train a model in place; afterwards it holds the weights of the best checkpoint, or the last ones.

    Args:
        model: In float32, trained in place.
        task: Groups, options, output folder; its ``config``, ``probe`` and ``start`` have made the model.
        progress: Called as ``progress("training", steps done, steps in all)``; in a second attempt (TRN-16) the
            stage is ``"training again"``.

    Raises:
        ContractError: options that cannot be followed, or a logger that is not installed.
        WorkFailedError: the loss or the weights stopped being finite.
        TrainingInterrupted: a signal came, and there is a checkpoint to continue from.
    """
    training, execution = task.training, task.execution
    require_possible(execution)
    replicas = Replicas(task.device, execution.devices)
    keeper = Checkpoints(execution, task.output_dir / "checkpoints") if execution.enable_checkpointing else None
    metric, mode = execution.checkpoint_monitor_metric, execution.checkpoint_mode
    stopper = keras.callbacks.EarlyStopping(metric, min_delta=0.0, patience=execution.early_stop_patience, mode=mode)
    batches = math.ceil(len(task.groups) / (training.batch_size * execution.devices))
    mask = good_pixels(task.validation.source.bad_pixels)
    attempts = Attempts(
        uniform_loss=task.validation.mean(
            training.batch_size, lambda batch: model.uniform_loss(batch, kind=training.loss, mask=mask)
        ),
        epochs=training.epochs,
        max_seconds=task.deadline.max_seconds(),
        steps=training.epochs * batches // execution.accum_steps,
        signals=task.signals,
    )
    recovery = Recovery(attempts)
    halving = plateau(execution)
    saver = None
    if task.checkpoints is not None and keeper is not None:
        saver = Saver(task.checkpoints, attempts, recovery, keeper, [*halving, stopper])
    clock = Clock(attempts, execution, progress, keeps_state=saver is not None)
    callbacks = [Renamed(), clock, *halving, stopper, recovery, *([keeper] if keeper else [])]
    callbacks += loggers(execution.logger_backend, task.output_dir) + ([saver] if saver else [])
    with replicas.scope(), _framework_state(execution):
        trainee = _trainee(model, task)
        fitting: dict[str, Any] = {"callbacks": callbacks, "shuffle": False, "verbose": 0}  # the loader shuffles
        epochs = saver.epochs if saver else 0
        history = None
        while history is None or recovery.due:
            if recovery.due:
                remaining = (attempts.last_epoch - epochs) * batches // execution.accum_steps
                attempts.restart(attempts.first_step + steps_done(trainee), remaining)
                recovery.due = False
                other = PtychoModel(model.config, model.probe_array(), make=fresh(training.seed + 1, "float32"))
                other.probe = model.probe
                trainee = _trainee(other, task)
            data = _data(replicas, task, first_pass=epochs)
            history = trainee.fit(initial_epoch=epochs, epochs=attempts.last_epoch, **data, **fitting)
            epochs += len(history.epoch)
        steps = attempts.first_step + steps_done(trainee)
        last = {name: variable.numpy() for name, variable in trainee.named_weights.items()}
        weights = (keeper.best() if keeper else None) or last
        if not all(np.isfinite(value).all() for value in weights.values()):
            raise training_diverged("NaN or infinite weights")
    with on_device(task.device):
        put_weights(model.network, weights, NETWORK)
    kept = None if keeper is None else keeper.best_epoch
    return training_outcome(
        attempts,
        epochs=epochs,
        steps=steps,
        losses={name: float(values[-1]) for name, values in history.history.items()},
        kept=recovery.figures[max(recovery.figures) if kept is None else kept],
        device=task.device,
        stopped_early=stopper.stopped_epoch > 0,
    )


def _data(replicas: Replicas, task: TrainingTask, *, first_pass: int) -> dict[str, Any]:
    """The loaders, as arguments of Keras' fit."""
    loading: dict[str, Any] = {
        "batch_size": task.training.batch_size,
        "devices": replicas.count,
        "num_workers": task.execution.num_workers,
        "prefetch_factor": task.execution.prefetch_factor,
    }
    step = task.training.batch_size * replicas.count
    return replicas.fitting(
        make_loader(task.groups, shuffle=True, seed=task.training.seed, first_pass=first_pass, **loading),
        make_loader(task.validation, shuffle=False, **loading),
        steps=(math.ceil(len(task.groups) / step), math.ceil(len(task.validation) / step)),
    )


def _trainee(model: PtychoModel, task: TrainingTask) -> _Trainee:
    """The model in the requested precision, with its optimiser."""
    execution = task.execution
    dtype, compute_dtype = _PRECISIONS[execution.precision]
    working = PtychoModel(model.config, model.probe_array(), dtype=dtype, compute_dtype=compute_dtype)
    put_weights(working.network, model.weight_arrays(), NETWORK, dtype=dtype)
    working.probe = model.probe
    trainee = _Trainee(
        working,
        training=task.training,
        scores_objects=task.validation.truth,
        canvas_shape=common_canvas_shape(task.groups, task.validation),
        masks=(
            good_pixels(task.groups.source.bad_pixels, dtype),
            good_pixels(task.validation.source.bad_pixels, dtype),
        ),
    )
    optimiser = AdamW(
        execution.learning_rate,
        weight_decay=WEIGHT_DECAY,
        epsilon=1e-8,
        # Gradients come in parts that the optimiser adds up only after it has clipped each (see merged).
        global_clipnorm=execution.gradient_clip_val and execution.gradient_clip_val / execution.devices,
        gradient_accumulation_steps=execution.accum_steps if execution.accum_steps > 1 else None,
    )
    if compute_dtype == "float16":
        optimiser = keras.mixed_precision.LossScaleOptimizer(optimiser)
    optimiser.build(trainee.trainable_variables)  # otherwise the first step would, and be traced twice
    trainee.compile(optimizer=optimiser, jit_compile=False)
    return trainee


@contextmanager
def _framework_state(execution: ExecutionConfig) -> Iterator[None]:
    """TensorFlow's process-wide switch of determinism, set as requested, and restored afterwards."""
    from tensorflow.python.framework import config as switches  # to read and restore it: there is no public way

    before = switches.is_op_determinism_enabled()
    if execution.deterministic and not before:
        tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if execution.deterministic and not before:
            switches.disable_op_determinism()
