"""Training of a model on groups, by Keras' fit and callbacks (specs/training.md)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ptycho_contracts.config import ExecutionConfig, TrainingConfig
from ptycho_data.canvas.geometry import group_canvas_shape
from ptycho_data.fitting.collapse import CollapseWatch, is_flat

from ptycho_tf.checkpoints import Checkpoints
from ptycho_tf.course import Course, diverged, plateau, steps_done
from ptycho_tf.devices import on_device
from ptycho_tf.framework import keras, tf
from ptycho_tf.layers import fresh, put_weights
from ptycho_tf.loader import GroupDataset, make_loader
from ptycho_tf.loggers import loggers
from ptycho_tf.model import PtychoModel, good_pixels, light_on
from ptycho_tf.optimiser import AdamW
from ptycho_tf.physics import Tensor
from ptycho_tf.recovery import PATCH_VARIANCE, PatchVariance, Recovery, Renamed
from ptycho_tf.replicas import Replicas, merged, require_possible, share_of, summed

Progress = Callable[[str, int, int], None]

_WEIGHT_DECAY = 1e-3
_PRECISIONS = {
    "32-true": ("float32", "float32"),
    "64-true": ("float64", "float64"),
    "16-mixed": ("float32", "float16"),
    "bf16-mixed": ("float32", "bfloat16"),
}
"""Dtypes of weights and physics, and of the convolutions."""


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training came to.

    Attributes:
        epochs: Passes begun.
        steps: Steps of the optimiser.
        seconds, cpu_seconds: Wall time and this process' CPU time.
        losses: Last value of each logged metric.
        device: Where the model was trained.
        stopped_by: ``"epochs"``, ``"max_seconds"`` or ``"early stopping"``.
        flat_loss: Loss of a flat object on the validation groups.
        collapsed: Whether the trained network explains the validation groups no better than a flat object.
        patch_variance: Variance of its estimate across the validation patterns (TRN-14).
        restarts: 0, or 1 where the training collapsed and began anew (TRN-16).
        restart_reason: Why, in words, or None.
    """

    epochs: int
    steps: int
    seconds: float
    cpu_seconds: float
    losses: Mapping[str, float]
    device: str
    stopped_by: str
    flat_loss: float
    collapsed: bool
    patch_variance: float
    restarts: int
    restart_reason: str | None


class _Trainee(keras.Model):
    """The model with its losses, as Keras wants them."""

    def __init__(
        self,
        model: PtychoModel,
        *,
        training: TrainingConfig,
        canvas_shape: tuple[int, int],
        masks: tuple[Tensor | None, Tensor | None],
        judges_objects: bool,
    ) -> None:
        super().__init__()
        self._ptycho = model
        self._options: dict[str, Any] = {"canvas_shape": canvas_shape, "kind": training.loss}
        self._supervised_weight = training.supervised_weight
        self._training_mask, self._validation_mask = masks
        names = ("train_loss", "loss", *(["supervised_error"] if judges_objects else []))
        self._mean = {name: keras.metrics.Mean(name=name) for name in names}
        self._variance = PatchVariance(model.probe)
        self.built = True

    def _maybe_symbolic_build(self, *_: Any, **__: Any) -> None:
        """Nothing: all is built; Keras would take a batch for it, and so change the order of those that follow."""

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
        """Means over an epoch, which Keras puts back to 0."""
        return [*self._mean.values(), self._variance]

    @tf.autograph.experimental.do_not_convert
    def train_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of the optimiser; ``train_loss`` so far in this epoch."""
        variables = self.trainable_variables
        dtype = self._ptycho.dtype
        light, groups = share_of(light_on(batch, self._training_mask), dtype), share_of(_groups_in(batch), dtype)
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
        light, groups = share_of(light_on(batch, self._validation_mask), dtype), share_of(_groups_in(batch), dtype)
        logged = self._logged("loss", losses.last * light, batch)
        if losses.supervised_last is not None:
            logged |= self._logged("supervised_error", losses.supervised_last * groups, batch)
        self._variance.update_state(losses.patches)
        return logged | {PATCH_VARIANCE: self._variance.result()}

    def _logged(self, name: str, part: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A figure, of which each device has a part, with the mean over the epoch so far; the same on all devices."""
        value, groups = summed([part, tf.cast(_groups_in(batch), part.dtype)])
        self._mean[name].update_state(value, sample_weight=groups)
        return {name: self._mean[name].result()}


def _groups_in(batch: dict[str, Tensor]) -> Tensor:
    return tf.cast(tf.shape(batch["counts"])[0], tf.float32)


def fit(
    model: PtychoModel,
    training_groups: GroupDataset,
    validation_groups: GroupDataset,
    *,
    training: TrainingConfig,
    execution: ExecutionConfig,
    output_dir: Path,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TrainingOutcome:
    """Train a model in place; afterwards it holds the weights of the best checkpoint, or the last ones.

    Args:
        model: In float32, trained in place.
        training_groups, validation_groups: Disjoint groups.
        training: What to fit and for how long.
        execution: Precision, schedule, checkpoints, logger.
        output_dir: Takes ``checkpoints/`` and ``logs/``.
        device: From :func:`ptycho_tf.devices.pick_device`.
        progress: Called as ``progress("training", steps done, steps in all)``; in a second attempt (TRN-16) the
            stage is ``"training again"``.

    Raises:
        ContractError: options that cannot be followed, or a logger that is not installed.
        WorkFailedError: the loss or the weights stopped being finite.
    """
    require_possible(execution)
    replicas = Replicas(device, execution.devices)
    keeper = Checkpoints(execution, output_dir / "checkpoints") if execution.enable_checkpointing else None
    metric, mode = execution.checkpoint_monitor_metric, execution.checkpoint_mode
    stopper = keras.callbacks.EarlyStopping(metric, min_delta=0.0, patience=execution.early_stop_patience, mode=mode)
    batches = math.ceil(len(training_groups) / (training.batch_size * execution.devices))
    course = Course(training, execution, max(1, training.epochs * batches // execution.accum_steps), progress)
    watch = CollapseWatch(
        _flat_loss(model, validation_groups, training), epochs=training.epochs, max_seconds=training.max_seconds
    )
    recovery = Recovery(watch, share=course.share, epochs=training.epochs)
    callbacks = [Renamed(), course, *plateau(execution), stopper, recovery, *([keeper] if keeper else [])]
    callbacks += loggers(execution.logger_backend, output_dir)
    began, cpu = time.monotonic(), time.process_time()
    with replicas.scope(), _framework_state(execution):
        trainee = _trainee(model, training_groups, validation_groups, training, execution)
        fitting: dict[str, Any] = {"callbacks": callbacks, "shuffle": False, "verbose": 0}  # the loader shuffles
        data = partial(_data, replicas, training_groups, validation_groups, training, execution)
        history = trainee.fit(epochs=training.epochs, **data(first_pass=0), **fitting)
        epochs, steps = len(history.epoch), steps_done(trainee)
        if recovery.due:
            recovery.epochs = epochs + watch.epochs_left(epochs)
            course.begin_anew(watch, max(1, (recovery.epochs - epochs) * batches // execution.accum_steps))
            other = PtychoModel(model.config, model.probe.numpy(), make=fresh(training.seed + 1, "float32"))
            other.probe = model.probe
            trainee = _trainee(other, training_groups, validation_groups, training, execution)
            history = trainee.fit(initial_epoch=epochs, epochs=recovery.epochs, **data(first_pass=epochs), **fitting)
            epochs, steps = epochs + len(history.epoch), steps + steps_done(trainee)
        last = {name: variable.numpy() for name, variable in trainee.named_weights.items()}
        weights = (keeper.best() if keeper else None) or last
        if not all(np.isfinite(value).all() for value in weights.values()):
            raise diverged("NaN or infinite weights")
    with on_device(device):
        put_weights(model.network, weights, "network.")
    kept = None if keeper is None else keeper.best_epoch
    figures = recovery.figures[max(recovery.figures) if kept is None else kept]
    early = stopper.stopped_epoch > 0
    losses = {name: float(values[-1]) for name, values in history.history.items()}
    return TrainingOutcome(
        epochs=epochs,
        steps=steps,
        seconds=time.monotonic() - began,
        cpu_seconds=time.process_time() - cpu,
        losses={name: value for name, value in losses.items() if name != PATCH_VARIANCE},
        device=device,
        stopped_by="max_seconds" if course.expired else "early stopping" if early else "epochs",
        flat_loss=watch.flat_loss,
        collapsed=is_flat(figures["val_loss"], watch.flat_loss),
        patch_variance=figures[PATCH_VARIANCE],
        restarts=watch.restarts,
        restart_reason=watch.reason,
    )


def _data(
    replicas: Replicas,
    training_groups: GroupDataset,
    validation_groups: GroupDataset,
    training: TrainingConfig,
    execution: ExecutionConfig,
    *,
    first_pass: int,
) -> dict[str, Any]:
    """The loaders, as arguments of Keras' fit."""
    options: dict[str, Any] = {
        "batch_size": training.batch_size,
        "devices": replicas.count,
        "num_workers": execution.num_workers,
        "prefetch_factor": execution.prefetch_factor,
    }
    step = training.batch_size * replicas.count
    steps = math.ceil(len(training_groups) / step), math.ceil(len(validation_groups) / step)
    return replicas.fitting(
        make_loader(training_groups, shuffle=True, seed=training.seed, first_pass=first_pass, **options),
        make_loader(validation_groups, shuffle=False, **options),
        steps=steps,
    )


def _flat_loss(model: PtychoModel, groups: GroupDataset, training: TrainingConfig) -> float:
    """Loss of a uniform object on the same groups and by the same means as ``val_loss`` (TRN-14)."""
    mask = good_pixels(groups.source.bad_pixels)
    total = 0.0
    for first in range(0, len(groups), training.batch_size):
        batch = groups[np.arange(first, min(first + training.batch_size, len(groups)))]
        total += model.flat_loss(batch, kind=training.loss, mask=mask) * len(batch["counts"])
    return total / len(groups)


def _trainee(
    model: PtychoModel,
    training_groups: GroupDataset,
    validation_groups: GroupDataset,
    training: TrainingConfig,
    execution: ExecutionConfig,
) -> _Trainee:
    """The model in the precision that was asked for, with its optimiser."""
    dtype, compute_dtype = _PRECISIONS[execution.precision]
    start = {name: variable.numpy() for name, variable in model.weights.items()}
    working = PtychoModel(model.config, model.probe.numpy(), dtype=dtype, compute_dtype=compute_dtype)
    put_weights(working.network, start, "network.", dtype=dtype)
    working.probe = model.probe
    shapes = [
        group_canvas_shape(part.groups.coords_relative, part.source.N, multiple=8)
        for part in (training_groups, validation_groups)
    ]
    trainee = _Trainee(
        working,
        training=training,
        judges_objects=validation_groups.truth,
        canvas_shape=(max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)),
        masks=(
            good_pixels(training_groups.source.bad_pixels, dtype),
            good_pixels(validation_groups.source.bad_pixels, dtype),
        ),
    )
    optimiser = AdamW(
        execution.learning_rate,
        weight_decay=_WEIGHT_DECAY,
        epsilon=1e-8,
        # Gradients come in parts that the optimiser adds up only after it has clipped each (see merged).
        global_clipnorm=execution.gradient_clip_val and execution.gradient_clip_val / execution.devices,
        gradient_accumulation_steps=execution.accum_steps if execution.accum_steps > 1 else None,
    )
    if compute_dtype == "float16":
        optimiser = keras.mixed_precision.LossScaleOptimizer(optimiser)
    optimiser.build(trainee.trainable_variables)  # else the first step would, and be traced twice for it
    trainee.compile(optimizer=optimiser, jit_compile=False)
    return trainee


@contextmanager
def _framework_state(execution: ExecutionConfig) -> Iterator[None]:
    """TensorFlow's process-wide switch of determinism, as asked for, and put back afterwards."""
    from tensorflow.python.framework import config as switches  # to read it and to put it back: no public way

    before = switches.is_op_determinism_enabled()
    if execution.deterministic and not before:
        tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if execution.deterministic and not before:
            switches.disable_op_determinism()
