"""Fourier ring correlation and the resolution read from it (specs/metrics.md, MET-13 and MET-14)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from scipy import fft

from ptycho_data.metrics.area import largest_rectangle

FLAT = 1e-6
"""An image is uniform if its deviation from its mean is below this fraction of its norm (MET-8)."""
Crossing = Literal["crossed", "not crossed", "undefined"]
MIN_SIDE_PX = 8
"""Shorter side of the smallest area that has a resolution (MET-14)."""


@dataclass(frozen=True, eq=False)
class FrcCurve:
    """Fourier ring correlation of two images [FRC].

    Attributes:
        frequency: (ring,) float64, fraction of Nyquist.
        correlation: (ring,) float64 in [-1, 1]; NaN in rings without power.
        half_bit: (ring,) float64, threshold of half a bit of information.
        resolution_half: Frequency where the correlation falls below 0.5; 1 if it does not, None if undefined.
        resolution_half_bit: The same for the half-bit threshold.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    half_bit: NDArray[np.float64]
    resolution_half: float | None
    resolution_half_bit: float | None

    def to_dict(self, *, pixel_size_m: float | None = None) -> dict[str, Any]:
        """The curve as JSON values, with a resolution only where it crosses a threshold (MET-14)."""
        places = {"half": self.resolution_half, "half_bit": self.resolution_half_bit}
        report: dict[str, Any] = {}
        for name, place in places.items():
            state = crossing(place)
            report[name] = place if state == "crossed" else None
            report[f"{name}_crossing"] = state
            if pixel_size_m is not None:
                report[f"{name}_period_m"] = half_period_m(place, pixel_size_m)
        return report | {
            "frequency": self.frequency.tolist(),
            "correlation": self.correlation.tolist(),
            "half_bit_threshold": self.half_bit.tolist(),
        }


def crossing(place: float | None) -> Crossing:
    """Whether a curve crosses a threshold, from where it does (MET-14)."""
    if place is None:
        return "undefined"
    return "not crossed" if place >= 1 else "crossed"


def half_period_m(place: float | None, pixel_size_m: float) -> float | None:
    """Half a period of a frequency in fractions of Nyquist; None without a crossing, and at frequency 0.

    >>> half_period_m(0.5, 1e-8)
    2e-08
    """
    return pixel_size_m / place if place is not None and 0 < place < 1 else None


def frc(image_a: NDArray[Any], image_b: NDArray[Any], *, mask: NDArray[np.bool_] | None = None) -> FrcCurve:
    """Correlate two aligned images ring by ring in Fourier space [FRC].

    Args:
        image_a, image_b: (H, W) real or complex, in one frame, without relative ramp and phase.
        mask: (H, W) bool; the largest rectangle inside it is used. All pixels if None.

    Returns:
        The curve; empty and undefined if the rectangle is smaller than ``MIN_SIDE_PX``, all
        NaN and undefined if an image is uniform.

    Raises:
        ContractError: images of different shapes.

    An image agrees with itself at all frequencies:

    >>> image = np.random.default_rng(0).normal(size=(16, 16))
    >>> frc(image, image).resolution_half_bit
    1.0
    """
    if image_a.ndim != 2 or image_a.shape != image_b.shape:
        raise ContractError(
            Problem(
                "image_b",
                "array.shape",
                f"(H, W) as image_a {image_a.shape}",
                f"{image_b.shape}",
                "align the images first",
            )
        )
    box = (slice(None), slice(None)) if mask is None else largest_rectangle(mask)
    first, second = (np.asarray(image[box], np.complex128) for image in (image_a, image_b))
    short = min(first.shape)
    if short < MIN_SIDE_PX:
        return FrcCurve(np.empty(0), np.empty(0), np.empty(0), None, None)
    ring, rings = _rings(first.shape)
    spectra = [fft.fft2(_windowed(image)) for image in (first, second)]
    powers = [np.bincount(ring, np.abs(spectrum.ravel()) ** 2, rings) for spectrum in spectra]
    cross = np.bincount(ring, (np.conj(spectra[0]) * spectra[1]).real.ravel(), rings)
    pixels = np.sqrt(np.bincount(ring, minlength=rings))
    keep = slice(1, short // 2 + 1)
    norm = np.sqrt(powers[0]) * np.sqrt(powers[1])
    uniform = any(is_flat(image) for image in (first, second))
    correlation = np.full(rings, np.nan)
    np.divide(cross, norm, out=correlation, where=(norm > 0) & (not uniform))
    # Half-bit threshold [FRC].
    half_bit = (0.2071 + 1.9102 / pixels) / (1.2071 + 0.9102 / pixels)
    frequency = 2 * np.arange(rings) / short
    frequency, correlation, half_bit = frequency[keep], np.clip(correlation[keep], -1, 1), half_bit[keep]
    return FrcCurve(
        frequency=frequency,
        correlation=correlation,
        half_bit=half_bit,
        resolution_half=None if uniform else _crossing(frequency, correlation - 0.5),
        resolution_half_bit=None if uniform else _crossing(frequency, correlation - half_bit),
    )


def is_flat(values: NDArray[Any]) -> bool:
    """Whether values have no contrast: ``||x - mean x|| <= FLAT ||x||``."""
    return bool(np.linalg.norm(values - values.mean()) <= FLAT * np.linalg.norm(values))


def _rings(shape: tuple[int, ...]) -> tuple[NDArray[np.int_], int]:
    y, x = (fft.fftfreq(size) for size in shape)
    ring = np.rint(np.hypot(y[:, None], x[None, :]) * min(shape)).astype(int).ravel()
    return ring, int(ring.max()) + 1


def _windowed(image: NDArray[np.complex128]) -> NDArray[np.complex128]:
    y, x = (np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2 for size in image.shape)
    window = np.outer(y, x)
    windowed: NDArray[np.complex128] = (image - np.sum(window * image) / window.sum()) * window
    return windowed


def _crossing(frequency: NDArray[np.float64], excess: NDArray[np.float64]) -> float:
    """Frequency where the excess over a threshold first turns negative; a ring without power counts as below."""
    below = np.flatnonzero(~(excess >= 0))
    if below.size == 0:
        return 1.0
    first = int(below[0])
    if first == 0:
        return 0.0
    if np.isnan(excess[first]):
        return float(frequency[first - 1])
    fraction = excess[first - 1] / (excess[first - 1] - excess[first])
    return float(frequency[first - 1] + fraction * (frequency[first] - frequency[first - 1]))
