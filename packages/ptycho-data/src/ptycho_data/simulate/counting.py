"""From object, probe and positions to photon counts (specs/simulation.md, SIM-10 to SIM-12)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan
from scipy import fft

from ptycho_data.canvas.geometry import CanvasGeometry
from ptycho_data.canvas.stitching import extract_patches
from ptycho_data.simulate.probes import from_array

Progress = Callable[[str, int, int], None]
Seed = int | np.random.SeedSequence
_BLOCK_VALUES = 1 << 20


def far_field_counts(probe: NDArray[Any], patches: NDArray[Any]) -> NDArray[np.float64]:
    """``I_m(q) = sum_k |fftshift(fft2(P_k O_m, norm="ortho"))|^2`` (specs/physics.md), in float64.

    Args:
        probe: (mode, N, N) complex.
        patches: (pattern, N, N) complex.

    Returns:
        (pattern, N, N) float64 counts, zero frequency at ``[N // 2, N // 2]``.

    The counts have the energy of the wavefield; a uniform one has zero frequency alone:

    >>> far_field_counts(np.ones((1, 2, 2)), np.ones((1, 2, 2))).tolist()
    [[[0.0, 0.0], [0.0, 4.0]]]
    """
    total = np.zeros(patches.shape)
    for mode in np.asarray(probe, np.complex128):
        wavefield = fft.fft2(mode * patches, norm="ortho")
        total += wavefield.real**2 + wavefield.imag**2
    shifted: NDArray[np.float64] = fft.fftshift(total, axes=(-2, -1))
    return shifted


def noiseless_counts(
    obj: NDArray[Any],
    probe: NDArray[Any],
    positions_px: NDArray[np.float64],
    *,
    object_origin_yx_px: NDArray[np.float64],
    progress: Progress | None = None,
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Expected counts of a scan, block by block in bounded memory.

    Args:
        obj: (H, W) complex.
        probe: (mode, N, N) complex, in sqrt(counts).
        positions_px: (pattern, 2) float64 ``[x, y]``.
        object_origin_yx_px: (2,) float64, object coordinate of ``obj[0, 0]``.
        progress: Called with ``"simulate"``, patterns done and patterns in all.

    Yields:
        The slice of patterns and their (n, N, N) float64 counts.

    Raises:
        ContractError: a patch that leaves the object.
    """
    for rows, patches in _patches(obj, positions_px, object_origin_yx_px, probe.shape[-1]):
        yield rows, far_field_counts(probe, patches)
        if progress is not None:
            progress("simulate", rows.stop, len(positions_px))


def simulate_scan(
    obj: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    positions_px: NDArray[np.float64],
    *,
    photons_per_pattern: float,
    seed: Seed,
    poisson: bool = True,
    background_counts: float = 0.0,
    object_origin_yx_px: tuple[float, float] = (0.0, 0.0),
    progress: Progress | None = None,
) -> Scan:
    """Photon counts of an object scanned with a probe.

    Args:
        obj: (H, W) complex64, the true object.
        probe: (N, N) or (mode, N, N) complex; only its shape matters, its power is set here.
        positions_px: (pattern, 2) float64 ``[x, y]``, every patch inside the object.
        photons_per_pattern: Mean expected counts per pattern, without background.
        seed: Seed of the photon noise.
        poisson: Draw Poisson counts; else the record holds the expected counts, float32.
        background_counts: Expected background counts per detector pixel.
        object_origin_yx_px: Object coordinate of ``obj[0, 0]``.
        progress: Called with stage name, patterns done, patterns in all.

    Returns:
        A :class:`~ptycho_contracts.records.Scan` in counts with its truth. The probe is
        normalised: ``sum |P|^2`` is the mean measured counts per pattern, and probe times
        truth reproduces the expected counts without background.

    Raises:
        ContractError: bad arrays, a patch outside the object, an illegal dose or background.
    """
    _check(obj, photons_per_pattern, background_counts)
    positions = np.asarray(positions_px, np.float64)
    modes = from_array(probe)
    origin = np.asarray(object_origin_yx_px, np.float64)

    # Parseval: the energy on the detector is the energy behind the object.
    intensity = np.sum(np.abs(modes.astype(np.complex128)) ** 2, axis=0)
    blocks = _patches(obj, positions, origin, len(intensity))
    seen = sum(float(np.sum(intensity * np.abs(patches) ** 2)) for _, patches in blocks) / len(positions)
    if not seen > 0:
        raise ContractError(
            Problem("obj", "simulate.dark", "an object that transmits", "no intensity on the detector", "correct it")
        )
    # sum |P|^2 = sum |modes|^2 = 1 now; normalised, it is the mean measured counts.
    mean_counts = photons_per_pattern + background_counts * modes.shape[-1] ** 2
    power = photons_per_pattern / seen
    lit = (modes * np.sqrt(mean_counts)).astype(np.complex64)
    truth = (obj * np.sqrt(power / mean_counts)).astype(np.complex64)
    expected = noiseless_counts(truth, lit, positions, object_origin_yx_px=origin, progress=progress)
    measurements = _counts(expected, (len(positions), *modes.shape[1:]), seed, poisson, background_counts)
    measured_mean = float(measurements.sum(dtype=np.float64)) / len(positions)
    gain = np.float32(np.sqrt(measured_mean / mean_counts)) if poisson and measured_mean > 0 else np.float32(1)
    return Scan(
        measurements=measurements,
        unit="counts",
        positions_px=positions,
        probe=lit * gain,
        probe_kind="exact",
        object_truth=truth / gain,
        object_origin_yx_px=origin,
        metadata={
            "source": "simulation",
            "nphotons": measured_mean,
            "simulation": {
                "photons_per_pattern": float(photons_per_pattern),
                "background_counts": float(background_counts),
                "poisson": bool(poisson),
            },
        },
    )


def _patches(
    obj: NDArray[Any], positions_px: NDArray[np.float64], origin_yx_px: NDArray[np.float64], N: int
) -> Iterator[tuple[slice, NDArray[np.complex128]]]:
    """Object patches of a scan, block by block."""
    step = max(1, _BLOCK_VALUES // (N * N))
    geometry = CanvasGeometry(origin_yx_px=np.asarray(origin_yx_px, np.float64), shape=obj.shape)
    exact = obj.astype(np.complex128)
    for start in range(0, len(positions_px), step):
        rows = slice(start, min(start + step, len(positions_px)))
        yield rows, extract_patches(exact, positions_px[rows], geometry, N)


def _counts(
    blocks: Iterator[tuple[slice, NDArray[np.float64]]],
    shape: tuple[int, ...],
    seed: Seed,
    poisson: bool,
    background_counts: float,
) -> NDArray[Any]:
    """Noisy or expected counts of all blocks, in the narrowest dtype that holds them."""
    rng = np.random.default_rng(seed)
    counts: NDArray[Any] = np.empty(shape, np.uint16 if poisson else np.float32)
    for rows, block in blocks:
        block += background_counts
        if not poisson:
            counts[rows] = block
            continue
        drawn = rng.poisson(block)
        needed = np.result_type(np.min_scalar_type(int(drawn.max())), np.uint16)
        if needed.itemsize > counts.dtype.itemsize:
            counts = counts.astype(needed)
        counts[rows] = drawn
    return counts


def _check(obj: NDArray[Any], photons_per_pattern: float, background_counts: float) -> None:
    problems = []
    if obj.ndim != 2 or obj.dtype.kind != "c":
        problems.append(
            Problem("obj", "array.shape", "(H, W) complex", f"{obj.shape} {obj.dtype}", "give a complex image")
        )
    elif not np.isfinite(obj).all():
        problems.append(Problem("obj", "array.not_finite", "finite values", "NaN or infinite values", "correct it"))
    if not 0 < photons_per_pattern <= 1e15:
        problems.append(
            Problem(
                "photons_per_pattern",
                "simulate.dose",
                "more than 0 and at most 1e15",
                repr(photons_per_pattern),
                "give the mean photons per pattern",
            )
        )
    if not 0 <= background_counts <= 1e9:
        problems.append(
            Problem(
                "background_counts",
                "simulate.dose",
                "0 to 1e9 counts per pixel",
                repr(background_counts),
                "give expected counts per pixel",
            )
        )
    if problems:
        raise ContractError(problems)
