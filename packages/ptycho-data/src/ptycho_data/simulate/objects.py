"""Random objects with known amplitude and phase (specs/simulation.md, SIM-2 to SIM-4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.simulate import textures

Seed = int | np.random.SeedSequence
Range = tuple[float, float]
AMPLITUDE_RANGE: Range = (0.6, 1.0)
PHASE_RANGE_RAD: Range = (-1.0, 1.0)


def lines(
    shape: tuple[int, int],
    *,
    seed: Seed,
    n_lines: int | None = None,
    thickness_px: Range = (1.0, 10.0),
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range_rad: Range = PHASE_RANGE_RAD,
    blur_px: float = 0.8,
) -> NDArray[np.complex64]:
    """Random segments, thin and thick, at any angle, added up.

    Args:
        shape: (H, W) of the object.
        seed: Seed of its own generator.
        n_lines: Segments; by default one for 400 px^2, at least 8.
        thickness_px: Least and largest thickness, log-uniform between.
        amplitude_range: Least and largest amplitude, within [0, 1].
        phase_range_rad: Least and largest phase.
        blur_px: Standard deviation of the blur.

    Returns:
        (H, W) complex64.

    Raises:
        ContractError: illegal shape or ranges.
    """
    _check(shape, amplitude_range, phase_range_rad, blur_px)
    count = max(8, shape[0] * shape[1] // 400) if n_lines is None else n_lines
    drawings = textures.segments(shape, np.random.default_rng(seed), n_lines=count, thickness_px=thickness_px)
    return _compose(*drawings, amplitude_range, phase_range_rad, blur_px)


def dead_leaves(
    shape: tuple[int, int],
    *,
    seed: Seed,
    radius_px: Range | None = None,
    cover: float = 6.0,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range_rad: Range = PHASE_RANGE_RAD,
    blur_px: float = 0.8,
) -> NDArray[np.complex64]:
    """Discs and polygons of power-law size that hide one another; other arguments as in :func:`lines`.

    Args:
        radius_px: Least and largest radius; by default 3 px to a fifth of the shorter side.
        cover: Summed area of the leaves in units of the object's area.
    """
    _check(shape, amplitude_range, phase_range_rad, blur_px)
    radii = (3.0, max(6.0, min(shape) / 5)) if radius_px is None else radius_px
    drawings = textures.leaves(shape, np.random.default_rng(seed), radius_px=radii, cover=cover)
    return _compose(*drawings, amplitude_range, phase_range_rad, blur_px)


def random_field(
    shape: tuple[int, int],
    *,
    seed: Seed,
    exponent: float = 3.0,
    shared: float = 0.5,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range_rad: Range = PHASE_RANGE_RAD,
    blur_px: float = 0.8,
) -> NDArray[np.complex64]:
    """Gaussian random fields with power ``frequency ** -exponent``; other arguments as in :func:`lines`.

    Args:
        exponent: Decay of the power spectrum; larger is smoother.
        shared: Correlation of the amplitude's field with the phase's.
    """
    _check(shape, amplitude_range, phase_range_rad, blur_px)
    rng = np.random.default_rng(seed)
    phase, own = (textures.field(shape, rng, exponent=exponent) for _ in range(2))
    amplitude = shared * phase + np.sqrt(1 - shared**2) * own
    return _compose(amplitude, phase, amplitude_range, phase_range_rad, blur_px)


def fibres(
    shape: tuple[int, int],
    *,
    seed: Seed,
    n_fibres: int | None = None,
    thickness_px: Range = (2.0, 16.0),
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range_rad: Range = PHASE_RANGE_RAD,
    blur_px: float = 0.8,
) -> NDArray[np.complex64]:
    """Bent round fibres that cross one another; other arguments as in :func:`lines`.

    Args:
        n_fibres: By default one for 800 px^2, at least 6.
        thickness_px: Least and largest thickness, log-uniform between.
    """
    _check(shape, amplitude_range, phase_range_rad, blur_px)
    count = max(6, shape[0] * shape[1] // 800) if n_fibres is None else n_fibres
    drawings = textures.fibres(shape, np.random.default_rng(seed), n_fibres=count, thickness_px=thickness_px)
    return _compose(*drawings, amplitude_range, phase_range_rad, blur_px)


def grains(
    shape: tuple[int, int],
    *,
    seed: Seed,
    size_px: float = 16.0,
    boundary_px: float = 2.0,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range_rad: Range = PHASE_RANGE_RAD,
    blur_px: float = 0.8,
) -> NDArray[np.complex64]:
    """Grains of a polycrystal with their boundaries; other arguments as in :func:`lines`.

    Args:
        size_px: Mean distance of grains.
        boundary_px: Width of a boundary; 0 for none.
    """
    _check(shape, amplitude_range, phase_range_rad, blur_px)
    drawings = textures.grains(shape, np.random.default_rng(seed), size_px=size_px, boundary_px=boundary_px)
    return _compose(*drawings, amplitude_range, phase_range_rad, blur_px)


def particles(
    shape: tuple[int, int],
    *,
    seed: Seed,
    radius_px: Range | None = None,
    cover: float = 0.6,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range_rad: Range = PHASE_RANGE_RAD,
    blur_px: float = 0.8,
) -> NDArray[np.complex64]:
    """Spheres on empty ground, overlapping in projection; other arguments as in :func:`lines`.

    Args:
        radius_px: Least and largest radius; by default 3 px to a sixth of the shorter side.
        cover: Summed area of the spheres in units of the object's area.
    """
    _check(shape, amplitude_range, phase_range_rad, blur_px)
    radii = (3.0, max(6.0, min(shape) / 6)) if radius_px is None else radius_px
    amplitude, phase = textures.particles(shape, np.random.default_rng(seed), radius_px=radii, cover=cover)
    return _compose(-amplitude, -phase, amplitude_range, phase_range_rad, blur_px)


def siemens_star(
    shape: tuple[int, int],
    *,
    seed: Seed,
    spokes: int = 32,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range_rad: Range = PHASE_RANGE_RAD,
    blur_px: float = 0.8,
) -> NDArray[np.complex64]:
    """Siemens star over weak random fields; other arguments as in :func:`lines`.

    Args:
        spokes: Number of bright spokes; the seed rotates them.
    """
    _check(shape, amplitude_range, phase_range_rad, blur_px)
    rng = np.random.default_rng(seed)
    drawing = textures.star(shape, rng, spokes=spokes)
    amplitude = drawing + 0.5 * textures.field(shape, rng, exponent=2.5)
    phase = -drawing + 0.15 * textures.field(shape, rng, exponent=2.5)
    return _compose(amplitude, phase, amplitude_range, phase_range_rad, blur_px)


OBJECTS: Mapping[str, Callable[..., NDArray[np.complex64]]] = MappingProxyType(
    {
        "lines": lines,
        "dead_leaves": dead_leaves,
        "random_field": random_field,
        "siemens_star": siemens_star,
        "fibres": fibres,
        "grains": grains,
        "particles": particles,
    }
)


def _compose(
    amplitude: textures.Image, phase: textures.Image, amplitude_range: Range, phase_range_rad: Range, blur_px: float
) -> NDArray[np.complex64]:
    modulus = np.interp(textures.stretch(amplitude, blur_px=blur_px), (0, 1), amplitude_range)
    argument = np.interp(textures.stretch(phase, blur_px=blur_px), (0, 1), phase_range_rad)
    composed: NDArray[np.complex64] = (modulus * np.exp(1j * argument)).astype(np.complex64)
    return composed


def _check(shape: tuple[int, int], amplitude_range: Range, phase_range_rad: Range, blur_px: float) -> None:
    low, high = amplitude_range
    least, largest = phase_range_rad
    problems = []
    if len(shape) != 2 or min(shape) < 4:
        problems.append(Problem("shape", "simulate.shape", "(H, W) of 4 px or more", repr(shape), "enlarge it"))
    if not 0 <= low <= high <= 1:
        problems.append(
            Problem("amplitude_range", "simulate.range", "0 <= low <= high <= 1", repr(amplitude_range), "correct it")
        )
    if not 0 <= largest - least < 2 * np.pi:
        problems.append(
            Problem("phase_range_rad", "simulate.range", "0 <= high - low < 2 pi", repr(phase_range_rad), "correct it")
        )
    if not blur_px >= 0:
        problems.append(Problem("blur_px", "simulate.range", "0 or more", repr(blur_px), "give a blur in pixels"))
    if problems:
        raise ContractError(problems)
