"""Adam with decoupled weight decay, as the paper and PyTorch have it (TRN-6)."""

from __future__ import annotations

from typing import Any

from ptycho_tf.framework import keras, tf


class AdamW(keras.optimizers.AdamW):
    """Keras' AdamW with epsilon beside the corrected second moment: step ``lr m' / (sqrt(v') + epsilon)``.

    With m' = m / (1 - beta_1^t) and v' = v / (1 - beta_2^t). Keras adds epsilon to sqrt(v): thirty times as much in the
    first step, which small gradients, as those of normalised losses are, feel for a thousand steps.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step; ``self.epsilon`` is what it should be for Keras' formula, while it runs."""
        epsilon = self.epsilon
        done = tf.cast(self.iterations + 1, variable.dtype)
        self.epsilon = epsilon * tf.sqrt(1 - tf.cast(self.beta_2, variable.dtype) ** done)
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self.epsilon = epsilon
