"""Losses of each epoch, with R beside its Poisson floor (specs/cli.md, CLI-11, CLI-18)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from ptycho_cli.plots.figures import Figure
from ptycho_cli.plots.maps import save

_DECADES = 10.0
"""Ratio of the largest to the smallest value from which the axis is logarithmic."""


def draw_losses(summary: Mapping[str, Any], path: Path) -> Path:
    """Losses of a run, and its R beside the floor.

    Args:
        summary: With ``losses``; ``validation``, ``loss``, ``residual`` and ``poisson_floor`` where they exist.
        path: Of the picture.
    """
    losses = {"fitted patterns": summary["losses"]}
    if summary.get("validation"):
        losses["validation patterns"] = summary["validation"]["losses"]
    residual, floor = ((summary.get(name) or {}).get("used") for name in ("residual", "poisson_floor"))
    lines = {"R": residual, "Poisson floor of R": floor}
    figure = losses_figure(losses, lines if summary.get("loss") == "amplitude" else {})
    if residual is not None and floor:
        title = f"R {residual:.4g} is {residual / floor:.2f} times its Poisson floor {floor:.4g}"
        figure.axes[0].set_title(title, fontsize=10)
    return save(figure, path)


def draw_convergence(losses: Mapping[str, Sequence[float]], floor: float | None, path: Path) -> Path:
    """Loss of each epoch of several runs, with the Poisson floor of R where it is known."""
    return save(losses_figure(losses, {"Poisson floor of R": floor}), path)


def losses_figure(losses: Mapping[str, Sequence[float]], levels: Mapping[str, float | None]) -> Figure:
    """Losses over epochs, and levels to compare them with.

    Args:
        losses: One value per epoch, by name; values that are no number are gaps.
        levels: By name; None is left out.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for (name, values), style in zip(losses.items(), ("-", "--", ":", "-.") * len(losses), strict=False):
        drawn = np.array([np.nan if value is None else value for value in values], float)
        axes.plot(np.arange(1, len(drawn) + 1), drawn, linestyle=style, marker=".", label=name)
    for (name, level), style in zip(levels.items(), ("-.", "--") * len(levels), strict=False):
        if level is not None:
            axes.axhline(level, color="0.3", linestyle=style, linewidth=1, label=f"{name} {level:.4g}")
    every = [value for values in (*losses.values(), levels.values()) for value in values if value is not None]
    spans_decades = bool(every) and min(every) > 0 and max(every) > _DECADES * min(every)
    axes.set_yscale("log" if spans_decades else "linear")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.legend(fontsize=9)
    return figure
