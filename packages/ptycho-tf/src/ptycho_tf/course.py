"""Learning rate, time and progress of a training, as Keras callbacks (specs/training.md, TRN-6, TRN-7)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from ptycho_contracts.config import ExecutionConfig, TrainingConfig
from ptycho_contracts.problems import Problem, WorkFailedError
from ptycho_data.fitting.collapse import SLOWER, CollapseWatch

from ptycho_tf.framework import keras, tf

Progress = Callable[[str, int, int], None]

_LAST_RATE = 0.02
_EXPONENTIAL_DECADES = 1.7


class Course(keras.callbacks.Callback):
    """Sets the learning rate, reports progress, refuses losses that are not finite, and watches the clock."""

    def __init__(
        self, training: TrainingConfig, execution: ExecutionConfig, steps: int, progress: Progress | None
    ) -> None:
        super().__init__()
        self._max_seconds, self._execution = training.max_seconds, execution
        self._steps, self._progress = steps, progress
        self._rate, self._stage = execution.learning_rate, "training"
        self._began = time.monotonic()
        self.expired = False

    def begin_anew(self, watch: CollapseWatch, steps: int) -> None:
        """A second attempt of so many steps, slower, with the time that is left."""
        now = time.monotonic()
        self._max_seconds, self._began = watch.seconds_left(now - self._began), now
        self._steps, self._rate, self._stage, self.expired = steps, SLOWER * self._rate, "training again", False

    def share(self) -> float:
        """Share of the training that is done: of the steps or of the time, whichever is more."""
        elapsed = 0.0 if self._max_seconds is None else (time.monotonic() - self._began) / self._max_seconds
        return min(1.0, max(steps_done(self.model) / self._steps, elapsed))

    def on_train_begin(self, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = self._rate

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        kind = self._execution.scheduler
        if kind in ("cosine", "exponential"):
            factor = _cosine(self.share()) if kind == "cosine" else 10 ** (-_EXPONENTIAL_DECADES * self.share())
            self.model.optimizer.learning_rate = self._rate * factor

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not math.isfinite(float(logs["train_loss"])):
            raise diverged(f"a loss of {float(logs['train_loss'])}")
        if self._max_seconds is not None and time.monotonic() - self._began >= self._max_seconds:
            self.expired = self.model.stop_training = True
        if self._progress is not None:
            self._progress(self._stage, round(self.share() * self._steps), self._steps)


def steps_done(model: Any) -> int:
    """Steps of a model's optimiser, whether it works on one device or on several."""
    return int(tf.convert_to_tensor(model.optimizer.iterations))


def diverged(found: str) -> WorkFailedError:
    """TRN-11."""
    return WorkFailedError(
        Problem(
            "training",
            "training.diverged",
            "a finite loss and finite weights",
            found,
            "lower --learning-rate or check the data with inspect",
        )
    )


def _cosine(share: float) -> float:
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * share))


def plateau(execution: ExecutionConfig) -> list[keras.callbacks.Callback]:
    """Halves the rate after more than 3 epochs without a lower val_loss; Keras counts 4."""
    if execution.scheduler != "plateau":
        return []
    return [keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=4, min_delta=0.0, mode="min")]
