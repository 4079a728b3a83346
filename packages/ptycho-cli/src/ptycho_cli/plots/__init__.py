"""Figures of scans, reconstructions and evaluations; matplotlib is imported when one is drawn.

Each function returns a :class:`matplotlib.figure.Figure`, which a notebook shows and ``figure.savefig`` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from ptycho_contracts.records import Reconstruction, Scan
    from ptycho_data.workflows.evaluate import Evaluation

__all__ = ["comparison", "frc", "reconstruction", "scan"]


def reconstruction(image: Reconstruction) -> Figure:
    """Amplitude and phase of an object beside each other: what was scanned of it, without phase ramp."""
    from ptycho_cli.plots.reconstructions import reconstruction_figure

    return reconstruction_figure(image)


def scan(scan: Scan) -> Figure:
    """Mean pattern, positions and, if there is one, the main mode of the probe."""
    from ptycho_cli.plots.scans import scan_figure

    return scan_figure(scan)


def comparison(evaluation: Evaluation) -> Figure:
    """Both images of an evaluation, aligned, and their difference."""
    from ptycho_cli.plots.comparisons import comparison_figure

    return comparison_figure(evaluation.comparison.alignment, names=evaluation.names, image=evaluation.image)


def frc(evaluation: Evaluation) -> Figure:
    """Fourier ring correlation of an evaluation, with its thresholds."""
    from ptycho_cli.plots.comparisons import frc_figure

    pixel_size_m = None if evaluation.image is None else evaluation.image.pixel_size_m
    return frc_figure(evaluation.curves, pixel_size_m=pixel_size_m)
