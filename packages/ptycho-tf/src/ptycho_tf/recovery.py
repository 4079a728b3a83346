"""Restart of a collapsed training, and the metric that shows the collapse (specs/training.md, TRN-14, TRN-16)."""

from __future__ import annotations

from typing import Any

from ptycho_data.fitting import PATCH_VARIANCE, Attempts

from ptycho_tf.clock import steps_done
from ptycho_tf.framework import keras, tf
from ptycho_tf.physics import Tensor, squared_modulus
from ptycho_tf.replicas import summed

_RENAMED = {f"val_{name}": name for name in (PATCH_VARIANCE, "supervised_error")}
"""Keras puts ``val_`` before the names of all validation metrics."""


class Renamed(keras.callbacks.Callback):
    """Sets the names of the figures in every report; must be the first callback."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for theirs, ours in _RENAMED.items():
            if theirs in logs:
                logs[ours] = logs.pop(theirs)


class Recovery(keras.callbacks.Callback):
    """Ends a collapsed attempt and reports that a restart is due; comes after early stopping in the list.

    Args:
        attempts: Decides whether to restart.

    Attributes:
        due: Whether training should be restarted.
        figures: ``val_loss`` and ``patch_variance`` of each epoch.
    """

    def __init__(self, attempts: Attempts) -> None:
        super().__init__()
        self._attempts = attempts
        self.due = False
        self.figures: dict[int, dict[str, float]] = {}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.figures[epoch] = {name: float(logs[name]) for name in ("val_loss", PATCH_VARIANCE)}
        attempts, step = self._attempts, self._attempts.first_step + steps_done(self.model)
        ending = self.model.stop_training or epoch + 1 >= attempts.last_epoch
        attempts.look()
        if attempts.collapsed(self.figures[epoch]["val_loss"], epoch=epoch + 1, step=step, ending=ending):
            self.due = self.model.stop_training = True


class PatchVariance(keras.metrics.Metric):
    """Variance of the estimate across patches, in units of empty space's |O|^2 (TRN-14).

    Args:
        probe: (modes, N, N) complex of unit energy: the weights sum up to 1.
    """

    def __init__(self, probe: Tensor) -> None:
        super().__init__(name=PATCH_VARIANCE, dtype="float32")
        self._weight = tf.reduce_sum(squared_modulus(probe), 0)
        side = tuple(self._weight.shape)
        self._real, self._imaginary = (
            self.add_variable(side, initializer="zeros", name=name) for name in ("real", "imaginary")
        )
        self._power, self._count = (
            self.add_variable((), initializer="zeros", name=name) for name in ("power", "count")
        )

    def update_state(self, patches: Tensor) -> None:
        """Add patches, (M, N, N) complex, and those of the other devices of the step."""
        patches = tf.cast(patches, tf.complex64)
        total = tf.reduce_sum(patches, 0)
        real, imaginary, power, count = summed(
            [
                tf.math.real(total),
                tf.math.imag(total),
                tf.reduce_sum(squared_modulus(patches) * self._weight),
                tf.cast(tf.shape(patches)[0], tf.float32),
            ]
        )
        self._real.assign_add(real)
        self._imaginary.assign_add(imaginary)
        self._power.assign_add(power)
        self._count.assign_add(count)

    def result(self) -> Tensor:
        """``sum w (mean_m |O_m|^2 - |mean O|^2)``, 0 for identical patches."""
        count = tf.maximum(tf.convert_to_tensor(self._count), 1)
        real, imaginary = (tf.convert_to_tensor(part) / count for part in (self._real, self._imaginary))
        mean = tf.reduce_sum((tf.square(real) + tf.square(imaginary)) * self._weight)
        return tf.maximum(tf.convert_to_tensor(self._power) / count - mean, 0)
