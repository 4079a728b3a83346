"""Learning rate, time and progress of a training, as Keras callbacks (specs/training.md, TRN-6, TRN-7)."""

from __future__ import annotations

import math
from typing import Any

from ptycho_contracts.config import ExecutionConfig
from ptycho_data.fitting import Attempts, TrainingInterrupted, rate_factor, training_diverged
from ptycho_data.stages import Progress, tell

from ptycho_tf.framework import keras, tf


class Clock(keras.callbacks.Callback):
    """Sets the learning rate, reports progress, refuses losses that are not finite, and watches the clock.

    Args:
        attempts: The budget.
        execution: Learning rate and schedule.
        progress: Called as ``progress(stage, steps done, steps in all)``.
        keeps_state: Whether there is a checkpoint to continue from: then a signal leaves at once.
    """

    def __init__(
        self, attempts: Attempts, execution: ExecutionConfig, progress: Progress | None, *, keeps_state: bool = False
    ) -> None:
        super().__init__()
        self._attempts, self._execution, self._progress = attempts, execution, progress
        self._keeps_state = keeps_state

    def on_train_begin(self, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = self._attempts.rate * self._execution.learning_rate

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._execution.scheduler in ("cosine", "exponential"):
            factor = rate_factor(self._execution.scheduler, self._fraction())
            self.model.optimizer.learning_rate = self._attempts.rate * self._execution.learning_rate * factor

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not math.isfinite(float(logs["train_loss"])):
            raise training_diverged(f"a loss of {float(logs['train_loss'])}")
        self._attempts.look()
        done, loss = steps_done(self.model), logs["train_loss"]
        tell(self._progress, self._attempts.stage, done, self._attempts.steps, loss=loss)
        self._attempts.listen()
        if self._attempts.interrupted_by and self._keeps_state:
            raise TrainingInterrupted
        if self._attempts.expired:
            self.model.stop_training = True

    def _fraction(self) -> float:
        """Fraction of the present attempt that is done now."""
        self._attempts.look()
        return self._attempts.fraction(self._attempts.first_step + steps_done(self.model))


def steps_done(model: Any) -> int:
    """Steps of a model's optimiser, whether it works on one device or on several."""
    return int(tf.convert_to_tensor(model.optimizer.iterations))


def plateau(execution: ExecutionConfig) -> list[keras.callbacks.Callback]:
    """Halves the rate after more than 3 epochs without a lower val_loss; Keras counts 4."""
    if execution.scheduler != "plateau":
        return []
    return [keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=4, min_delta=0.0, mode="min")]
