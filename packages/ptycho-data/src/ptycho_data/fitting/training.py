"""Outcome of a training with any backend (specs/training.md, TRN)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ptycho_contracts.problems import Problem, WorkFailedError

from ptycho_data.fitting.attempts import Attempts, no_better_than_uniform

WEIGHT_DECAY = 1e-3
"""Of [AdamW] (TRN-6)."""
PATCH_VARIANCE = "patch_variance"
"""Name of the logged figure that indicates a collapse (TRN-14)."""


@dataclass(frozen=True)
class TrainingOutcome:
    """Outcome of a training.

    Attributes:
        epochs: Passes started.
        steps: Steps of the optimiser.
        losses: Last value of each logged metric.
        device: Where the model was trained.
        stopped_by: ``"epochs"``, ``"max_seconds"``, ``"early stopping"`` or ``"interrupted"``.
        uniform_loss: Loss of a uniform object on the validation groups.
        collapsed: Whether the trained network explains the validation groups no better than a uniform object.
        patch_variance: Variance of its estimate across the validation patterns (TRN-14).
        restarts: 0, or 1 if the training collapsed and was restarted (TRN-16).
        restart_reason: Why, in words, or None.
        interrupted_by: Number of the signal that ended it, or None.
        is_first_rank: Whether this process is the one that writes results.
    """

    epochs: int
    steps: int
    losses: Mapping[str, float]
    device: str
    stopped_by: str
    uniform_loss: float
    collapsed: bool
    patch_variance: float
    restarts: int
    restart_reason: str | None
    interrupted_by: int | None = None
    is_first_rank: bool = True


def training_outcome(
    attempts: Attempts,
    *,
    epochs: int,
    steps: int,
    losses: Mapping[str, float],
    kept: Mapping[str, float],
    device: str,
    stopped_early: bool,
    is_first_rank: bool = True,
) -> TrainingOutcome:
    """The outcome of a training whose attempts are over.

    Args:
        losses: Last value of each logged metric.
        kept: ``val_loss`` and ``patch_variance`` of the weights that are kept.
        stopped_early: Whether early stopping ended it.
    """
    stopped_by = "max_seconds" if attempts.expired else "early stopping" if stopped_early else "epochs"
    return TrainingOutcome(
        epochs=epochs,
        steps=steps,
        losses={name: float(value) for name, value in losses.items() if name != PATCH_VARIANCE},
        device=device,
        stopped_by="interrupted" if attempts.interrupted_by else stopped_by,
        uniform_loss=attempts.uniform_loss,
        collapsed=no_better_than_uniform(kept["val_loss"], attempts.uniform_loss),
        patch_variance=kept[PATCH_VARIANCE],
        restarts=attempts.restarts,
        restart_reason=attempts.reason,
        interrupted_by=attempts.interrupted_by or None,
        is_first_rank=is_first_rank,
    )


class TrainingInterrupted(Exception):
    """A training left its loop because a signal came; its state is in the last checkpoint.

    Not a KeyboardInterrupt, which Lightning turns into the end of the process.
    """


def training_diverged(found: str) -> WorkFailedError:
    """The error of a training whose loss or weights are not finite (TRN-11)."""
    return WorkFailedError(
        Problem(
            "training",
            "training.diverged",
            "a finite loss and finite weights",
            found,
            "lower `learning_rate`, or check the data with inspect",
        )
    )
