"""Pictures of a reconstruction: amplitude, phase, coverage, probe modes, losses (specs/cli.md, CLI-11, CLI-23)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ptycho_contracts.records import Reconstruction

from ptycho_cli.plots.figures import Figure
from ptycho_cli.plots.losses import draw_losses
from ptycho_cli.plots.maps import contrast, draw_map, draw_view, save
from ptycho_cli.plots.phases import flattening
from ptycho_cli.plots.probes import probe_figure
from ptycho_cli.plots.views import View, view, whole

_DOTS_AT_FULL_SIZE = 400


def draw_run(reconstruction: Reconstruction, summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write :func:`draw_reconstruction` and, if epochs were run, ``losses.png``; returns their paths."""
    written = draw_reconstruction(reconstruction, folder)
    return [*written, draw_losses(summary, folder / "losses.png")] if summary.get("losses") else written


def draw_reconstruction(reconstruction: Reconstruction, folder: Path) -> list[Path]:
    """Write ``amplitude.png``, ``phase.png``, ``coverage.png`` and ``probe.png``; returns their paths."""
    shown, written = view(reconstruction), []
    for name in ("amplitude", "phase"):
        figure = Figure(figsize=_size_of(shown), layout="constrained")
        draw_part(figure, figure.add_subplot(), reconstruction, name)
        written.append(save(figure, folder / f"{name}.png", side_px=max(shown.shape)))
    written.append(save(coverage_figure(reconstruction), folder / "coverage.png"))
    modes = probe_figure(reconstruction.probe, pixel_size_m=reconstruction.pixel_size_m)
    return [*written, save(modes, folder / "probe.png")]


def reconstruction_figure(reconstruction: Reconstruction) -> Figure:
    """Amplitude and phase of an object beside each other."""
    width, height = _size_of(view(reconstruction))
    figure = Figure(figsize=(2 * width, height), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("amplitude", "phase"), strict=True):
        draw_part(figure, axes, reconstruction, name)
    return figure


def draw_part(figure: Figure, axes: Any, reconstruction: Reconstruction, name: str) -> None:
    """``"amplitude"`` or ``"phase"`` of an object."""
    shown = view(reconstruction)
    title = f"object {name}, {shown.size}"
    if name == "amplitude":
        picture, label = np.abs(reconstruction.object), "amplitude"
    else:
        flat = flattening(reconstruction.object, shown)
        picture, label = flat.phase(reconstruction.object), "phase [rad]"
        title += f"\n{flat.words(shown)}"
    draw_view(figure, axes, picture, contrast(picture, shown.well_lit), shown, label=label)
    axes.set_title(title, fontsize=9)


def coverage_figure(reconstruction: Reconstruction) -> Figure:
    """Summed illumination of the whole canvas, the positions, and the outline of what the pictures show."""
    canvas, shown = whole(reconstruction), view(reconstruction)
    figure = Figure(figsize=_size_of(canvas), layout="constrained")
    axes = figure.add_subplot()
    weight, extent = reconstruction.weight, canvas.extent
    picture = np.ma.masked_array(weight, weight <= 0)
    limits = (0.0, max(float(weight.max()), 1e-12))
    draw_map(
        figure, axes, picture, limits, extent=extent, unit=canvas.unit, label="illumination [counts]", cmap="viridis"
    )
    x, y = reconstruction.positions_px.T * canvas.per_px
    axes.scatter(x, y, s=6 * min(1.0, _DOTS_AT_FULL_SIZE / len(x)), c="black", linewidths=0)
    if shown.scanned.any() and not shown.scanned.all():
        height, width = weight.shape
        columns = extent[0] + (np.arange(width) + 0.5) * canvas.per_px
        rows = extent[3] + (np.arange(height) + 0.5) * canvas.per_px
        axes.contour(columns, rows, shown.scanned, [0.5], colors="white", linewidths=1.0)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.set_title(f"{len(x)} positions; white line: what the pictures show, {shown.size}", fontsize=9)
    return figure


def _size_of(shown: View) -> tuple[float, float]:
    """Width and height of a figure in inches, for the shape of its image."""
    height, width = shown.shape
    return 7.0, min(max(5.2 * height / width, 2.0), 8.0) + 0.9
