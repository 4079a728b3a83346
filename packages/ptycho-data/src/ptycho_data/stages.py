"""Stages of a run: how far they are, and their wall and CPU time."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the amount done, and the total."""


@dataclass(frozen=True, eq=False)
class Picture:
    """The object as it is during the work.

    Attributes:
        object: (H, W) complex64.
        weight: (H, W) float32, summed illumination.
    """

    object: NDArray[np.complex64]
    weight: NDArray[np.float32]


class Watcher(ABC):
    """A callback for progress that also hears of the beginning of stages, of the loss and of the object."""

    @abstractmethod
    def __call__(
        self, stage: str, done: int, total: int, *, loss: Any = None, picture: Callable[[], Picture] | None = None
    ) -> None:
        """Hear of progress.

        Args:
            stage, done, total: As of any callback; a total of 0: the stage begins, or nothing in it is counted.
            loss: Of the last step, or their mean over the epoch so far, as anything that ``float`` takes; to read it
                may cost a transfer from a GPU.
            picture: Gives the object as it is now; to call it costs a copy.
        """


def tell(
    progress: Progress | None,
    stage: str,
    done: int,
    total: int,
    *,
    loss: Any = None,
    picture: Callable[[], Picture] | None = None,
) -> None:
    """Report progress, if there is a callback; loss and picture only to one that watches."""
    if isinstance(progress, Watcher):
        progress(stage, done, total, loss=loss, picture=picture)
    elif progress is not None:
        progress(stage, done, total)


def begin(progress: Progress | None, stage: str) -> None:
    """Tell a callback that watches that a stage begins."""
    if isinstance(progress, Watcher):
        progress(stage, 0, 0)


def changed(progress: Progress | None, change: Callable[[str, int, int], tuple[str, int, int]]) -> Progress | None:
    """A callback that reports to another one what ``change`` makes of stage, amount done and total."""
    return None if progress is None else _Changed(progress, change)


class _Changed(Watcher):
    def __init__(self, progress: Progress, change: Callable[[str, int, int], tuple[str, int, int]]) -> None:
        self._progress, self._change = progress, change

    def __call__(self, stage: str, done: int, total: int, **told: Any) -> None:
        new_stage, new_done, new_total = self._change(stage, done, total)
        if total:
            tell(self._progress, new_stage, new_done, new_total, **told)
        else:
            begin(self._progress, new_stage)


@dataclass
class Stages:
    """Wall and CPU seconds of each stage of a run.

    Attributes:
        seconds, cpu_seconds: By stage.
        progress: Hears of the beginning of each, if it watches.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    progress: Progress | None = None

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of a with-block to a stage."""
        begin(self.progress, name)
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - wall
        self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + time.process_time() - cpu

    def rate(self, patterns: int, stage: str) -> float | None:
        """Patterns per CPU second of a stage; None if it took no time."""
        cpu = self.cpu_seconds.get(stage, 0.0)
        return patterns / cpu if cpu > 0 else None
