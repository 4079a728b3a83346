"""Scan positions, (n, 2) float64 ``[x, y]`` in pixels (specs/simulation.md, SIM-8 and SIM-9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, sqrt
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.canvas.geometry import canvas_geometry

Positions = NDArray[np.float64]
Seed = int | np.random.SeedSequence


def raster(n_patterns: int, *, step_px: float) -> Positions:
    """Rows of ``ceil(sqrt(n_patterns))`` positions, ``step_px`` apart.

    Raises:
        ContractError: no patterns, or a step that is not positive.
    """
    _check(n_patterns, step_px)
    index = np.arange(n_patterns)
    columns = ceil(sqrt(n_patterns))
    return np.stack([index % columns, index // columns], axis=1).astype(np.float64) * step_px


def jittered(n_patterns: int, *, step_px: float, seed: Seed, jitter: float = 0.35) -> Positions:
    """The raster with uniform random shifts of at most ``jitter * step_px`` in x and in y.

    The jitter keeps a regular grid's artefacts out of the reconstruction.
    """
    _check(n_patterns, step_px)
    if not 0 <= jitter <= 1:
        raise ContractError(Problem("jitter", "simulate.scan", "0 <= jitter <= 1", repr(jitter), "give less jitter"))
    shifts = np.random.default_rng(seed).uniform(-jitter, jitter, (n_patterns, 2))
    return _from_zero(raster(n_patterns, step_px=step_px) + shifts * step_px)


def spiral(n_patterns: int, *, step_px: float) -> Positions:
    """Fermat spiral with one position per area of ``step_px ** 2``."""
    _check(n_patterns, step_px)
    index = np.arange(n_patterns)
    radius = step_px * np.sqrt((index + 0.5) / np.pi)
    angle = index * np.pi * (3 - sqrt(5))
    return _from_zero(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1))


def place(positions_px: Positions, N: int, *, margin_px: int = 4) -> tuple[Positions, tuple[int, int]]:
    """Shift positions so that every patch lies inside an object, and say how large it is.

    Returns:
        Positions relative to the object's pixel [0, 0], and the object's (H, W): the positions'
        canvas (:func:`ptycho_data.canvas.geometry.canvas_geometry`) with ``margin_px`` more on each side.
    """
    placed = _from_zero(positions_px) + (N // 2 + margin_px)
    height, width = canvas_geometry(placed, N).shape
    return placed, (height + 2 * margin_px, width + 2 * margin_px)


SCANS: Mapping[str, Callable[..., Positions]] = MappingProxyType(
    {"raster": raster, "jittered": jittered, "spiral": spiral}
)


def _from_zero(positions_px: Positions) -> Positions:
    shifted: Positions = positions_px - positions_px.min(axis=0)
    return shifted


def _check(n_patterns: int, step_px: float) -> None:
    problems = []
    if n_patterns < 1:
        problems.append(Problem("n_patterns", "simulate.scan", "1 or more", repr(n_patterns), "ask for patterns"))
    if not 0 < step_px < np.inf:
        problems.append(Problem("step_px", "simulate.scan", "a positive step", repr(step_px), "give a step in pixels"))
    if problems:
        raise ContractError(problems)
