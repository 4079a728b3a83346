"""Pictures of two images beside each other, and of FRC curves. Imported only when something is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ptycho_data.metrics.frc import crossing, half_period_m

from ptycho_cli.plots.figures import Figure
from ptycho_cli.plots.maps import contrast, draw_map, draw_view, save
from ptycho_cli.plots.phases import Flattening, flattening
from ptycho_cli.plots.views import View, view, view_of

if TYPE_CHECKING:
    from ptycho_contracts.records import Reconstruction
    from ptycho_data.metrics import Alignment, FrcCurve


def draw_comparison(
    alignment: Alignment,
    path: Path,
    *,
    names: tuple[str, str] = ("truth", "image"),
    image: Reconstruction | None = None,
) -> Path:
    """Write :func:`comparison_figure`."""
    return save(comparison_figure(alignment, names=names, image=image), path)


def comparison_figure(
    alignment: Alignment, *, names: tuple[str, str] = ("truth", "image"), image: Reconstruction | None = None
) -> Figure:
    """Amplitude and phase of both aligned images and their difference, over the scored pixels that were scanned.

    Args:
        names: Of the two images.
        image: What was aligned: its weight, origin and pixel size; default: all scored pixels are shown, in px.
    """
    shown = _view(alignment, image)
    flat = flattening(alignment.truth, shown)
    figure = Figure(figsize=(13, 8), layout="constrained")
    above, below = figure.subplots(2, 3)
    parts = np.abs(alignment.truth), np.abs(alignment.estimate)
    _row(figure, above, parts, parts[1] - parts[0], names, shown, "amplitude")
    _phase_row(figure, below, alignment, names, shown, flat)
    figure.suptitle(f"{shown.size}; of both images: {flat.words(shown)}", fontsize=10)
    return figure


def draw_prior(
    alignment: Alignment, maps: Mapping[str, Mapping[str, Any]], path: Path, *, image: Reconstruction | None = None
) -> Path:
    """What a prior adds: phase and residual map without it, with it, and their difference or ratio.

    Args:
        alignment: The image with the prior (estimate) beside the one without (truth).
        maps: ``with`` and ``without``, each as ``ResidualMap.to_dict`` gives it.
        path: Of the picture.
        image: As of :func:`comparison_figure`.
    """
    shown = _view(alignment, image)
    flat = flattening(alignment.truth, shown)
    figure = Figure(figsize=(13, 8), layout="constrained")
    above, below = figure.subplots(2, 3)
    _phase_row(figure, above, alignment, ("without the prior", "with the prior"), shown, flat)
    residual = {key: np.array(entry["residual"], float) for key, entry in maps.items()}
    extents = {key: tuple(edge * shown.per_px for edge in _extent(entry)) for key, entry in maps.items()}
    top = max(float(np.nanmax(values)) for values in residual.values())
    ratio = residual["with"] / residual["without"]
    span = max(float(np.nanmax(np.abs(ratio - 1))), 0.01)
    for axes, name, picture, scale, cmap, extent in (
        (below[0], "R without the prior", residual["without"], (0.0, top), "viridis", extents["without"]),
        (below[1], "R with the prior", residual["with"], (0.0, top), "viridis", extents["with"]),
        (below[2], "with over without", ratio, (1 - span, 1 + span), "RdBu_r", extents["with"]),
    ):
        draw_map(
            figure, axes, np.ma.masked_invalid(picture), scale, extent=extent, unit=shown.unit, label="R", cmap=cmap
        )
        axes.set_title(name, fontsize=10)
    figure.suptitle(f"{shown.size}; of both images: {flat.words(shown)}", fontsize=10)
    return save(figure, path)


def _view(alignment: Alignment, image: Reconstruction | None) -> View:
    return view_of(None, within=alignment.mask) if image is None else view(image, within=alignment.mask)


def _phase_row(
    figure: Figure, row: Any, alignment: Alignment, names: tuple[str, str], shown: View, flat: Flattening
) -> None:
    """Phases of both images on one cut, and of one relative to the other."""
    turned = np.angle(alignment.estimate * np.conj(alignment.truth))
    _row(
        figure, row, tuple(map(flat.phase, (alignment.truth, alignment.estimate))), turned, names, shown, "phase [rad]"
    )


def _row(
    figure: Figure, row: Any, images: tuple[Any, ...], difference: Any, names: tuple[str, str], shown: View, label: str
) -> None:
    """Two images on the grey scale of the first, and their difference."""
    limits = contrast(images[0], shown.well_lit)
    half = (limits[1] - limits[0]) / 2
    for axes, name, picture, scale, cmap in (
        (row[0], names[0], images[0], limits, "gray"),
        (row[1], names[1], images[1], limits, "gray"),
        (row[2], "difference", difference, (-half, half), "RdBu_r"),
    ):
        draw_view(figure, axes, picture, scale, shown, label=label, cmap=cmap)
        axes.set_title(name, fontsize=10)


def _extent(cells: Mapping[str, Any]) -> tuple[float, float, float, float]:
    x, y = cells["edges_x_px"], cells["edges_y_px"]
    return x[0], x[-1], y[-1], y[0]


def draw_frc(curves: Mapping[str, FrcCurve], path: Path, *, pixel_size_m: float | None = None) -> Path:
    """Write :func:`frc_figure`."""
    return save(frc_figure(curves, pixel_size_m=pixel_size_m), path)


def frc_figure(curves: Mapping[str, FrcCurve], *, pixel_size_m: float | None = None) -> Figure:
    """FRC curves over frequency, with the thresholds 0.5 and half-bit; the last curve's crossings are marked.

    Args:
        curves: By name.
        pixel_size_m: Side of an object pixel, or None: unknown.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    *_, last = curves.values()
    for name, curve in curves.items():
        colour, style = ("C0", "-") if curve is last else ("0.6", "-.")
        axes.plot(curve.frequency, curve.correlation, color=colour, linestyle=style, label=name)
    half, half_bit = (
        f"{name}, {_crossing(place, pixel_size_m)}"
        for name, place in (("0.5", last.resolution_half), ("half-bit", last.resolution_half_bit))
    )
    axes.axhline(0.5, color="C1", linestyle="--", linewidth=1, label=half)
    axes.plot(last.frequency, last.half_bit, color="C2", linestyle=(0, (1, 1)), linewidth=1.5, label=half_bit)
    for place, colour in ((last.resolution_half, "C1"), (last.resolution_half_bit, "C2")):
        if place is not None and crossing(place) == "crossed":
            axes.axvline(place, color=colour, linewidth=0.6, linestyle=":")
    axes.set_xlim(0, 1)
    lowest = min(float(np.nanmin(curve.correlation, initial=0.0)) for curve in curves.values())
    axes.set_ylim(lowest - 0.02, 1.02)
    axes.set_xlabel("spatial frequency [Nyquist]")
    axes.set_ylabel("Fourier ring correlation")
    axes.legend(fontsize=9)
    if pixel_size_m is not None:
        above = axes.twiny()
        above.set_xlim(0, 1)
        ticks = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0])
        above.set_xticks(ticks, [f"{1e9 * pixel_size_m / tick:.3g}" for tick in ticks])
        above.set_xlabel("half period [nm]")
    return figure


def _crossing(place: float | None, pixel_size_m: float | None) -> str:
    """Where a threshold is crossed, in words."""
    state = crossing(place)
    if state != "crossed":
        return state
    period = None if pixel_size_m is None else half_period_m(place, pixel_size_m)
    return f"crossed at {place:.3f}" + ("" if period is None else f": {1e9 * period:.3g} nm")
