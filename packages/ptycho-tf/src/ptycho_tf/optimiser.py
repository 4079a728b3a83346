"""Adam with decoupled weight decay [AdamW], with the epsilon of the publication and of PyTorch (TRN-6)."""

from __future__ import annotations

from typing import Any

from ptycho_tf.framework import keras, tf


class AdamW(keras.optimizers.AdamW):
    """Keras' AdamW with epsilon beside the corrected second moment: step ``lr m' / (sqrt(v') + epsilon)``.

    With m' = m / (1 - beta_1^t) and v' = v / (1 - beta_2^t). Keras adds epsilon to sqrt(v): thirty times as much in the
    first step. This changes a thousand steps where gradients are small, as those of normalised losses are.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Step of one variable; meanwhile ``self.epsilon`` has the value that Keras' formula needs."""
        epsilon = self.epsilon
        done = tf.cast(self.iterations + 1, variable.dtype)
        self.epsilon = epsilon * tf.sqrt(1 - tf.cast(self.beta_2, variable.dtype) ** done)
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self.epsilon = epsilon
