"""When a command must have ended, and what was left out for that (specs/training.md, TIME)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Self

from ptycho_data.stages import Progress, Watcher, begin, tell

_TRIAL = 16
_LEAST_SECONDS = 1e-3
"""Limits of fits are positive."""


class TimeOver(Exception):
    """The time of a stage is over; whoever gave it that time goes on without its outcome."""


class Deadline:
    """The time that a command has; the stages ask how much of it is left.

    Args:
        seconds: From now on; None: any time.
        clock: Seconds.

    Attributes:
        shortened: What was shortened or left out, in words; shared with every part.

    >>> whole = Deadline(100.0, clock=lambda: 0.0)
    >>> whole.part(0.25).left(), whole.keeping(10.0).left(), Deadline().left()
    (25.0, 90.0, inf)
    """

    def __init__(self, seconds: float | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = math.inf if seconds is None else clock() + seconds
        self.shortened: list[str] = []

    @property
    def limited(self) -> bool:
        """Whether there is an end at all."""
        return self._end < math.inf

    @property
    def over(self) -> bool:
        """Whether it has passed."""
        return self.left() <= 0

    def left(self) -> float:
        """Seconds that are left, negative if it has passed; infinite without a limit."""
        return self._end - self._clock() if self.limited else math.inf

    def max_seconds(self) -> float | None:
        """What is left as the limit of a fit: positive, or None."""
        return max(self.left(), _LEAST_SECONDS) if self.limited else None

    def part(self, fraction: float) -> Self:
        """The end of a stage that may take this fraction of what is left."""
        return self._until(self._clock() + fraction * max(self.left(), 0.0) if self.limited else math.inf)

    def keeping(self, seconds: float) -> Self:
        """The end of what comes before other work of so many seconds; that has at most half of what is left."""
        return self._until(self._end - min(seconds, max(self.left(), 0.0) / 2) if self.limited else math.inf)

    def note(self, words: str) -> None:
        """Say what was shortened or left out."""
        self.shortened.append(words)

    def watched(self, progress: Progress | None) -> Progress | None:
        """A progress callback that ends the work that calls it when the time is over.

        Raises, when it is called: TimeOver.
        """
        return _Watched(progress, self) if self.limited else progress

    def affordable(self, count: int, trial: Callable[[int], Any]) -> int:
        """How many of some equal pieces of work there is time for, at least those of the trial.

        Args:
            count: Most of them.
            trial: Does so many of them; called only if there is a limit.
        """
        few = min(count, _TRIAL)
        if not self.limited or not few:
            return count
        possible = 0
        for _ in range(2):  # the first one may do what only first ones do
            began = self._clock()
            trial(few)
            taken = self._clock() - began
            possible = count if taken <= 0 else int(max(self.left(), 0.0) * few / taken)
            if not few <= possible < count:
                break
        return max(few, min(count, possible))

    def _until(self, end: float) -> Self:
        made = type(self)(clock=self._clock)
        made._end, made.shortened = min(end, self._end), self.shortened
        return made


class _Watched(Watcher):
    def __init__(self, progress: Progress | None, deadline: Deadline) -> None:
        self._progress, self._deadline = progress, deadline

    def __call__(self, stage: str, done: int, total: int, **told: Any) -> None:
        if total:
            tell(self._progress, stage, done, total, **told)
        else:
            begin(self._progress, stage)
        if self._deadline.over and done < total:
            raise TimeOver(stage)
