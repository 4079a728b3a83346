"""Draw the figures of the explanations anew: ``python docs/figures.py [NAME...]`` (needs ptycho-torch and ptycho-cli).

Every figure is made of simulated scans with fixed seeds; the words under it are those of the program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ptycho_torch as pt
from matplotlib.figure import Figure
from ptycho_cli.plots.maps import contrast
from ptycho_cli.plots.phases import flattening
from ptycho_cli.plots.views import view
from ptycho_contracts.records import Scan

IMAGES = Path(__file__).parent / "images"


def main(names: list[str]) -> None:
    for name in names or FIGURES:
        figure = FIGURES[name]()
        figure.savefig(IMAGES / f"{name}.png", dpi=110)
        print(f"wrote {IMAGES / name}.png")


def measurement() -> Figure:
    """What is measured: an object, the probe at some positions, the patterns there."""
    scan = scan_of(seed=4)
    assert scan.object_truth is not None
    assert scan.object_origin_yx_px is not None
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, middle, *patterns = (figure.add_subplot(2, 5, place) for place in ((1, 7), (3, 8), 4, 5, 9, 10))
    top, first = scan.object_origin_yx_px
    height, width = scan.object_truth.shape
    left.imshow(np.angle(scan.object_truth), cmap="gray", extent=(first, first + width, top + height, top))
    shown = (210, 211, 230, 231)
    x, y = scan.positions_px.T
    left.scatter(x, y, s=2, c="tab:blue", linewidths=0)
    for place in shown:
        left.add_patch(circle((x[place], y[place]), 14))
    left.set_title("object (phase) and positions;\ncircles: the beam at four of them", fontsize=9)
    middle.imshow(np.abs(scan.probe[0]), cmap="magma")
    middle.set_title("probe, amplitude", fontsize=9)
    for axes, place in zip(patterns, shown, strict=True):
        axes.imshow(np.log1p(scan.measurements[place]), cmap="viridis")
        axes.set_title(f"pattern {place}, log counts", fontsize=8)
    for axes in (left, middle, *patterns):
        axes.set(xticks=[], yticks=[])
    return figure


def circle(centre: tuple[float, float], radius: float) -> Any:
    from matplotlib.patches import Circle

    return Circle(centre, radius, fill=False, color="tab:red", linewidth=1.0)


def wrong_physics() -> Figure:
    """The same scan with one mistake each: its phase, and R in units of the photons' floor."""
    scan = scan_of(seed=4)
    x, y = scan.positions_px.T
    mistakes: Mapping[str, Scan] = {
        "as measured": scan,
        "x and y exchanged": replace(scan, positions_px=np.stack([y, x], 1)),
        "x reversed": replace(scan, positions_px=np.stack([-x, y], 1)),
        "positions 1.25 times too large": replace(scan, positions_px=1.25 * scan.positions_px),
        "patterns in another order": replace(scan, positions_px=np.roll(scan.positions_px, 1, axis=0)),
        "centre of the patterns 4 px off": replace(scan, measurements=np.roll(scan.measurements, 4, axis=2)),
        "counts taken for amplitudes": replace(scan, unit="amplitude", measurements=scan.measurements.astype("f4")),
        "a dark level of 2 counts": replace(scan, measurements=scan.measurements + np.uint16(2)),
    }
    figure = Figure(figsize=(10.5, 5.9), layout="constrained")
    for axes, (words, wrong) in zip(figure.subplots(2, 4).ravel(), mistakes.items(), strict=True):
        image, summary = pt.reconstruct(without_truth(wrong), modes=1, epochs=20, prior="none", accelerator="cpu")
        shown = view(image)
        phase = flattening(image.object, shown).phase(image.object)
        low, high = contrast(phase, shown.well_lit)
        axes.imshow(shown.cut(phase), cmap="gray", vmin=low, vmax=high)
        ratio = summary["residual"]["used"] / summary["poisson_floor"]["used"]
        axes.set_title(f"{words}\nR = {ratio:.{0 if ratio > 10 else 1}f} times its floor", fontsize=9)
        axes.set(xticks=[], yticks=[])
    return figure


def low_frequencies() -> Figure:
    """R and the error of the object by spatial frequency, against the epochs of a joint reconstruction."""
    from ptycho_data.metrics import compare

    scan = pt.simulate(object_kind="random_field", N=64, n_patterns=400, step_px=5.0, photons_per_pattern=1e5, seed=5)
    bands = {"below 0.02 cycles per px": (0.0, 0.02), "0.02 to 0.1": (0.02, 0.1), "above 0.1": (0.1, 0.5)}
    epochs = (1, 2, 4, 8, 16, 32, 64)
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for levels, style in ((1, "--"), (None, "-")):
        residuals: list[float] = []
        errors: list[list[float]] = []
        for count in epochs:
            image, summary = pt.reconstruct(
                without_truth(scan), modes=1, epochs=count, levels=levels, prior="none", accelerator="cpu"
            )
            aligned = compare(
                image.object,
                scan.object_truth,
                weight=image.weight,
                estimate_origin_yx_px=image.origin_yx_px,
                truth_origin_yx_px=scan.object_origin_yx_px,
            ).alignment
            residuals.append(summary["residual"]["used"] / summary["poisson_floor"]["used"])
            errors.append([band_error(aligned, *band) for band in bands.values()])
        words = "full resolution only" if levels == 1 else "from coarse to fine"
        axes[0].plot(epochs, residuals, style, color="black", label=words)
        for place, name in enumerate(bands):
            color = f"C{place}"
            label = name if levels is None else None
            axes[1].plot(epochs, [row[place] for row in errors], style, color=color, label=label)
    axes[0].set(xscale="log", title="R over its floor", xlabel="epochs")
    axes[1].set(xscale="log", yscale="log", title="relative error of the object, by frequency", xlabel="epochs")
    for left in axes[:2]:
        left.legend(fontsize=8)
    truth = np.angle(aligned.truth)
    truth[~aligned.mask] = np.nan
    axes[2].imshow(truth, cmap="gray")
    axes[2].set(xticks=[], yticks=[], title="the object, phase")
    return figure


def band_error(aligned: Any, low: float, high: float) -> float:
    """Root of the error's power over the truth's, within a band of spatial frequencies in cycles per pixel."""
    rows, columns = (slice(line.min(), line.max() + 1) for line in np.nonzero(aligned.mask))
    size = aligned.mask[rows, columns].shape
    window = np.outer(*(np.hanning(side) for side in size)) * aligned.mask[rows, columns]
    mean = aligned.truth[aligned.mask].mean()
    y, x = np.meshgrid(*(np.fft.fftfreq(side) for side in size), indexing="ij")
    inside = (np.hypot(y, x) >= low) & (np.hypot(y, x) < high)
    error, power = (
        np.sum(np.abs(np.fft.fft2(window * part[rows, columns]))[inside] ** 2)
        for part in (aligned.estimate - aligned.truth, aligned.truth - mean)
    )
    return float(np.sqrt(error / power))


def scan_of(seed: int) -> Scan:
    """400 patterns of lines."""
    return pt.simulate(object_kind="lines", N=64, n_patterns=400, step_px=5.0, photons_per_pattern=1e5, seed=seed)


def without_truth(scan: Scan) -> Scan:
    return replace(scan, object_truth=None, object_origin_yx_px=None)


FIGURES: Mapping[str, Callable[[], Figure]] = {
    "measurement": measurement,
    "wrong-physics": wrong_physics,
    "low-frequencies": low_frequencies,
}

if __name__ == "__main__":
    main(sys.argv[1:])
