"""Training of a model on groups, by Keras' fit and callbacks (specs/training.md)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ptycho_contracts.config import ExecutionConfig, TrainingConfig
from ptycho_contracts.problems import ContractError, Problem, WorkFailedError
from ptycho_data.geometry import group_canvas_shape

from ptycho_tf.checkpoints import Checkpoints
from ptycho_tf.devices import on_device
from ptycho_tf.framework import keras, tf
from ptycho_tf.layers import put_weights
from ptycho_tf.loader import GroupDataset, make_loader
from ptycho_tf.loggers import loggers
from ptycho_tf.model import PtychoModel, good_pixels
from ptycho_tf.physics import Tensor

Progress = Callable[[str, int, int], None]

COLLAPSE_SHARE = 0.98
"""A val_loss above this share of a flat object's is a network that has learned nothing."""

_LAST_RATE = 0.02
_WEIGHT_DECAY = 1e-3
_EXPONENTIAL_DECADES = 1.7
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


def require_possible(execution: ExecutionConfig) -> None:
    """Refuse, all at once, execution options that this backend cannot follow, with the reason.

    Raises:
        ContractError: several devices or machines, or a strategy for them.
    """
    reasons = {
        "devices": (1, "ptycho-tf trains on one device, and TensorFlow takes all cores of a CPU as one"),
        "num_nodes": (1, "ptycho-tf trains on one machine"),
        "strategy": ("auto", "PyTorch's strategies for several processes have no meaning in TensorFlow"),
    }
    problems = [
        Problem(f"execution.{name}", "execution.impossible", f"{only!r}: {reason}", repr(getattr(execution, name)),
                "leave it out or use --backend torch")
        for name, (only, reason) in reasons.items()
        if getattr(execution, name) != only
    ]  # fmt: skip
    if problems:
        raise ContractError(problems)


class _Trainee(keras.Model):
    """The model with its losses, as Keras wants them."""

    def __init__(
        self,
        model: PtychoModel,
        *,
        loss: str,
        canvas_shape: tuple[int, int],
        masks: tuple[Tensor | None, Tensor | None],
    ) -> None:
        super().__init__()
        self._ptycho = model
        self._options: dict[str, Any] = {"canvas_shape": canvas_shape, "kind": loss}
        self._training_mask, self._validation_mask = masks
        self._mean = {name: keras.metrics.Mean(name=name) for name in ("train_loss", "loss")}
        self.built = True

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
        return list(self._mean.values())

    @tf.autograph.experimental.do_not_convert
    def train_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of the optimiser; ``train_loss`` so far in this epoch."""
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            total, last = self._ptycho.loss(batch, mask=self._training_mask, **self._options)
            scaled = self.optimizer.scale_loss(total)
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return self._logged("train_loss", tf.where(tf.math.is_finite(total), last, total), batch)

    @tf.autograph.experimental.do_not_convert
    def test_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``val_loss`` so far: Keras puts ``val_`` before the name."""
        _, last = self._ptycho.loss(batch, mask=self._validation_mask, **self._options)
        return self._logged("loss", last, batch)

    def _logged(self, name: str, value: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self._mean[name].update_state(value, sample_weight=tf.shape(batch["counts"])[0])
        return {name: self._mean[name].result()}


class _Course(keras.callbacks.Callback):
    """Sets the learning rate, reports progress, refuses losses that are not finite, and watches the clock."""

    def __init__(
        self, training: TrainingConfig, execution: ExecutionConfig, steps: int, progress: Progress | None
    ) -> None:
        super().__init__()
        self._max_seconds, self._execution = training.max_seconds, execution
        self._steps, self._progress = steps, progress
        self._began = time.monotonic()
        self.expired = False

    def _share(self) -> float:
        """Share of the training that is done: of the steps or of the time, whichever is more."""
        elapsed = 0.0 if self._max_seconds is None else (time.monotonic() - self._began) / self._max_seconds
        return min(1.0, max(int(self.model.optimizer.iterations) / self._steps, elapsed))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        kind = self._execution.scheduler
        if kind in ("cosine", "exponential"):
            factor = _cosine(self._share()) if kind == "cosine" else 10 ** (-_EXPONENTIAL_DECADES * self._share())
            self.model.optimizer.learning_rate = self._execution.learning_rate * factor

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not math.isfinite(float(logs["train_loss"])):
            raise _diverged(f"a loss of {float(logs['train_loss'])}")
        if self._max_seconds is not None and time.monotonic() - self._began >= self._max_seconds:
            self.expired = self.model.stop_training = True
        if self._progress is not None:
            self._progress("training", round(self._share() * self._steps), self._steps)


def _diverged(found: str) -> WorkFailedError:
    return WorkFailedError(
        Problem("training", "training.diverged", "a finite loss and finite weights", found,
                "lower --learning-rate or check the data with inspect")
    )  # fmt: skip


def _cosine(share: float) -> float:
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * share))


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
        progress: Called as ``progress("training", steps done, steps in all)``.

    Raises:
        ContractError: options that cannot be followed, or a logger that is not installed.
        WorkFailedError: the loss or the weights stopped being finite.
    """
    require_possible(execution)
    keeper = Checkpoints(execution, output_dir / "checkpoints") if execution.enable_checkpointing else None
    metric, mode = execution.checkpoint_monitor_metric, execution.checkpoint_mode
    stopper = keras.callbacks.EarlyStopping(metric, min_delta=0.0, patience=execution.early_stop_patience, mode=mode)
    batches = math.ceil(len(training_groups) / training.batch_size)
    course = _Course(training, execution, max(1, training.epochs * batches // execution.accum_steps), progress)
    callbacks = [course, *_plateau(execution), stopper, *([keeper] if keeper else [])]
    callbacks += loggers(execution.logger_backend, output_dir)
    began, cpu = time.monotonic(), time.process_time()
    with on_device(device), _framework_state(execution):
        trainee = _trainee(model, training_groups, validation_groups, training, execution)
        workers: dict[str, Any] = {"num_workers": execution.num_workers, "prefetch_factor": execution.prefetch_factor}
        history = trainee.fit(
            make_loader(training_groups, batch_size=training.batch_size, shuffle=True, seed=training.seed, **workers),
            validation_data=make_loader(validation_groups, batch_size=training.batch_size, shuffle=False, **workers),
            epochs=training.epochs,
            callbacks=callbacks,
            shuffle=False,  # the loader has shuffled
            verbose=0,
        )
        last = {name: variable.numpy() for name, variable in trainee.named_weights.items()}
        weights = (keeper.best() if keeper else None) or last
        if not all(np.isfinite(value).all() for value in weights.values()):
            raise _diverged("NaN or infinite weights")
        put_weights(model.network, weights, "network.")
        flat = _flat_loss(model, validation_groups, training)
    early = stopper.stopped_epoch > 0
    losses = {name: float(values[-1]) for name, values in history.history.items()}
    return TrainingOutcome(
        epochs=len(history.epoch),
        steps=int(trainee.optimizer.iterations),
        seconds=time.monotonic() - began,
        cpu_seconds=time.process_time() - cpu,
        losses=losses,
        device=device,
        stopped_by="max_seconds" if course.expired else "early stopping" if early else "epochs",
        flat_loss=flat,
        collapsed=not losses.get("val_loss", flat) < COLLAPSE_SHARE * flat,
    )


def _flat_loss(model: PtychoModel, groups: GroupDataset, training: TrainingConfig) -> float:
    """Loss of empty space on the same groups and by the same means as ``val_loss``."""
    mask = good_pixels(groups.source.bad_pixels)
    total = 0.0
    for first in range(0, len(groups), training.batch_size):
        batch = groups[np.arange(first, min(first + training.batch_size, len(groups)))]
        total += model.flat_loss(batch, kind=training.loss, mask=mask) * len(batch["counts"])
    return total / len(groups)


def _trainee(
    model: PtychoModel, training_groups: GroupDataset, validation_groups: GroupDataset, training: TrainingConfig,
    execution: ExecutionConfig,
) -> _Trainee:  # fmt: skip
    """The model in the precision that was asked for, with its optimiser."""
    dtype, compute_dtype = _PRECISIONS[execution.precision]
    start = {name: variable.numpy() for name, variable in model.weights.items()}
    working = PtychoModel(model.config, model.probe.numpy(), dtype=dtype, compute_dtype=compute_dtype)
    put_weights(working.network, start, "network.", dtype=dtype)
    working.probe = model.probe
    shapes = [group_canvas_shape(part.groups.coords_relative, part.source.N, multiple=8)
              for part in (training_groups, validation_groups)]  # fmt: skip
    trainee = _Trainee(
        working, loss=training.loss,
        canvas_shape=(max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)),
        masks=(good_pixels(training_groups.source.bad_pixels, dtype),
               good_pixels(validation_groups.source.bad_pixels, dtype)),
    )  # fmt: skip
    optimiser = keras.optimizers.AdamW(
        execution.learning_rate, weight_decay=_WEIGHT_DECAY, epsilon=1e-8,
        global_clipnorm=execution.gradient_clip_val,
        gradient_accumulation_steps=execution.accum_steps if execution.accum_steps > 1 else None,
    )  # fmt: skip
    if compute_dtype == "float16":
        optimiser = keras.mixed_precision.LossScaleOptimizer(optimiser)
    trainee.compile(optimizer=optimiser, jit_compile=False)
    return trainee


def _plateau(execution: ExecutionConfig) -> list[keras.callbacks.Callback]:
    """Halves the rate after more than 3 epochs without a lower val_loss; Keras counts 4."""
    if execution.scheduler != "plateau":
        return []
    return [keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=4, min_delta=0.0, mode="min")]


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
