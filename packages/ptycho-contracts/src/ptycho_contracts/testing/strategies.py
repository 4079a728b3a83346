"""Hypothesis strategies of what flows between the packages: small, valid, of odd and even sizes.

Large arrays are drawn as a seed of a NumPy generator: fast, and reproducible from hypothesis' own report.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptycho_contracts.records import Groups, Scan
from ptycho_contracts.testing import reference

generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
"""NumPy generators, for arrays that need not shrink."""

sizes = st.integers(4, 17)
"""Sides of small patterns, odd and even."""


@st.composite
def positions(
    draw: st.DrawFn,
    *,
    min_count: int = 1,
    max_count: int = 12,
    spread_px: float = 20.0,
    offset_px: float = 1e6,
    whole: bool | None = None,
) -> NDArray[np.float64]:
    """(M, 2) float64 [x, y]: whole, halves or any fractions, within ``spread_px``, at any offset.

    Args:
        offset_px: Largest whole offset of the scan from the coordinate 0.
        whole: True for whole pixels only, False for fractions, None for either.
    """
    count = draw(st.integers(min_count, max_count))
    rng = draw(generators)
    step = draw(st.sampled_from([1.0] if whole else [0.5, 2.0**-20] if whole is False else [1.0, 0.5, 2.0**-20]))
    offset = draw(st.tuples(*[st.integers(-int(offset_px), int(offset_px))] * 2))
    local = np.floor(rng.uniform(-spread_px / 2, spread_px / 2, (count, 2)) / step) * step
    return local + np.array(offset, dtype=np.float64)


@st.composite
def probes(draw: st.DrawFn, N: int, *, modes: int | None = None, mean_counts: float = 1e4) -> NDArray[np.complex64]:
    """(K, N, N) complex64 normalised to ``mean_counts``: a soft spot with a curved wavefront and higher modes."""
    count = draw(st.integers(1, 3)) if modes is None else modes
    rng = draw(generators)
    axis = (np.arange(N) - N // 2) / N
    y, x = axis[:, None], axis[None, :]
    spot = np.exp(-(x**2 + y**2) / (2 * rng.uniform(0.12, 0.25) ** 2) + 1j * rng.uniform(-20, 20) * (x**2 + y**2))
    stack = [spot * (x + 1j * rng.uniform(-1, 1) * y) ** order * 0.5**order for order in range(count)]
    return reference.normalised_probe(stack, mean_counts).astype(np.complex64)


@st.composite
def objects(draw: st.DrawFn, shape: tuple[int, int]) -> NDArray[np.complex64]:
    """(H, W) complex64, amplitude in [0.2, 1.2], any phase; no symmetry that could hide a swapped axis."""
    rng = draw(generators)
    amplitude = rng.uniform(0.2, 1.2, shape)
    return np.asarray(amplitude * np.exp(1j * rng.uniform(-np.pi, np.pi, shape)), dtype=np.complex64)


@st.composite
def scans(
    draw: st.DrawFn, *, N: int | None = None, min_count: int = 1, max_count: int = 12, noisy: bool = False
) -> Scan:
    """A simulated scan with probe and truth; expected counts, or Poisson counts, in float32.

    Args:
        noisy: Draw photons; else the patterns are noiseless.
    """
    side = draw(sizes) if N is None else N
    where = draw(positions(min_count=min_count, max_count=max_count))
    probe = draw(probes(side))
    origin, shape = reference.canvas_geometry(where, side)
    truth = draw(objects(shape))
    counts = reference.simulate_counts(reference.extract_patches(truth, where, side, origin), probe)
    if noisy:
        counts = draw(generators).poisson(counts).astype(np.float64)
    unit: Any = draw(st.sampled_from(["counts", "amplitude"]))
    return Scan(
        measurements=np.asarray(np.sqrt(counts) if unit == "amplitude" else counts, dtype=np.float32),
        unit=unit,
        positions_px=where,
        probe=probe,
        probe_kind="exact",
        object_truth=truth,
        object_origin_yx_px=origin,
    )


@st.composite
def groups(
    draw: st.DrawFn, positions_px: NDArray[np.float64], *, gridsize: int | None = None, max_groups: int = 8
) -> Groups:
    """Groups of one scan by brute force: a seed, and C - 1 of its C + 2 nearest others.

    Args:
        positions_px: (M, 2) [x, y]; M >= gridsize**2.
        gridsize: If None, drawn from the values that M allows.
    """
    count = len(positions_px)
    side = draw(st.sampled_from([g for g in (1, 2, 3) if g * g <= count])) if gridsize is None else gridsize
    rng = draw(generators)
    members = np.empty((draw(st.integers(1, max_groups)), side * side), dtype=np.int64)
    for row in members:
        seed = int(rng.integers(count))
        distance = np.hypot(*(positions_px - positions_px[seed]).T)
        distance[seed] = np.inf
        near = np.argsort(distance, kind="stable")[: min(count - 1, side * side + 2)]
        row[:] = [seed, *rng.permutation(near)[: side * side - 1]]
    return grouped(positions_px, members)


def grouped(positions_px: NDArray[np.float64], members: NDArray[np.int64]) -> Groups:
    """Groups of the given members (n, C), with their coordinates by ARR-14."""
    chosen = positions_px[members]
    centre = chosen.mean(axis=1, keepdims=True)
    return Groups(
        nn_indices=members,
        coords_offsets=np.asarray(centre.transpose(0, 2, 1)[:, None], dtype=np.float32),
        coords_relative=np.asarray((centre - chosen).transpose(0, 2, 1)[:, None], dtype=np.float32),
    )
