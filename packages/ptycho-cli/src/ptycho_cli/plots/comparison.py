"""Pictures of two images beside each other, FRC curves and losses. Imported only when something is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ptycho_cli.plots.maps import contrast, draw_map, save

if TYPE_CHECKING:
    from ptycho_data.metrics import Alignment, FrcCurve


def draw_comparison(alignment: Alignment, path: Path, *, names: tuple[str, str] = ("truth", "image")) -> Path:
    """Write :func:`comparison_figure`."""
    return save(comparison_figure(alignment, names=names), path)


def comparison_figure(alignment: Alignment, *, names: tuple[str, str] = ("truth", "image")) -> Figure:
    """Amplitude and phase of both aligned images and their difference, over the scored pixels."""
    mask = alignment.mask
    rotation = np.exp(-1j * np.angle(alignment.truth[mask].sum()))
    truth, image = alignment.truth * rotation, alignment.estimate * rotation
    turned = np.angle(image * np.conj(truth))
    figure = Figure(figsize=(13, 8), layout="constrained")
    panels = figure.subplots(2, 3)
    parts = (
        ("amplitude", np.abs(truth), np.abs(image), np.abs(image) - np.abs(truth)),
        ("phase [rad]", np.angle(truth), np.angle(image), turned),
    )
    for row, (label, expected, estimated, difference) in zip(panels, parts, strict=True):
        limits = contrast(expected, mask)
        half = (limits[1] - limits[0]) / 2
        for axes, name, picture, scale, cmap in (
            (row[0], names[0], expected, limits, "gray"),
            (row[1], names[1], estimated, limits, "gray"),
            (row[2], "difference", difference, (-half, half), "RdBu_r"),
        ):
            draw_map(figure, axes, np.ma.masked_array(picture, ~mask), scale, label=label, cmap=cmap)
            axes.set_title(name, fontsize=10)
    return figure


def draw_prior(alignment: Alignment, maps: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """What a prior adds: phase and residual map without it, with it, and their difference or ratio.

    Args:
        alignment: The image with the prior (estimate) beside the one without (truth).
        maps: ``with`` and ``without``, each as ``ResidualMap.to_dict`` gives it.
    """
    mask = alignment.mask
    rotation = np.exp(-1j * np.angle(alignment.truth[mask].sum()))
    alone, image = alignment.truth * rotation, alignment.estimate * rotation
    limits = contrast(np.angle(alone), mask)
    half = (limits[1] - limits[0]) / 2
    figure = Figure(figsize=(13, 8), layout="constrained")
    above, below = figure.subplots(2, 3)
    for axes, name, picture, scale, cmap in (
        (above[0], "without the prior", np.angle(alone), limits, "gray"),
        (above[1], "with the prior", np.angle(image), limits, "gray"),
        (above[2], "difference", np.angle(image * np.conj(alone)), (-half, half), "RdBu_r"),
    ):
        draw_map(figure, axes, np.ma.masked_array(picture, ~mask), scale, label="phase [rad]", cmap=cmap)
        axes.set_title(name, fontsize=10)
    residual = {key: np.array(entry["residual"], float) for key, entry in maps.items()}
    extents = {key: _extent(entry) for key, entry in maps.items()}
    top = max(float(np.nanmax(values)) for values in residual.values())
    ratio = residual["with"] / residual["without"]
    span = max(float(np.nanmax(np.abs(ratio - 1))), 0.01)
    for axes, name, picture, scale, cmap, extent in (
        (below[0], "R without the prior", residual["without"], (0.0, top), "viridis", extents["without"]),
        (below[1], "R with the prior", residual["with"], (0.0, top), "viridis", extents["with"]),
        (below[2], "with over without", ratio, (1 - span, 1 + span), "RdBu_r", extents["with"]),
    ):
        draw_map(figure, axes, np.ma.masked_invalid(picture), scale, extent=extent, label="R", cmap=cmap)
        axes.set_title(name, fontsize=10)
    return save(figure, path)


def _extent(cells: Mapping[str, Any]) -> tuple[float, float, float, float]:
    x, y = cells["edges_x_px"], cells["edges_y_px"]
    return x[0], x[-1], y[-1], y[0]


def draw_frc(curves: Mapping[str, FrcCurve], path: Path) -> Path:
    """Write :func:`frc_figure`."""
    return save(frc_figure(curves), path)


def frc_figure(curves: Mapping[str, FrcCurve]) -> Figure:
    """FRC curves over frequency, with the thresholds 0.5 and half-bit; the last curve's crossings are marked."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    *_, last = curves.values()
    for name, curve in curves.items():
        axes.plot(curve.frequency, curve.correlation, color="C0" if curve is last else "0.6", label=name)
    axes.axhline(0.5, color="C1", linestyle="--", linewidth=1, label=_crossing("0.5", last.resolution_half))
    axes.plot(last.frequency, last.half_bit, "C2--", linewidth=1, label=_crossing("half-bit", last.resolution_half_bit))
    for place, colour in ((last.resolution_half, "C1"), (last.resolution_half_bit, "C2")):
        if place is not None:
            axes.axvline(place, color=colour, linewidth=0.6, linestyle=":")
    axes.set_xlim(0, 1)
    lowest = min(float(np.nanmin(curve.correlation, initial=0.0)) for curve in curves.values())
    axes.set_ylim(lowest - 0.02, 1.02)
    axes.set_xlabel("spatial frequency [Nyquist]")
    axes.set_ylabel("Fourier ring correlation")
    axes.legend(fontsize=9)
    return figure


def draw_convergence(losses: Mapping[str, Sequence[float]], floor: float | None, path: Path) -> Path:
    """Loss of each epoch, with the Poisson floor of R where it is known."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, values in losses.items():
        axes.plot(np.arange(1, len(values) + 1), values, marker=".", label=name)
    if floor is not None:
        axes.axhline(floor, color="0.4", linestyle="--", linewidth=1, label=f"Poisson floor of R {floor:.4g}")
    axes.set_yscale("log" if all(value > 0 for values in losses.values() for value in values) else "linear")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")
    axes.legend(fontsize=9)
    return save(figure, path)


def _crossing(name: str, place: float | None) -> str:
    return f"{name} (undefined)" if place is None else f"{name}, crossed at {place:.3f}"
