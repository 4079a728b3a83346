"""Pictures of a scan: mean pattern, probe, positions. Imported only when something is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ptycho_contracts.records import Scan
from ptycho_data.checks.quality import ScanFacts, gather

from ptycho_cli.plots.figures import Figure
from ptycho_cli.plots.maps import draw_map, save
from ptycho_cli.plots.probes import draw_mode, probe_figure
from ptycho_cli.plots.views import scale_for


def draw_scan(scan: Scan, facts: ScanFacts, folder: Path) -> list[Path]:
    """Write ``mean_pattern.png``, ``positions.png`` and, where there is one, ``probe.png``."""
    written = [_mean_pattern(scan, facts, folder), _positions(scan, folder)]
    if scan.probe is None:
        return written
    return [*written, save(probe_figure(scan.probe, pixel_size_m=scan.pixel_size_m), folder / "probe.png")]


def scan_figure(scan: Scan) -> Figure:
    """Mean pattern, positions and, if there is one, the main mode of the probe, beside each other."""
    panels = 2 if scan.probe is None else 3
    figure = Figure(figsize=(5.5 * panels, 5), layout="constrained")
    axes = figure.subplots(1, panels)
    draw_mean_pattern(figure, axes[0], scan, gather(scan))
    draw_positions(axes[1], scan)
    if scan.probe is not None:
        draw_mode(figure, axes[2], scan.probe[0], pixel_size_m=scan.pixel_size_m)
    return figure


def _mean_pattern(scan: Scan, facts: ScanFacts, folder: Path) -> Path:
    figure = Figure(figsize=(6, 5), layout="constrained")
    draw_mean_pattern(figure, figure.add_subplot(), scan, facts)
    return save(figure, folder / "mean_pattern.png")


def draw_mean_pattern(figure: Figure, axes: Any, scan: Scan, facts: ScanFacts) -> None:
    """Logarithm of the mean pattern, with lines that cross at zero frequency."""
    picture = np.log10(facts.mean_pattern + 1 / len(scan))
    limits = (float(picture.min()), max(float(picture.max()), float(picture.min()) + 1e-6))
    draw_map(figure, axes, picture, limits, label="log10 mean counts", cmap="magma")
    axes.axhline(scan.N // 2, color="white", linewidth=0.4)
    axes.axvline(scan.N // 2, color="white", linewidth=0.4)
    axes.set_title(f"mean of {len(scan)} patterns; lines cross at zero frequency", fontsize=10)


def _positions(scan: Scan, folder: Path) -> Path:
    figure = Figure(figsize=(6, 5), layout="constrained")
    draw_positions(figure.add_subplot(), scan)
    return save(figure, folder / "positions.png")


def draw_positions(axes: Any, scan: Scan) -> None:
    """Positions, y downwards, coloured by scan."""
    unit, per_px = scale_for(float(np.ptp(scan.positions_px, axis=0).max()), scan.pixel_size_m)
    x, y = scan.positions_px.T * per_px
    axes.scatter(x, y, c=scan.scan_index, s=6, cmap="tab10")
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xlabel(f"x [{unit}]")
    axes.set_ylabel(f"y [{unit}]")
    axes.set_title(f"{len(scan)} positions", fontsize=10)
