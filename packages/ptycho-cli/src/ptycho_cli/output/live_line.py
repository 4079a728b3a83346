"""The line of a terminal that shows what a run is at, drawn by rich."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_PER_SECOND = 5
_LEAST_BAR, _MOST_BAR = 4, 40

Words = Callable[[], tuple[str, str, float | None] | None]
"""Gives label, words and fraction of what runs now; None: nothing."""


class LiveLine:
    """One line that is drawn anew several times a second, below what is printed.

    Args:
        stream: A terminal.
        words: Asked at each drawing, in another thread too.
    """

    def __init__(self, stream: TextIO, words: Words) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live = Live(_Line(words), console=self._console, refresh_per_second=_PER_SECOND, transient=True)
        self._live.start()

    def print(self, line: str) -> None:
        """Print a line that stays, wrapped at the width of the terminal."""
        self._console.print(Text(line))

    def close(self) -> None:
        """Remove the line."""
        self._live.stop()


class _Line:
    def __init__(self, words: Words) -> None:
        self._words = words

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._words()
        if shown is None:
            return
        label, words, part = shown
        # One column less than there are: a full line makes some terminals scroll.
        room = options.max_width - 1 - len(words) - 4
        name = Text(label, no_wrap=True, overflow="ellipsis")
        name.truncate(max(room, 8), overflow="ellipsis")
        bar = min(room - len(name), _MOST_BAR)
        line = Table.grid(padding=(0, 2, 0, 0))
        cells = [name, Text(words, no_wrap=True, overflow="ellipsis")]
        if bar >= _LEAST_BAR and part is not None:
            cells.insert(1, ProgressBar(total=1.0, completed=part, width=bar))  # type: ignore[arg-type]
        line.add_row(*cells)
        yield line
