"""Flat collapse: a network no better than empty space (specs/training.md, TRN-14, TRN-16)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

COLLAPSE_SHARE = 0.98
"""A val_loss above this share of a flat object's is a network that has learned nothing."""
JUDGED_FROM = 0.25
"""Share of the budget after which a training is judged: learning may begin late."""
LEAST_LEFT = 0.25
"""Share of the budget that a second attempt has at least."""
SLOWER = 1 / 3
"""Learning rate of the second attempt, beside that of the first."""


def is_flat(val_loss: float, flat_loss: float) -> bool:
    """Whether a loss is no better than that of empty space; NaN is no better."""
    return not val_loss < COLLAPSE_SHARE * flat_loss


def told_collapsed(provenance: Mapping[str, Any]) -> bool:
    """Whether a bundle's provenance, or a training's summary, says that the training collapsed."""
    training = provenance.get("training")
    return isinstance(training, Mapping) and bool(training.get("collapsed"))


class CollapseWatch:
    """Decides, once, whether a training begins anew.

    Args:
        flat_loss: Loss of empty space on the validation groups.
        epochs, max_seconds: The training's budget.

    Attributes:
        restarts: 0, or 1 after the decision.
        reason: Why, in words; None before.
    """

    def __init__(self, flat_loss: float, *, epochs: int, max_seconds: float | None = None) -> None:
        self.flat_loss = flat_loss
        self._epochs, self._max_seconds = epochs, max_seconds
        self._learned = False
        self.restarts = 0
        self.reason: str | None = None

    def collapsed(self, val_loss: float, *, epoch: int, share: float, ending: bool) -> bool:
        """Whether to begin anew after this epoch; never twice.

        Args:
            val_loss: Of this epoch.
            epoch: Number of epochs done.
            share: Share of the budget that is used.
            ending: Whether training would end here.
        """
        self._learned = self._learned or not is_flat(val_loss, self.flat_loss)
        if self.restarts or self._learned or not (ending or share >= JUDGED_FROM):
            return False
        self.restarts = 1
        self.reason = (
            f"val_loss {val_loss:.4g} after epoch {epoch} of {self._epochs} was not below {COLLAPSE_SHARE:g} of a flat "
            f"object's {self.flat_loss:.4g}"
        )
        return True

    def epochs_left(self, done: int) -> int:
        """Epochs of the second attempt."""
        return max(self._epochs - done, math.ceil(LEAST_LEFT * self._epochs))

    def seconds_left(self, used: float) -> float | None:
        """Seconds of the second attempt; None without a limit."""
        return None if self._max_seconds is None else max(self._max_seconds - used, LEAST_LEFT * self._max_seconds)
