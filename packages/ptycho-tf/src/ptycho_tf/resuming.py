"""The state of a training between two epochs, kept and resumed from (specs/bundle.md, CKP-7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ptycho_data.fitting import Attempts, TrainingCheckpoints

from ptycho_tf.checkpoints import Checkpoints
from ptycho_tf.framework import keras, tf
from ptycho_tf.recovery import Recovery

_COUNTS = ("wait", "best", "stopped_epoch", "best_epoch", "cooldown_counter")
"""What Keras' early stopping and plateau remember."""


class Saver(keras.callbacks.Callback):
    """Keeps the training's state at the start of an epoch, when all of the epoch before has been done with.

    It must be the last callback: the others set their states back when a fit begins.

    Args:
        checkpoints: Where the state is kept, and what to resume from.
        attempts: The budget.
        recovery: Has the figures of each epoch.
        keeper: Keeps the best weights. They are a part of the state, because a killed training may have replaced them.
        counting: Early stopping and plateau.
    """

    def __init__(
        self,
        checkpoints: TrainingCheckpoints,
        attempts: Attempts,
        recovery: Recovery,
        keeper: Checkpoints,
        counting: Sequence[Any],
    ) -> None:
        super().__init__()
        self._checkpoints, self._attempts, self._recovery = checkpoints, attempts, recovery
        self._keeper, self._counting = keeper, counting
        self._pending = checkpoints.state
        if self._pending is not None:
            attempts.resume(self._pending.content["attempts"], done=self._pending.epochs)

    @property
    def epochs(self) -> int:
        """Epochs that are done in the state to resume from."""
        return 0 if self._pending is None else self._pending.epochs

    def on_train_begin(self, logs: Any = None) -> None:
        if self._pending is None:
            return
        arrays, content = self._pending.arrays, self._pending.content
        for name, variable in _variables(self.model).items():
            variable.assign(arrays[name])
        for callback, counts in zip(self._counting, content["counting"], strict=True):
            vars(callback).update(counts)
        self._recovery.figures = {int(epoch): figures for epoch, figures in content["figures"].items()}
        best = {name.removeprefix("best."): value for name, value in arrays.items() if name.startswith("best.")}
        self._keeper.restore(content["kept"], best)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._pending is not None:
            self._pending = None  # the file has this state
            return
        if not self._checkpoints.due():
            return
        arrays = {name: np.asarray(tf.convert_to_tensor(value)) for name, value in _variables(self.model).items()}
        best = self._keeper.best() or {}
        content = {
            "attempts": self._attempts.state(),
            "figures": {str(number): figures for number, figures in self._recovery.figures.items()},
            "counting": [
                {name: _plain(vars(callback)[name]) for name in _COUNTS if name in vars(callback)}
                for callback in self._counting
            ],
            "kept": self._keeper.state(),
        }
        self._checkpoints.write(epoch, arrays | {f"best.{name}": value for name, value in best.items()}, content)


def _variables(model: Any) -> Mapping[str, Any]:
    """Weights, and all that the optimiser remembers."""
    of_optimiser = {f"optimiser.{number}": variable for number, variable in enumerate(model.optimizer.variables)}
    return {**model.named_weights, **of_optimiser}


def _plain(value: Any) -> Any:
    """A number of Keras as a JSON value."""
    return value if value is None or isinstance(value, int) else float(value)
