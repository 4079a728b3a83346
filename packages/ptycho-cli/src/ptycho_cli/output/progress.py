"""Progress on stderr: one live line on a terminal, else a line now and then (specs/cli.md, CLI-24)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ptycho_data.stages import Picture, Progress, Watcher

from ptycho_cli.output.preview import Preview
from ptycho_cli.output.stage_words import LEAST_SECONDS, Stage, label_of
from ptycho_cli.output.terminal import is_terminal, printable, width_of

FIRST_SECONDS, LINE_SECONDS = 0.5, 10.0
"""Time to the first line of a log, and between two lines."""
BLOCKS = "loading "
"""So begins the name of a stage in which no other thread may run: a log says at once that it begins."""
_LOSS_SECONDS = 0.2
_BEAT_SECONDS = 0.25


class Reporter(Watcher):
    """Keeps what a run is at; draws the preview if there is one. Shows nothing itself.

    Args:
        clock: Seconds.
        limit_s: Time limit of the run, which ends it earlier than its steps may say.
        preview: Hears of each report.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        limit_s: float | None = None,
        preview: Preview | None = None,
    ) -> None:
        self._clock, self._preview = clock, preview
        self._last = clock()
        self._ends = None if limit_s is None else self._last + limit_s
        self._stage: Stage | None = None
        self._lock = threading.RLock()
        self._loss_read = self._last - _LOSS_SECONDS

    def __call__(
        self, stage: str, done: int, total: int, *, loss: Any = None, picture: Callable[[], Picture] | None = None
    ) -> None:
        label = label_of(stage)
        if label is None:
            return
        lines = list[str]()
        with self._lock:
            now = self._clock()
            present = self._stage
            if present is None or not present.goes_on(label, done, total):
                lines += self._end(now)
                present = self._stage = Stage(stage, began=self._last if total else now)
                lines += self._begun(present)
            if loss is not None and (now - self._loss_read >= _LOSS_SECONDS or done >= total):
                # To read it may wait for a GPU.
                present.loss, present.loss_step, self._loss_read = float(loss), done, now
            present.hear(stage, done, total, now)
            self._last = now
            lines += self._end(now) if total and done >= total else self._due_line(now)
        if self._preview is not None and self._preview.draw(present, picture):
            lines.append(f"preview: {self._preview.path}")
        # Not under the lock: what draws has a lock of its own, and asks for this one.
        for line in lines:
            self.say(line)

    def close(self) -> None:
        """End the last stage."""
        with self._lock:
            lines = self._end(self._clock())
        for line in lines:
            self.say(line)

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def _end(self, now: float) -> list[str]:
        stage = self._stage
        if stage is None or stage.ended:
            return []
        stage.ended = True
        return [stage.in_the_end(now)] if stage.total or now - stage.began >= LEAST_SECONDS else []

    def _begun(self, stage: Stage) -> list[str]:
        """What to say of a stage that begins."""
        return []

    def _due_line(self, now: float) -> list[str]:
        """What to say of a stage that goes on."""
        return []


class Log(Reporter):
    """Whole lines without control characters: for each stage that ended, and every 10 s."""

    def __init__(self, stream: TextIO, **options: Any) -> None:
        super().__init__(**options)
        self._stream = stream
        self._due = self._last + FIRST_SECONDS

    def beat(self) -> None:
        """Show where the work is, if a line is due; called also while no work reports."""
        with self._lock:
            lines = self._due_line(self._clock())
        for line in lines:
            self.say(line)

    def say(self, line: str) -> None:
        self._stream.write(f"{printable(line)}\n")
        self._stream.flush()
        self._due = self._clock() + LINE_SECONDS

    def _begun(self, stage: Stage) -> list[str]:
        return [stage.label] if stage.label.startswith(BLOCKS) else []

    def _due_line(self, now: float) -> list[str]:
        if self._stage is None or self._stage.ended or now < self._due:
            return []
        return [self._stage.now(now, self._ends)]


class Terminal(Reporter):
    """A live line for the present stage, below a line for each that ended."""

    def __init__(self, stream: TextIO, **options: Any) -> None:
        super().__init__(**options)
        from ptycho_cli.output.live_line import LiveLine

        self._live = LiveLine(stream, self._words)

    def _words(self) -> tuple[str, str, float | None] | None:
        with self._lock:
            stage = self._stage
            if stage is None or stage.ended:
                return None
            return printable(stage.label), stage.moving(self._clock(), self._ends), stage.part

    def say(self, line: str) -> None:
        self._live.print(printable(line))

    def close(self) -> None:
        super().close()
        self._live.close()


@contextmanager
def progress_on(
    *,
    quiet: bool = False,
    stream: TextIO | None = None,
    first: str = "",
    limit_s: float | None = None,
    preview: Preview | None = None,
) -> Iterator[Progress | None]:
    """A callback for the libraries; None if there is nobody to hear it.

    Args:
        quiet: Show nothing.
        stream: Default: stderr.
        first: The first stage; a terminal shows it before anything is imported.
        limit_s: Time limit of the run.
        preview: Picture to draw, also of a quiet run.
    """
    import sys

    stream = sys.stderr if stream is None else stream
    options: dict[str, Any] = {"limit_s": limit_s, "preview": preview}
    if quiet and preview is None:
        yield None
        return
    reporter: Reporter
    ended = threading.Event()
    beats = None
    if quiet:
        reporter = Reporter(**options)
    elif is_terminal(stream):
        with _shown_at_once(stream, first):
            reporter = Terminal(stream, **options)
    else:
        reporter = log = Log(stream, **options)
        beats = threading.Thread(target=_beat, args=(log, ended), daemon=True)
    try:
        if first:
            reporter(first, 0, 0)
        if beats is not None:
            beats.start()
        yield reporter
    finally:
        ended.set()
        if beats is not None and beats.ident is not None:
            beats.join()
        reporter.close()
        if preview is not None:
            preview.remove()


def _beat(log: Log, ended: threading.Event) -> None:
    while not ended.wait(_BEAT_SECONDS):
        log.beat()


@contextmanager
def _shown_at_once(stream: TextIO, first: str) -> Iterator[None]:
    """A first sign of life while the library that draws is imported; gone afterwards."""
    stream.write(printable(first)[: width_of(stream) - 1])
    stream.flush()
    try:
        yield
    finally:
        stream.write("\r\x1b[2K")


def reading_words(paths: Any) -> str:
    """The stage in which files are read, with their size."""
    names = [os.path.basename(path) for path in paths]
    size = sum(os.path.getsize(path) for path in paths if os.path.isfile(path))
    shown = names[0] if len(names) == 1 else f"{len(names)} files"
    return f"reading {shown}" + (f" ({size / 1e6:,.1f} MB)" if size else "")
