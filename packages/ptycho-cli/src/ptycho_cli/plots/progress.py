"""A small picture of a run that goes on (specs/cli.md, CLI-51)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from ptycho_data.stages import Picture

from ptycho_cli.plots.maps import contrast, draw_map
from ptycho_cli.plots.phases import flattening
from ptycho_cli.plots.views import view_of

_DPI = 80
_FEW = 30
_MOST_PX = 600
"""Most pixels of a side that are drawn: a preview is small."""


def draw_preview(
    picture: Picture | None, losses: Sequence[tuple[float, float]], title: str, path: Path, *, mark: str
) -> None:
    """Amplitude and phase of the object, and the losses of the stage; what is not known is left out.

    Args:
        picture: Of the object.
        losses: Steps and losses.
        title: What the run is at.
        path: Of the PNG.
        mark: Written into the file's metadata.
    """
    parts: list[Any] = [] if picture is None else ["amplitude", "phase"]
    parts += ["loss"] if losses else []
    figure = Figure(figsize=(4.5 * len(parts), 4.2), layout="constrained")
    panels = dict(zip(parts, np.ravel(figure.subplots(1, len(parts))), strict=True))
    if picture is not None:
        _draw_object(figure, panels, *_thinned(picture))
    if losses:
        steps, values = zip(*losses, strict=True)
        axes = panels["loss"]
        axes.plot(steps, values, linewidth=1, marker="." if len(steps) < _FEW else "")
        axes.set(xlabel="step", title="loss", yscale="log" if min(values) > 0 else "linear")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=_DPI, format="png", metadata={"Software": mark})


def _draw_object(figure: Figure, panels: dict[str, Any], image: NDArray[Any], weight: NDArray[Any]) -> None:
    shown = view_of(weight)
    pictures = {"amplitude": np.abs(image), "phase": flattening(image, shown).phase(image)}
    for name, values in pictures.items():
        draw_map(figure, panels[name], shown.cut(values), contrast(values, shown.well_lit), clips=True)
        panels[name].set(title=f"object {name}", xticks=[], yticks=[], xlabel="", ylabel="")


def _thinned(picture: Picture) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """Every so many pixels of a large object."""
    step = -(-max(picture.object.shape) // _MOST_PX)
    return picture.object[::step, ::step], picture.weight[::step, ::step]
