"""The fit loop of a joint reconstruction: order, schedule, validation, stopping, checkpoints (PHY-27 to PHY-32).

NumPy only: a backend holds the parameters and takes the steps, with Adam [Adam].
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import Problem, WorkFailedError

from ptycho_data.fitting.checkpoints import Checkpoints, FitState, broken, no_epoch_left
from ptycho_data.fitting.priors import JUDGED_GAIN, RELEASED, TARGETS_PER_EPOCH, Prior
from ptycho_data.fitting.schedules import half_cosine
from ptycho_data.signals import Interrupted, Waiting, signals_wait
from ptycho_data.stages import Picture, Progress, tell

Arrays = Mapping[str, NDArray[np.float32]]
Moments = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32], int]]
"""Adam's [Adam] first and second moment and number of steps, by parameter; of those that have been stepped."""

_POSITIONS_WAIT = 0.1
"""Fraction of the fit after which positions start to move: before, there is no object to align them to."""


@dataclass(frozen=True)
class History:
    """How a fit went.

    Attributes:
        losses: Mean training loss of each epoch that was finished, and of the first one if the time limit cut it short.
        stopped_by: ``"epochs"``, ``"max_seconds"`` or ``"early stopping"``.
        val_losses: Validation loss of each epoch, also of one that the time limit cut short; empty without validation.
        best_epoch: Epoch, from 1, whose state is returned; None without validation: the last one's.
        resumed_from_epoch: Epochs that a checkpoint had; 0 for a fit from its beginning.
        checkpoints_written: Number of checkpoints.
    """

    losses: tuple[float, ...]
    stopped_by: str
    val_losses: tuple[float, ...] = ()
    best_epoch: int | None = None
    resumed_from_epoch: int = 0
    checkpoints_written: int = 0


class Fit(Protocol):
    """What a backend fits. Arrays that it returns are copies."""

    def step(self, rows: NDArray[np.int64], *, factor: float, positions_move: bool) -> Any:
        """One step on these patterns, rates times ``factor``; the loss before it, as anything that ``float`` takes."""

    def set_prior(self, fraction: float) -> None:
        """Let the prior act on the next steps as it does at this fraction of the fit, with the present object."""

    def loss(self, rows: NDArray[np.int64]) -> float:
        """Loss of these patterns, without a prior; changes nothing."""

    def parameters(self) -> Arrays:
        """All parameters by the names of CKP-3."""

    def restore(self, parameters: Arrays) -> None:
        """Set these parameters."""

    def moments(self) -> Moments:
        """Adam's state."""

    def restore_moments(self, moments: Moments) -> None:
        """Set this state of Adam."""


def fit_loop(
    fit: Fit,
    *,
    indices: NDArray[np.int64],
    epochs: int,
    batch_size: int,
    seed: int,
    max_seconds: float | None = None,
    validation: NDArray[np.int64] | None = None,
    patience: int | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
    stage: str = "reconstruction",
    prior: Prior | None = None,
    picture: Callable[[], Picture] | None = None,
) -> History:
    """Run all steps of a fit; it then holds the result.

    Args:
        fit: What is fitted.
        indices: Patterns to fit.
        epochs, batch_size, seed: Passes, patterns per step, seed of the order.
        max_seconds: The schedule ends after this wall time, if not earlier.
        validation: Patterns whose loss selects the epoch that is returned; default: none.
        patience: Epochs without a lower validation loss before the fit stops.
        checkpoints: Where the state is kept, and what to resume from.
        progress: Called as ``progress(stage, steps done, steps in all)``.
        prior: Of the object; default: none.
        picture: Gives the object as it is, to who watches the progress.

    Raises:
        WorkFailedError: the fit diverged, or a checkpoint could not be written.
        ContractError: a checkpoint that does not fit.
        Interrupted: Ctrl-C or SIGTERM, after the present step.
    """
    validation = np.sort(validation) if validation is not None and len(validation) else None
    loop = _Loop(
        fit,
        indices,
        validation,
        epochs,
        batch_size,
        seed,
        max_seconds,
        patience,
        checkpoints,
        progress,
        stage,
        prior,
        picture,
    )
    return loop.run()


@dataclass(eq=False)
class _Loop:
    """A fit in progress."""

    fit: Fit
    indices: NDArray[np.int64]
    validation: NDArray[np.int64] | None
    epochs: int
    batch_size: int
    seed: int
    max_seconds: float | None
    patience: int | None
    checkpoints: Checkpoints | None
    progress: Progress | None
    stage: str
    prior: Prior | None
    picture: Callable[[], Picture] | None
    losses: list[float] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    best_epoch: int = 0
    best: Arrays = field(default_factory=dict)
    written: int = 0
    checkpointed: int = 0
    unwritten: FitState | None = None
    signals: Waiting = field(default_factory=Waiting)
    began: float = 0.0

    def run(self) -> History:
        self.began = time.monotonic()
        resumed = self._resume()
        stopped_by = None
        with signals_wait() as self.signals:
            while stopped_by is None:
                stopped_by = self._stopped() or (None if self._epoch() else "max_seconds")
            if stopped_by == "max_seconds" and self.checkpoints is not None and self.unwritten is not None:
                self._write(self.checkpoints, self.unwritten)
        if not all(np.isfinite(value).all() for value in self.fit.parameters().values()):
            # The last steps, whose loss is not known yet, may have diverged.
            raise self._diverged("NaN or infinite values in what was fitted")
        if self.best_epoch != len(self.val_losses):
            self.fit.restore(self.best)
        return History(
            losses=tuple(self.losses),
            stopped_by=stopped_by,
            val_losses=tuple(self.val_losses),
            best_epoch=self.best_epoch or None,
            resumed_from_epoch=resumed,
            checkpoints_written=self.written,
        )

    def _stopped(self) -> str | None:
        if len(self.losses) >= self.epochs:
            return "epochs"
        waited = len(self.val_losses) - self.best_epoch
        return "early stopping" if self.patience is not None and self.val_losses and waited >= self.patience else None

    def _epoch(self) -> bool:
        """One pass; False if the time limit ended the fit."""
        epoch, batches = len(self.losses), math.ceil(len(self.indices) / self.batch_size)
        steps, values = self.epochs * batches, list[Any]()
        # The order of an epoch depends on seed and epoch alone, not on the epochs before.
        order = np.random.default_rng((self.seed, epoch)).permutation(self.indices)
        for done, batch in enumerate(np.array_split(order, batches), epoch * batches):
            elapsed = 0.0 if self.max_seconds is None else self._seconds() / self.max_seconds
            if elapsed >= 1 and (self.losses or values):
                if not self.losses:  # a first epoch that is cut short is all that there is
                    self._close(values)
                if values:
                    self._validate()
                return False
            fraction = max(done / steps, min(elapsed, 1.0))
            factor = half_cosine(fraction)
            if self.prior is not None and (done - epoch * batches) % math.ceil(batches / TARGETS_PER_EPOCH) == 0:
                # Also at the first step of an epoch, where a fit may resume: what the prior draws to is not kept.
                self.fit.set_prior(fraction)
            values.append(self.fit.step(np.sort(batch), factor=factor, positions_move=fraction >= _POSITIONS_WAIT))
            tell(self.progress, self.stage, done + 1, steps, loss=values[-1], picture=self.picture)
            if self.signals.number:
                raise Interrupted(self.signals.number, self._kept())
        self._close(values)
        self._validate()
        if self.checkpoints is not None and self.checkpoints.due():
            self._write(self.checkpoints, self._state())
        elif self.checkpoints is not None and self.max_seconds is not None:
            self.unwritten = self._state()  # a run that the time limit ends in the next epoch resumes from here
        return True

    def _write(self, checkpoints: Checkpoints, state: FitState) -> None:
        checkpoints.write(state)
        self.written, self.checkpointed, self.unwritten = self.written + 1, state.epoch, None

    def _close(self, values: list[Any]) -> None:
        """Note the loss of an epoch."""
        self.losses.append(float(np.mean([float(value) for value in values])))
        if not math.isfinite(self.losses[-1]):
            raise self._diverged(f"a loss of {self.losses[-1]} in epoch {len(self.losses)}")

    def _validate(self) -> None:
        if self.validation is None:
            return
        batches = math.ceil(len(self.validation) / self.batch_size)
        value = float(np.mean([self.fit.loss(rows) for rows in np.array_split(self.validation, batches)]))
        if not math.isfinite(value):
            raise self._diverged(f"a validation loss of {value} in epoch {len(self.val_losses) + 1}")
        judged, acts = self.prior is not None and self.prior.judged, RELEASED * self.epochs
        gain = JUDGED_GAIN if judged and self.best_epoch <= acts < len(self.losses) else 1.0
        lower = not self.val_losses or value < gain * self.val_losses[self.best_epoch - 1]
        self.val_losses.append(value)
        if lower:
            self.best_epoch, self.best = len(self.val_losses), self.fit.parameters()

    def _state(self) -> FitState:
        moments = self.fit.moments()
        arrays = dict(self.fit.parameters())
        for name, (first, second, _) in moments.items():
            arrays |= {f"{name}.first": first, f"{name}.second": second}
        if self.best_epoch != len(self.val_losses):
            arrays |= {f"best.{name}": value for name, value in self.best.items()}
        return FitState(
            arrays=arrays,
            epoch=len(self.losses),
            steps={name: steps for name, (_, _, steps) in moments.items()},
            losses=tuple(self.losses),
            val_losses=tuple(self.val_losses),
            best_epoch=self.best_epoch,
            seconds=self._seconds(),
        )

    def _resume(self) -> int:
        """Set the state of a checkpoint, if there is one to resume from; the number of its epochs."""
        state = None if self.checkpoints is None else self.checkpoints.state
        if state is None or self.checkpoints is None:
            return 0
        parameters = self.fit.parameters()
        names = list(parameters)
        moments = [f"{name}.{which}" for name in state.steps for which in ("first", "second")]
        best = [f"best.{name}" for name in names] if state.best_epoch != len(state.val_losses) else []
        shapes = {
            name: parameters[name.removeprefix("best.").split(".")[0]].shape
            for name in (*names, *moments, *best)
            if name.removeprefix("best.").split(".")[0] in parameters
        }
        kept = {name: value.shape for name, value in state.arrays.items()}
        if kept != shapes or state.epoch != len(state.losses):
            raise broken(self.checkpoints.path, "tensors of another fit")
        if state.epoch > self.epochs:
            raise no_epoch_left(self.stage, done=state.epoch, epochs=self.epochs)
        self.fit.restore({name: state.arrays[name] for name in names})
        self.fit.restore_moments(
            {
                name: (state.arrays[f"{name}.first"], state.arrays[f"{name}.second"], steps)
                for name, steps in state.steps.items()
            }
        )
        self.losses, self.val_losses = list(state.losses), list(state.val_losses)
        self.best_epoch = state.best_epoch
        self.best = {name: state.arrays[f"best.{name}" if best else name] for name in names}
        self.began -= state.seconds
        if self.max_seconds is not None:  # the schedule goes on over the time before and that of this run
            self.max_seconds += state.seconds
        self.checkpointed = state.epoch
        return state.epoch

    def _kept(self) -> str:
        """What an interrupted fit leaves, in words."""
        epochs = self.checkpointed
        if self.checkpoints is None or not epochs:
            return ""
        return f"the state after epoch {epochs} is {self.checkpoints.path}: `resume` continues from there"

    def _seconds(self) -> float:
        return time.monotonic() - self.began

    def _diverged(self, found: str) -> WorkFailedError:
        return WorkFailedError(
            Problem(
                self.stage,
                "descent.diverged",
                "a finite fit",
                found,
                "lower the learning rates or check the data with inspect",
            )
        )
