"""Wall and CPU time of the stages of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the amount done, and the total."""


@dataclass
class Stages:
    """Wall and CPU seconds of each stage of a run."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of a with-block to a stage."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - wall
        self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + time.process_time() - cpu

    def rate(self, patterns: int, stage: str) -> float | None:
        """Patterns per CPU second of a stage; None if it took no time."""
        cpu = self.cpu_seconds.get(stage, 0.0)
        return patterns / cpu if cpu > 0 else None
