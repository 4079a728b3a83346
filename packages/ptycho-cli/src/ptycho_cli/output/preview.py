"""``preview.png``: what a run has of the object, renewed while it works (specs/cli.md, CLI-51)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.atomic_files import temporary_name
from ptycho_data.stages import Picture

from ptycho_cli.output.stage_words import Stage

PREVIEW = "preview.png"
FIRST_SECONDS, EVERY_SECONDS = 2.0, 10.0
"""Time from the first report with something to draw to the first picture, and between two pictures."""
MOST_TIME = 0.05
"""Part of the run's time that drawing may take."""
_MOST_LOSSES = 2000
MARK = "ptycho-cli preview"
"""In the metadata of the file: a picture of somebody else is not replaced."""


class Preview:
    """The picture and when it is due.

    Args:
        folder: Of the results.
        clock: Seconds.

    Raises:
        ContractError: ``output.exists``, somebody else's file of that name.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self._clock = folder / PREVIEW, clock
        self._due: float | None = None
        self._losses: list[tuple[float, float]] = []
        self._stage = ""
        self._picture: Picture | None = None
        self._drawn = False
        if self.path.exists() and not _is_ours(self.path):
            expected, remedy = f"no {PREVIEW}, or one of an earlier run", "rename it, or leave --preview out"
            raise ContractError(Problem(str(self.path), "output.exists", expected, "another file", remedy))

    def draw(self, stage: Stage, picture: Callable[[], Picture] | None) -> bool:
        """Draw the picture if it is due and there is anything to draw; whether it is the first one."""
        if stage.label != self._stage:
            self._stage, self._losses = stage.label, []
        if stage.loss is not None and (not self._losses or self._losses[-1][0] < stage.loss_step):
            self._losses.append((stage.loss_step, stage.loss))
            if len(self._losses) > _MOST_LOSSES:
                del self._losses[::2]
        began = self._clock()
        if picture is None and not self._losses:
            return False
        if self._due is None:
            self._due = began + FIRST_SECONDS
        if began < self._due:
            return False
        from ptycho_cli.plots.progress import draw_preview

        began = self._clock()  # once more: to import what draws takes longer than to draw
        temporary = self.path.with_name(temporary_name(PREVIEW))
        try:
            self._picture = self._picture if picture is None else picture()
            draw_preview(self._picture, self._losses, stage.now(began), temporary, mark=MARK)
            os.replace(temporary, self.path)
        except Exception:
            return False  # a full disk, an object of NaN: the work says itself whether it can go on, and why not
        finally:
            temporary.unlink(missing_ok=True)
            ended = self._clock()
            self._due = ended + max(EVERY_SECONDS, (ended - began) / MOST_TIME)
        first, self._drawn = not self._drawn, True
        return first

    def remove(self) -> None:
        """Remove the picture: the run has ended, and its results say more."""
        if self.path.exists() and _is_ours(self.path):  # also that of a run that was killed
            self.path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    with path.open("rb") as stream:
        return MARK.encode() in stream.read(4096)
