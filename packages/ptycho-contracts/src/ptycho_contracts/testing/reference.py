"""specs/physics.md in NumPy, complex128, written for readability: the oracle of the conformance tests.

Shapes: M patterns of N x N pixels, K probe modes. Positions are (M, 2) [x, y] in object pixels.
Nothing here is fast, and nothing is shared with the backends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_contracts.physics import EPS_COUNTS
from ptycho_contracts.problems import ContractError, Problem

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]
Shape = tuple[int, int]


def canvas_geometry(positions_px: ArrayLike, N: int) -> tuple[Real, Shape]:
    """Origin (2,) [y, x] in whole object pixels, and shape, of the smallest canvas (PHY-3).

    Raises:
        ContractError: positions that are not (M, 2), M >= 1.
    """
    low = np.floor(_positions(positions_px)[:, ::-1].min(axis=0))
    high = np.floor(_positions(positions_px)[:, ::-1].max(axis=0))
    height, width = (high - low).astype(int) + N + 1
    return low - N // 2, (int(height), int(width))


def extract_patches(canvas: ArrayLike, positions_px: ArrayLike, N: int, origin_yx: ArrayLike) -> Complex:
    """Read (M, N, N) patches from a canvas (H, W), bilinear between pixels (PHY-4).

    Raises:
        ContractError: a patch that leaves the canvas (PHY-6).
    """
    canvas = np.asarray(canvas, dtype=np.complex128)
    positions = _positions(positions_px)
    patches = np.zeros((len(positions), N, N), dtype=np.complex128)
    for patch, (row, column, weight) in _bilinear_terms(positions, N, origin_yx, (canvas.shape[0], canvas.shape[1])):
        patches[patch] += weight * canvas[row : row + N, column : column + N]
    return patches


def scatter_add(patches: ArrayLike, positions_px: ArrayLike, shape: Shape, origin_yx: ArrayLike) -> Complex:
    """Add (M, N, N) patches onto a canvas (H, W): the exact adjoint of :func:`extract_patches` (PHY-5).

    Raises:
        ContractError: unequal numbers, or a patch that leaves the canvas (PHY-6).
    """
    patches = np.asarray(patches, dtype=np.complex128)
    positions = _positions(positions_px)
    if len(patches) != len(positions):
        found = f"{len(patches)} patches and {len(positions)} positions"
        raise ContractError(Problem("patches", "physics.count", "a position for each patch", found, "pair them"))
    N = patches.shape[-1]
    canvas = np.zeros(shape, dtype=np.complex128)
    for patch, (row, column, weight) in _bilinear_terms(positions, N, origin_yx, shape):
        canvas[row : row + N, column : column + N] += weight * patches[patch]
    return canvas


def merge_patches(
    patches: ArrayLike, weight: ArrayLike, positions_px: ArrayLike, shape: Shape, origin_yx: ArrayLike
) -> tuple[Complex, Real]:
    """Weighted mean of patches (M, N, N) on a canvas, and the summed weight (PHY-7).

    Args:
        patches: (M, N, N).
        weight: (N, N), positive; the same for every patch.
        positions_px, shape, origin_yx: as for :func:`scatter_add`.

    Returns:
        The canvas, 0 where the weight is 0, and the weight (H, W).
    """
    patches = np.asarray(patches, dtype=np.complex128)
    weights = np.broadcast_to(np.asarray(weight, dtype=np.float64), patches.shape)
    summed = scatter_add(weights * patches, positions_px, shape, origin_yx)
    total = scatter_add(weights, positions_px, shape, origin_yx).real
    return np.divide(summed, total, out=np.zeros_like(summed), where=total > 0), total


def far_field(wavefields: ArrayLike) -> Complex:
    """Unitary Fourier transform of (..., N, N) wavefields, zero frequency at ``[N // 2, N // 2]`` (PHY-8)."""
    spectrum = np.fft.fft2(np.asarray(wavefields, np.complex128), norm="ortho")
    return np.asarray(np.fft.fftshift(spectrum, axes=(-2, -1)))


def simulate_counts(patches: ArrayLike, probe_modes: ArrayLike, background: ArrayLike | None = None) -> Real:
    """Expected counts (M, N, N) of patches (M, N, N) under probe modes (K, N, N) (PHY-8).

    Args:
        background: None, a number or (N, N), in counts.
    """
    patches = np.asarray(patches, dtype=np.complex128)
    counts = np.zeros(patches.shape)
    for mode in np.asarray(probe_modes, dtype=np.complex128):
        counts += np.abs(far_field(mode * patches)) ** 2
    return counts if background is None else counts + np.asarray(background, dtype=np.float64)


def normalised_probe(probe: ArrayLike, mean_counts: float) -> Complex:
    """The probe (K, N, N), scaled so that its summed squares are ``mean_counts`` (PHY-10).

    Raises:
        ContractError: a probe without any energy.
    """
    probe = np.asarray(probe, dtype=np.complex128)
    energy = float(np.sum(np.abs(probe) ** 2))
    if not energy > 0:
        raise ContractError(Problem("probe", "physics.dark", "energy in the probe", f"{energy:g}", "give a probe"))
    normalised: Complex = probe * np.sqrt(mean_counts / energy)
    return normalised


def twin(canvas: ArrayLike, probe: ArrayLike, positions_px: ArrayLike, origin_yx: ArrayLike) -> tuple[Any, ...]:
    """The twin image of object, probe, positions and origin: the same data (PHY-13)."""
    canvas = np.asarray(canvas, dtype=np.complex128)
    probe = np.asarray(probe, dtype=np.complex128)
    N = probe.shape[-1]
    mirror = (2 * (N // 2) - np.arange(N)) % N
    last = np.asarray(origin_yx, dtype=np.float64) + np.array(canvas.shape) - 1
    turned = probe[..., mirror, :][..., mirror].conj()
    return canvas[::-1, ::-1].conj(), turned, -_positions(positions_px), -last


def amplitude_loss(
    simulated: ArrayLike, measured: ArrayLike, eps: float = EPS_COUNTS, good: ArrayLike | None = None
) -> float:
    """``sum (sqrt(I + eps) - sqrt(n + eps))^2 / sum n`` over good pixels (PHY-16)."""
    simulated, measured = _good_pixels(simulated, measured, good)
    return float(np.sum((np.sqrt(simulated + eps) - np.sqrt(measured + eps)) ** 2) / np.sum(measured))


def poisson_loss(
    simulated: ArrayLike, measured: ArrayLike, eps: float = EPS_COUNTS, good: ArrayLike | None = None
) -> float:
    """``sum (I - n - (n + eps) log((I + eps) / (n + eps))) / sum n`` over good pixels (PHY-17)."""
    simulated, measured = _good_pixels(simulated, measured, good)
    logarithm = np.log((simulated + eps) / (measured + eps))
    return float(np.sum(simulated - measured - (measured + eps) * logarithm) / np.sum(measured))


def supervised_error(estimate: ArrayLike, truth: ArrayLike, weight: ArrayLike) -> float:
    """``min over a_g of sum w |O - exp(i a_g) T|^2 / sum w |T|^2``, the mean over groups g (PHY-33), unsmoothed.

    Args:
        estimate, truth: (groups, C, N, N) complex.
        weight: (N, N).
    """
    errors = []
    for seen, true in zip(np.asarray(estimate, complex), np.asarray(truth, complex), strict=True):
        angle = np.angle(np.sum(weight * true.conj() * seen))
        left = np.abs(seen - np.exp(1j * angle) * true) ** 2
        errors.append(np.sum(weight * left) / np.sum(weight * np.abs(true) ** 2))
    return float(np.mean(errors))


def residual(simulated: ArrayLike, measured: ArrayLike, good: ArrayLike | None = None) -> float:
    """``R = sum (sqrt(n) - sqrt(I))^2 / sum n`` over good pixels (PHY-22)."""
    return amplitude_loss(simulated, measured, 0.0, good)


def poisson_floor(simulated: ArrayLike, good: ArrayLike | None = None) -> float:
    """Expected residual of the truth, given its expected counts (PHY-23)."""
    mean, _ = _good_pixels(simulated, simulated, good)
    # I - sqrt(I) E sqrt(n): the series of the distribution for few counts, 1/8 + 7/(128 I) for many.
    few = mean[mean < 100]
    expected_root = np.zeros_like(few)
    probability = np.exp(-few)
    for n in range(1, 250):
        probability = probability * few / n
        expected_root += np.sqrt(n) * probability
    many = mean[mean >= 100]
    excess = np.sum(few - np.sqrt(few) * expected_root) + np.sum(0.125 + 7 / (128 * many))
    return float(2 * excess / np.sum(mean))


def input_scale(counts: ArrayLike, good: ArrayLike | None = None) -> float:
    """``1 / sqrt(mean of n)`` over the patterns given (PHY-21)."""
    counts, _ = _good_pixels(counts, counts, good)
    return float(1 / np.sqrt(np.mean(counts)))


def _positions(positions_px: ArrayLike) -> Real:
    positions = np.asarray(positions_px, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 2 or not len(positions):
        raise ContractError(
            Problem(
                "positions_px", "array.shape", "(pattern, 2)", f"shape {positions.shape}", "give one [x, y] per pattern"
            )
        )
    return positions


def _bilinear_terms(positions: Real, N: int, origin_yx: ArrayLike, shape: Shape) -> Any:
    """For each patch its four (row, column, weight) on the canvas; terms of weight 0 are left out."""
    for patch, corner in enumerate(positions[:, ::-1] - N // 2 - np.asarray(origin_yx, dtype=np.float64)):
        row, column = np.floor(corner).astype(int)
        fy, fx = corner - np.floor(corner)
        for dy, dx, weight in (
            (0, 0, (1 - fy) * (1 - fx)),
            (0, 1, (1 - fy) * fx),
            (1, 0, fy * (1 - fx)),
            (1, 1, fy * fx),
        ):
            if weight == 0:
                continue
            r, c = row + dy, column + dx
            if min(r, c) < 0 or r + N > shape[0] or c + N > shape[1]:
                found = f"pattern {patch} at rows {r}..{r + N - 1}, columns {c}..{c + N - 1} of {shape}"
                raise ContractError(
                    Problem("positions_px", "physics.outside", "patches on the canvas", found, "enlarge the canvas")
                )
            yield patch, (r, c, weight)


def _good_pixels(simulated: ArrayLike, measured: ArrayLike, good: ArrayLike | None) -> tuple[Real, Real]:
    """Both as one-dimensional float64, good pixels only; ``good`` is (N, N) bool, True where a pixel counts."""
    simulated = np.asarray(simulated, dtype=np.float64)
    measured = np.asarray(measured, dtype=np.float64)
    if simulated.shape != measured.shape:
        found = f"{simulated.shape} and {measured.shape}"
        raise ContractError(Problem("counts", "array.shape", "equal shapes", found, "give arrays of equal shape"))
    if good is None:
        return simulated.ravel(), measured.ravel()
    chosen = np.asarray(good, dtype=bool)
    return simulated[..., chosen].ravel(), measured[..., chosen].ravel()
