"""Progress on stderr: bars on a terminal, otherwise one line per finished stage (specs/cli.md, CLI-24)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Progress = Callable[[str, int, int], None]


@contextmanager
def progress_on(*, quiet: bool = False, stream: TextIO | None = None) -> Iterator[Progress | None]:
    """A callback ``(stage, done, total)`` for the libraries, or None when quiet."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        yield None
    elif stream.isatty():
        with _bars(stream) as callback:
            yield callback
    else:
        yield _lines(stream)


def _lines(stream: TextIO) -> Progress:
    finished: set[tuple[str, int]] = set()

    def callback(stage: str, done: int, total: int) -> None:
        if done >= total and (stage, total) not in finished:
            finished.add((stage, total))
            print(f"{stage}: {done}/{total}", file=stream, flush=True)

    return callback


@contextmanager
def _bars(stream: TextIO) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(file=stream)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    tasks: dict[str, object] = {}
    with Bars(*columns, console=console) as bars:

        def callback(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield callback
