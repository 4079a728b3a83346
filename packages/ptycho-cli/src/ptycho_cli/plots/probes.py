"""Pictures of probe modes with their powers (specs/cli.md, CLI-23)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_cli.plots.figures import Figure
from ptycho_cli.plots.maps import draw_map, draw_scale_bar
from ptycho_cli.plots.views import View, view_of

MOST_MODES = 8
FAINT = 0.1
"""Amplitude, as a fraction of a mode's largest, below which its phase is not drawn."""


def probe_figure(probe: NDArray[np.complex64], *, pixel_size_m: float | None = None) -> Figure:
    """Amplitude and phase of each mode, one column a mode, with its share of the power.

    Args:
        probe: (mode, N, N).
        pixel_size_m: Side of an object pixel, or None: unknown.
    """
    drawn, centred = probe[:MOST_MODES], _centred(probe.shape[-1], pixel_size_m)
    powers = (np.abs(probe.astype(np.complex128)) ** 2).sum((1, 2))
    powers /= max(powers.sum(), 1e-300)
    figure = Figure(figsize=(3.6 * len(drawn), 5.8), layout="constrained")
    panels = figure.subplots(2, len(drawn), squeeze=False)
    for number, (column, mode, power) in enumerate(zip(panels.T, drawn, powers, strict=False), 1):
        draw_mode(figure, column[0], mode, pixel_size_m=pixel_size_m)
        column[0].set_title(f"mode {number}: {power:.1%} of the power", fontsize=9)
        amplitude = np.abs(mode)
        phase = np.ma.masked_array(np.angle(mode), amplitude <= FAINT * amplitude.max())
        _draw(figure, column[1], phase, (-np.pi, np.pi), centred, label="phase [rad]", cmap="twilight")
    if len(probe) > len(drawn):
        figure.suptitle(f"{len(drawn)} of {len(probe)} modes", fontsize=10)
    return figure


def draw_mode(figure: Figure, axes: Any, mode: NDArray[np.complex64], *, pixel_size_m: float | None = None) -> None:
    """Amplitude of one mode (N, N), with a scale bar where lengths are known."""
    centred, amplitude = _centred(mode.shape[-1], pixel_size_m), np.abs(mode)
    limits = (0.0, max(float(amplitude.max()), 1e-12))
    _draw(figure, axes, amplitude, limits, centred, label="probe amplitude [sqrt(counts)]", cmap="magma")
    draw_scale_bar(axes, centred)


def _draw(
    figure: Figure, axes: Any, picture: Any, limits: tuple[float, float], frame: View, *, label: str, cmap: str
) -> None:
    draw_map(figure, axes, picture, limits, extent=frame.extent, unit=frame.unit, label=label, cmap=cmap)


def _centred(N: int, pixel_size_m: float | None) -> View:
    """All of a probe's window, with 0 at its pixel ``[N // 2, N // 2]``."""
    origin = (-(N // 2), -(N // 2))
    return view_of(None, origin_yx_px=origin, pixel_size_m=pixel_size_m, within=np.ones((N, N), bool))
