"""Pictures of a reconstruction (specs/cli.md, CLI-23). Imported only when something is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from ptycho_contracts.records import Reconstruction

WELL_LIT = 0.05


def amplitude_and_phase(reconstruction: Reconstruction) -> tuple[Any, Any]:
    """Amplitude, and phase in rad relative to its circular mean; masked where the weight is 0."""
    illuminated = well_lit(reconstruction.weight)
    mean = np.sum(reconstruction.object[illuminated]) if illuminated.any() else np.complex64(1)
    rotation = np.conj(mean) / abs(mean) if abs(mean) > 0 else np.complex64(1)
    unseen = reconstruction.weight <= 0
    amplitude = np.ma.masked_array(np.abs(reconstruction.object), unseen)
    phase = np.ma.masked_array(np.angle(reconstruction.object * rotation), unseen)
    return amplitude, phase


def well_lit(weight: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels with at least 5 % of the median positive weight: those that set the contrast."""
    seen = weight > 0
    if not seen.any():
        return seen
    return np.asarray(weight >= WELL_LIT * np.median(weight[seen]))


def contrast(picture: Any, illuminated: NDArray[np.bool_]) -> tuple[float, float]:
    """Grey scale limits: 1st to 99th percentile of the well-illuminated pixels, never empty."""
    values = np.asarray(picture)[illuminated]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(values, (1, 99)))
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    return low, high


def extent_px(reconstruction: Reconstruction) -> tuple[float, float, float, float]:
    """Edges (left, right, bottom, top) of the canvas in object pixels, y downwards."""
    top, left = (float(value) - 0.5 for value in reconstruction.origin_yx_px)
    height, width = reconstruction.object.shape
    return left, left + width, top + height, top


def draw_reconstruction(reconstruction: Reconstruction, folder: Path) -> list[Path]:
    """Write ``amplitude.png`` and ``phase.png`` into a folder; returns their paths."""
    written = []
    for name in ("amplitude", "phase"):
        figure = Figure(figsize=(7, 6), layout="constrained")
        draw_part(figure, figure.add_subplot(), reconstruction, name)
        written.append(save(figure, folder / f"{name}.png"))
    return written


def reconstruction_figure(reconstruction: Reconstruction) -> Figure:
    """Amplitude and phase of an object beside each other."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("amplitude", "phase"), strict=True):
        draw_part(figure, axes, reconstruction, name)
    return figure


def draw_part(figure: Figure, axes: Any, reconstruction: Reconstruction, name: str) -> None:
    """``"amplitude"`` or ``"phase"`` of an object, with colour bar and object coordinates."""
    picture = amplitude_and_phase(reconstruction)[("amplitude", "phase").index(name)]
    label = "amplitude" if name == "amplitude" else "phase [rad]"
    limits = contrast(picture, well_lit(reconstruction.weight))
    draw_map(figure, axes, picture, limits, extent=extent_px(reconstruction), label=label)
    axes.set_title(f"object {name}, {picture.shape[1]} x {picture.shape[0]} px", fontsize=10)


def draw_map(
    figure: Figure,
    axes: Any,
    picture: Any,
    limits: tuple[float, float],
    *,
    extent: Any = None,
    label: str = "",
    cmap: str = "gray",
) -> None:
    """One image with colour bar and pixel axes; masked pixels stay in the background's colour."""
    axes.set_facecolor("#d9e2ec")
    image = axes.imshow(
        picture, cmap=cmap, vmin=limits[0], vmax=limits[1], extent=extent, interpolation="nearest", origin="upper"
    )
    axes.set_xlabel("x [px]")
    axes.set_ylabel("y [px]")
    figure.colorbar(image, ax=axes, label=label, shrink=0.85)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    figure.savefig(path, dpi=120, format="png")
    return path
