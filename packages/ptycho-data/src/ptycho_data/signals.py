"""Ctrl-C and SIGTERM end work after its present step (specs/training.md, TRN-17; specs/cli.md, CLI-37)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal ended the work.

    Attributes:
        number: Of the signal.
        kept: What was kept, in words.
    """

    def __init__(self, number: int, kept: str = "") -> None:
        super().__init__(kept or signal.Signals(number).name)
        self.number, self.kept = number, kept


class Waiting:
    """Signals that wait for the end of a with-block.

    Attributes:
        number: Of the first signal that came; 0 before.
        waits: Whether there is such a block.
    """

    def __init__(self) -> None:
        self.number, self.waits = 0, False

    def install(self) -> None:
        """Take the place of the present handlers: libraries replace them while they work."""
        self.waits = True
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may, and only it receives signals
        for number in NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number:  # a second one does not wait
            raise Interrupted(number)
        self.number = number


@contextmanager
def signals_wait() -> Iterator[Waiting]:
    """A with-block in which Ctrl-C and SIGTERM wait; ask ``number`` whether one has come. A second one does not wait.

    Raises:
        Interrupted: after the block, if it ended normally with a signal that came and ``number`` was not set back to 0.
    """
    waiting = Waiting()
    before = {number: signal.getsignal(number) for number in NUMBERS}
    waiting.install()
    try:
        yield waiting
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
    if waiting.number:
        raise Interrupted(waiting.number)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """A with-block that SIGTERM ends as Ctrl-C does: by an exception, so that files are put in order."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
