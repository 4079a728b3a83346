"""One image with colour bar, axes in nanometres or pixels, and scale bar (specs/cli.md, CLI-23)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from numpy.typing import NDArray

from ptycho_cli.plots.views import View

DPI, MOST_DPI = 120, 360
_SHARP_PX = 450
"""Side of an image that is drawn without loss at the usual resolution."""


def contrast(picture: Any, well_lit: NDArray[np.bool_]) -> tuple[float, float]:
    """Grey scale limits: 1st to 99th percentile of the well lit pixels, never empty."""
    values = np.asarray(picture)[well_lit]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(values, (1, 99)))
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    return low, high


def draw_view(
    figure: Figure,
    axes: Any,
    picture: NDArray[Any],
    limits: tuple[float, float],
    view: View,
    *,
    label: str = "",
    cmap: str = "gray",
) -> None:
    """The scanned part of a canvas, with a scale bar where lengths are known.

    Args:
        picture: (H, W), the whole canvas.
    """
    draw_map(
        figure, axes, view.cut(picture), limits, extent=view.extent, unit=view.unit, label=label, cmap=cmap, clips=True
    )
    draw_scale_bar(axes, view)


def draw_map(
    figure: Figure,
    axes: Any,
    picture: Any,
    limits: tuple[float, float],
    *,
    extent: Any = None,
    unit: str = "px",
    label: str = "",
    cmap: str = "gray",
    clips: bool = False,
) -> None:
    """One image with colour bar; masked pixels are hatched.

    Args:
        unit: Of the extent.
        clips: Whether the limits leave values out: the ends of the colour bar are then pointed.
    """
    axes.set_facecolor("white")
    axes.patch.set(hatch="////", edgecolor="0.8", linewidth=0)
    image = axes.imshow(
        picture, cmap=cmap, vmin=limits[0], vmax=limits[1], extent=extent, interpolation="antialiased", origin="upper"
    )
    axes.set_xlabel(f"x [{unit}]")
    axes.set_ylabel(f"y [{unit}]")
    figure.colorbar(image, ax=axes, label=label, shrink=0.85, extend="both" if clips else "neither")


def draw_scale_bar(axes: Any, view: View) -> None:
    """A bar of about a fifth of the width in the lower left corner; none in pixels."""
    if view.unit == "px":
        return
    length = round_length(view.shape[1] * view.per_px / 5)
    axes.add_artist(
        AnchoredSizeBar(
            axes.transData,
            length,
            f"{length:g} {view.unit}",
            "lower left",
            pad=0.4,
            borderpad=0.6,
            sep=4,
            size_vertical=view.shape[0] * view.per_px / 100,
            fontproperties=FontProperties(size=9),
        )
    )


def round_length(length: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is at most a length.

    >>> round_length(0.73)
    0.5
    """
    decade = 10.0 ** np.floor(np.log10(length))
    return float(f"{max(part for part in (1, 2, 5) if part * decade <= length * (1 + 1e-9)) * decade:.3g}")


def save(figure: Figure, path: Path, *, side_px: int = 0) -> Path:
    """Write a figure as PNG, finer for a larger image."""
    figure.savefig(path, dpi=min(max(DPI, DPI * side_px // _SHARP_PX), MOST_DPI), format="png")
    return path
