"""Canvases with noise and their truths: what the learned prior is trained on (specs/prior.md, PRI-4, PRI-5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ptycho_data.simulate import objects, textures

Complex = NDArray[np.complex64]

NOISE_RANGE = (0.01, 0.7)
"""Least and largest noise level, in units of the object's rms amplitude."""


@dataclass(frozen=True, eq=False)
class NoisyCanvases:
    """A batch.

    Attributes:
        noisy, truth: (B, H, W) complex64, of rms amplitude about 1.
        sigma: (B, H, W) float32, the expected modulus of the noise.
    """

    noisy: Complex
    truth: Complex
    sigma: NDArray[np.float32]


def draw_truth(shape: tuple[int, int], rng: np.random.Generator) -> Complex:
    """One random object of rms amplitude 1 of any of many kinds: weak or strong, whole, or in parts on empty ground.

    Args:
        shape: (H, W).
        rng: Draws it.

    Returns:
        (H, W) complex64.
    """
    drawn = _draw_one(shape, rng)
    if rng.uniform() < 0.3:  # one structure in front of another
        drawn = drawn * _draw_one(shape, rng)
    if rng.uniform() < 0.2:  # empty regions
        field = textures.field(shape, rng, exponent=4.0)
        sharp = np.exp(rng.uniform(np.log(2.0), np.log(30.0)))
        part = 1 / (1 + np.exp(-sharp * (field - rng.uniform(-0.8, 0.8))))
        drawn = (1 + part * (drawn - 1)).astype(np.complex64)
    rms = np.sqrt(np.square(np.abs(drawn)).mean())
    return (drawn / np.float32(max(rms, 1e-6))).astype(np.complex64)


def draw_batch(
    truths: Complex, rng: np.random.Generator, *, count: int, side: int, noise: tuple[float, float] = NOISE_RANGE
) -> NoisyCanvases:
    """Random parts of random truths, turned, mirrored, of any global phase, with noise of any level, log-uniform.

    Args:
        truths: (T, H, W) from :func:`draw_truth`.
        rng: Draws the batch.
        count, side: Number and side of the canvases.
        noise: Least and largest level.
    """
    clean, levels, added = [], [], []
    for _ in range(count):
        truth = truths[rng.integers(len(truths))]
        y, x = (int(rng.integers(size - side + 1)) for size in truth.shape)
        part = np.rot90(truth[y : y + side, x : x + side], int(rng.integers(4)))
        part = part.T if rng.uniform() < 0.5 else part
        clean.append(part * np.exp(1j * rng.uniform(0, 2 * np.pi)) * rng.uniform(0.85, 1.15))
        level = float(np.exp(rng.uniform(*np.log(noise))))
        levels.append(level * _draw_unevenness((side, side), rng))
        added.append(levels[-1] * draw_noise((side, side), rng))
    truth = np.stack(clean).astype(np.complex64)
    noisy = (truth + np.stack(added)).astype(np.complex64)
    return NoisyCanvases(noisy, truth, np.stack(levels).astype(np.float32))


def draw_noise(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.complex128]:
    """Complex Gaussian noise of rms 1: white, or with more of it at low, or less at high frequencies."""
    white: NDArray[np.complex128] = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
    kind = rng.uniform()
    if kind < 0.5:
        return white
    frequency = np.hypot(fft.fftfreq(shape[0])[:, None], fft.fftfreq(shape[1])[None, :])
    if kind < 0.75:
        gain = 1 + rng.uniform(0.5, 4) / (1 + (frequency / rng.uniform(0.02, 0.1)) ** 2)
    else:
        gain = np.exp(-0.5 * (frequency / rng.uniform(0.15, 0.4)) ** 2)
    coloured: NDArray[np.complex128] = fft.ifft2(fft.fft2(white) * gain / np.sqrt(np.square(gain).mean()))
    return coloured


def _draw_unevenness(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """(H, W) factor of the noise, of rms 1: the same everywhere, or more where there is less light."""
    if rng.uniform() < 0.5:
        return np.ones(shape)
    rough = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(3, 16), mode="wrap")
    levels = np.exp(rng.uniform(0.2, 0.8) * rough / max(float(rough.std()), 1e-9))
    normed: NDArray[np.float64] = levels / np.sqrt(np.square(levels).mean())
    return normed


def _draw_one(shape: tuple[int, int], rng: np.random.Generator) -> Complex:
    low = 1 - np.exp(rng.uniform(np.log(0.02), np.log(0.9)))
    phase = np.exp(rng.uniform(np.log(0.15), np.log(6.0)))
    kind: Callable[..., Complex] = _KINDS[rng.integers(len(_KINDS))]
    return kind(
        shape,
        rng,
        seed=int(rng.integers(2**32)),
        amplitude_range=(low, 1.0),
        phase_range_rad=(-phase / 2, phase / 2),
        blur_px=rng.uniform(0.4, 2.0),
    )


def _log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _lines(shape: tuple[int, int], rng: np.random.Generator, **rest: object) -> Complex:
    count = int(shape[0] * shape[1] / _log(rng, 150, 1500))
    return objects.lines(shape, n_lines=max(4, count), thickness_px=(1.0, _log(rng, 3, 20)), **rest)  # type: ignore[arg-type]


def _leaves(shape: tuple[int, int], rng: np.random.Generator, **rest: object) -> Complex:
    small = _log(rng, 2, 8)
    return objects.dead_leaves(shape, radius_px=(small, small * _log(rng, 2, 12)), **rest)  # type: ignore[arg-type]


def _field(shape: tuple[int, int], rng: np.random.Generator, **rest: object) -> Complex:
    return objects.random_field(shape, exponent=rng.uniform(2, 4.5), shared=rng.uniform(0, 0.95), **rest)  # type: ignore[arg-type]


def _fibres(shape: tuple[int, int], rng: np.random.Generator, **rest: object) -> Complex:
    count = int(shape[0] * shape[1] / _log(rng, 300, 3000))
    return objects.fibres(shape, n_fibres=max(3, count), thickness_px=(1.5, _log(rng, 4, 24)), **rest)  # type: ignore[arg-type]


def _grains(shape: tuple[int, int], rng: np.random.Generator, **rest: object) -> Complex:
    return objects.grains(shape, size_px=_log(rng, 6, 40), boundary_px=rng.choice((0.0, 1.0, 3.0)), **rest)  # type: ignore[arg-type]


def _particles(shape: tuple[int, int], rng: np.random.Generator, **rest: object) -> Complex:
    small = _log(rng, 2, 8)
    return objects.particles(
        shape,
        radius_px=(small, small * _log(rng, 1.5, 6)),
        cover=rng.uniform(0.2, 1.5),
        **rest,  # type: ignore[arg-type]
    )


def _star(shape: tuple[int, int], rng: np.random.Generator, **rest: object) -> Complex:
    return objects.siemens_star(shape, spokes=int(rng.integers(12, 48)), **rest)  # type: ignore[arg-type]


_KINDS = (_lines, _leaves, _leaves, _field, _field, _fibres, _grains, _particles, _star)
