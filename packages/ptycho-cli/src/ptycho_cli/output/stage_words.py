"""What a stage of a run is at, in words: amount, rate, time left, loss (specs/cli.md, CLI-24)."""

from __future__ import annotations

from collections import deque

LEAST_SECONDS = 1.0
"""A stage in which nothing is counted is mentioned in the end if it took so long."""
_WINDOW_SECONDS, _SAMPLE_SECONDS = 30.0, 0.5
"""The rate is that of the last 30 s: first steps are slow, and other programs come and go."""
_LEAST_RATED_SECONDS = 0.1
_BYTES = "bytes"
_KNOWN = {
    "compare": ("store", _BYTES),
    "write": ("store", _BYTES),
    "resume": ("store", _BYTES),
    "commit": (None, ""),
    "verify": ("verify", _BYTES),
    "simulate": ("simulate", "patterns"),
    "groups": ("inference", "groups"),
    "residuals": ("residuals", "patterns"),
    "orientation": ("orientation", "orientations"),
    "probe search": ("probe search", "probes"),
}
"""Stages of the libraries that have another name here, or count something other than steps."""
_PREFIXES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def label_of(stage: str) -> str | None:
    """Name of a stage as it is shown; None: it is not.

    >>> [label_of(stage) for stage in ("half a: write", "training", "commit")]
    ['half a: store', 'training', None]
    """
    part, colon, name = stage.rpartition(": ")
    label = _KNOWN.get(name, (name,))[0]
    return None if label is None else part + colon + label


class Stage:
    """A stage that runs, or has ended.

    Args:
        stage: Its name in the libraries.
        began: When, in seconds of the clock.

    Attributes:
        label: Its name as it is shown.
        done, total: Amounts; 0 in all if nothing is counted.
        loss, loss_step: Of the last step that was asked for it; None: unknown.
        ended: Whether it was said to have ended.
    """

    def __init__(self, stage: str, *, began: float) -> None:
        self.label, self._unit = label_of(stage) or stage, ""
        self.began, self.done, self.total = began, 0, 0
        self.loss: float | None = None
        self.loss_step = 0
        self.ended = False
        self._samples = deque[tuple[float, int]]()
        self._first: tuple[float, int] | None = None

    def goes_on(self, label: str, done: int, total: int) -> bool:
        """Whether a report is of this stage, and not of another one or of the same once more."""
        return label == self.label and (not self.total or (total == self.total and done >= self.done))

    def hear(self, stage: str, done: int, total: int, now: float) -> None:
        """Note the amount that is done, as the libraries report it."""
        self.done, self.total = done, total
        self._unit = _KNOWN.get(stage.rpartition(": ")[2], (None, "steps"))[1]
        if not total:
            return
        if self._first is None:
            self._first = (now, done)  # what was done before, by an earlier run too, says nothing of the rate
        if not self._samples or now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, done))
        while len(self._samples) > 1 and now - self._samples[0][0] > _WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def part(self) -> float | None:
        """Fraction that is done; None if nothing is counted."""
        return self.done / self.total if self.total else None

    def now(self, now: float, ends: float | None = None) -> str:
        """A line of a log about a stage that runs.

        Args:
            ends: When a time limit ends the run.
        """
        if not self.total:
            elapsed = now - self.began
            return self.label + (f": {duration(elapsed)}" if elapsed >= LEAST_SECONDS else "")
        words = [self._amount(unit=True), self._rate(self._recent(now)), self._left(now, ends), self._loss()]
        return f"{self.label}: " + ", ".join(filter(None, words))

    def moving(self, now: float, ends: float | None = None) -> str:
        """What stands behind the bar of a terminal."""
        if not self.total:
            return duration(now - self.began)
        words = [self._amount(unit=False), self._rate(self._recent(now)), self._left(now, ends), self._loss()]
        return "  ".join(filter(None, words))

    def in_the_end(self, now: float) -> str:
        """The line that stays when the stage has ended."""
        took = duration(now - self.began)
        if not self.total:
            return f"{self.label}: {took}"
        words = [self._amount(unit=True), self._rate(self._since(self._first, now)), took, self._loss()]
        return f"{self.label}: " + ", ".join(filter(None, words))

    def _recent(self, now: float) -> float | None:
        return self._since(self._samples[0] if self._samples else None, now)

    def _since(self, start: tuple[float, int] | None, now: float) -> float | None:
        """Amount per second since a sample; None: unknown."""
        if start is None or now - start[0] < _LEAST_RATED_SECONDS or self.done <= start[1]:
            return None
        return (self.done - start[1]) / (now - start[0])

    def _amount(self, *, unit: bool) -> str:
        if self._unit == _BYTES:
            size, name = _prefix(self.total)
            return f"{self.done / size:.3g}/{self.total / size:.3g} {name}"
        return f"{self.done:,}/{self.total:,}" + (f" {self._unit}" if unit else "")

    def _rate(self, rate: float | None) -> str:
        if rate is None:
            return ""
        if self._unit == _BYTES:
            size, name = _prefix(rate)
            return f"{rate / size:.3g} {name}/s"
        return (f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}") + f" {self._unit}/s"

    def _left(self, now: float, ends: float | None) -> str:
        rate = self._recent(now)
        if rate is None or (ends is not None and now >= ends):  # what is done after the limit takes its own time
            return ""
        left = (self.total - self.done) / rate
        return duration(left if ends is None else min(left, ends - now)) + " left"

    def _loss(self) -> str:
        return "" if self.loss is None else f"loss {self.loss:.4g}"


def duration(seconds: float) -> str:
    """A time in words.

    >>> [duration(seconds) for seconds in (0.42, 59.9, 61, 3700)]
    ['0.4 s', '60 s', '1:01 min', '1:01:40 h']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 61:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


def _prefix(amount: float) -> tuple[float, str]:
    return next(((size, name) for size, name in _PREFIXES if amount >= size), (1.0, "B"))
