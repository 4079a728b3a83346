"""Budget of a training, and its one restart after a collapse (specs/training.md, TRN-6, TRN-7, TRN-14, TRN-16)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from ptycho_data.fitting.checkpoints import no_epoch_left
from ptycho_data.signals import Waiting

COLLAPSE_FRACTION = 0.98
"""A val_loss above this fraction of the uniform-object baseline is a network that has learned nothing. Networks that
learn fall below it in their first steps (benchmarks/reliability.py: the worst of twenty reaches 0.6); noise moves it by
less than 0.01."""
JUDGED_FROM = 0.25
"""Fraction of the budget after which a training is tested for collapse: learning may start late."""
LEAST_LEFT = 0.25
"""Fraction of the epochs that a second attempt has at least; without that part of the time there is none."""
_SOON = 1e-3
SLOWER = 1 / 3
"""Learning rate of the second attempt, in units of that of the first."""


_KEPT = ("restarts", "reason", "last_epoch", "first_epoch", "rate", "stage", "first_step", "steps")


def no_better_than_uniform(val_loss: float, uniform_loss: float) -> bool:
    """Whether a loss is no better than that of a uniform object; NaN is no better.

    >>> [no_better_than_uniform(loss, 0.5) for loss in (0.2, 0.495, float("nan"))]
    [False, True, True]
    """
    return not val_loss < COLLAPSE_FRACTION * uniform_loss


class Attempts:
    """What fraction of a training is done, in steps or wall time, and whether it is restarted, once.

    Args:
        uniform_loss: Loss of the uniform object on the validation groups.
        epochs, max_seconds: The training's budget.
        steps: Steps of the first attempt.
        signals: Ctrl-C and SIGTERM, which end a training after its present step; default: they end it anyhow.
        clock: Seconds.

    Attributes:
        interrupted_by: Number of the signal that ends the training; 0 before.
        resumed: Whether the state is that of a checkpoint.
        restarts: 0, or 1 after the decision to restart.
        reason: Why it was restarted, in words; None before.
        last_epoch: Number of epochs after which the present attempt ends.
        rate: Learning rate of the present attempt, in units of the first one's.
        stage: Name of the present attempt, for progress.
        first_step, first_epoch: Steps of the optimiser, and epochs, before the present attempt.
    """

    def __init__(
        self,
        *,
        uniform_loss: float,
        epochs: int,
        max_seconds: float | None,
        steps: int,
        signals: Waiting | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.uniform_loss, self.last_epoch = uniform_loss, epochs
        self.restarts, self.reason, self.rate, self.stage = 0, None, 1.0, "training"
        self.first_step, self.first_epoch = 0, 0
        self._epochs, self._limit, self._clock = epochs, max_seconds, clock
        self.steps = max(1, steps)
        self.interrupted_by, self.resumed = 0, False
        self._learned, self._signals = False, signals or Waiting()
        self._began, self._elapsed = clock(), 0.0

    restarts: int
    reason: str | None

    def look(self, agreed: Callable[[float], float] = lambda fraction: fraction) -> None:
        """Read the clock.

        Args:
            agreed: Gives all processes the same fraction of the time, from this one's: their learning rates must agree.
        """
        if self._limit is not None:
            self._elapsed = agreed((self._clock() - self._began) / self._limit)

    def listen(self, agreed: Callable[[int], int] = lambda number: number) -> None:
        """Note whether a signal came, after a step.

        Args:
            agreed: Gives all processes the same number: they must end at the same step.
        """
        self.interrupted_by = self.interrupted_by or agreed(self._signals.number)

    def install(self) -> None:
        """Wait for signals again, after a library has replaced the handlers."""
        if self._signals.waits:
            self._signals.install()

    @property
    def expired(self) -> bool:
        """Whether the time was over at the last reading, or a signal came."""
        return self._elapsed >= 1 or self.interrupted_by > 0

    def state(self) -> dict[str, Any]:
        """JSON values that :meth:`resume` takes."""
        return {
            "seconds": self._clock() - self._began,
            "epochs": self._epochs,
            **{name: getattr(self, name) for name in (*_KEPT, "_learned")},
        }

    def resume(self, state: Mapping[str, Any], *, done: int) -> None:
        """Continue from the state of another training, with the epochs and the time of this one (CKP-9).

        Args:
            state: From :meth:`state`.
            done: Epochs that are done in it.

        Raises:
            ContractError: ``checkpoint.budget``, no epoch is left.
        """
        for name in (*_KEPT, "_learned"):
            setattr(self, name, state[name])
        more = self._epochs - state["epochs"]
        if more:
            planned = self.last_epoch - self.first_epoch
            self.last_epoch += more
            self.steps = max(1, self.steps * (planned + more) // planned)
        if self.last_epoch <= done:
            raise no_epoch_left("training", done=done, epochs=self._epochs)
        if self._limit is not None:
            self._limit += state["seconds"]
        self._began, self.resumed = self._clock() - state["seconds"], True

    def fraction(self, step: int) -> float:
        """Fraction of the present attempt that is done at a step: of the steps or of the time, whichever is more."""
        return min(1.0, max((step - self.first_step) / self.steps, self._elapsed))

    def collapsed(self, val_loss: float, *, epoch: int, step: int, ending: bool) -> bool:
        """Whether to restart after this epoch; never twice.

        Args:
            val_loss: Of this epoch.
            epoch: Number of epochs done.
            step: Number of steps done.
            ending: Whether training would end here.
        """
        if self.interrupted_by:
            return False
        self._learned = self._learned or not no_better_than_uniform(val_loss, self.uniform_loss)
        if self.restarts or self._learned or not (ending or self.fraction(step) >= JUDGED_FROM):
            return False
        if self._limit is not None and 1 - self._elapsed < LEAST_LEFT:  # agreed by all processes
            return False
        self.restarts, self.first_epoch = 1, epoch
        self.last_epoch = epoch + max(self._epochs - epoch, math.ceil(LEAST_LEFT * self._epochs))
        self.reason = (
            f"val_loss {val_loss:.4g} after epoch {epoch} of {self._epochs} was not below {COLLAPSE_FRACTION:g} of a "
            f"uniform object's {self.uniform_loss:.4g}"
        )
        return True

    def restart(self, step: int, steps: int) -> None:
        """Start the second attempt: slower, with the steps and the time that are left; time never exceeds the limit.

        Args:
            step: Steps done.
            steps: Steps of the second attempt.
        """
        if self._limit is not None:
            self._limit = max(self._seconds_left(self._limit), _SOON)
        self._began, self._elapsed, self.first_step, self.steps = self._clock(), 0.0, step, max(1, steps)
        self.rate, self.stage = SLOWER, "training again"

    def _seconds_left(self, limit: float) -> float:
        return limit - (self._clock() - self._began)
