"""Moduli in a pass's order, and no other (specs/training.md IMG-1)."""

from __future__ import annotations

import numpy as np
import pytest
from ptycho_data.batches.moduli import ModuliStream
from ptycho_data.simulate import simulate


@pytest.fixture(scope="module", params=[16, 17])
def scan(request):
    """12 patterns of an even and of an odd side in pixels."""
    return simulate(N=request.param, n_patterns=12, step_px=2.0, photons_per_pattern=500, seed=3)


SUBSETS = [np.array([4, 1]), np.array([7]), np.array([0, 2, 3])]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_pass_reads_each_subset_in_turn(scan, workers):
    """Invariant 42: sqrt(counts / mean photons) with zero frequency at [0, 0], in float64 as the specification says."""
    seen: list[tuple[str, int, int]] = []
    with ModuliStream(
        scan, SUBSETS, passes=2, mean_counts=480.0, workers=workers, progress=lambda *step: seen.append(step)
    ) as stream:
        for _ in range(2):
            for number, subset in enumerate(SUBSETS):
                counts = np.fft.ifftshift(scan.measurements[subset].astype(np.float64), axes=(1, 2))
                np.testing.assert_allclose(stream.read(number), np.sqrt(counts / 480.0), rtol=1e-6)
    assert seen == [("inference", step, 6) for step in range(1, 7)]


@pytest.mark.parametrize("wrong", [0, 2, -1])
def test_another_subset_than_the_next_is_refused(scan, wrong):
    """Invariant 42: an index that would be ignored is an error, and nothing is lost by it."""
    with ModuliStream(scan, SUBSETS, passes=1, mean_counts=480.0) as stream:
        stream.read(0)
        with pytest.raises(IndexError, match="expected subset 1, found subset"):
            stream.read(wrong)
        assert stream.read(1).shape == (1, scan.N, scan.N)


def test_after_the_last_pass_nothing_is_read(scan):
    with ModuliStream(scan, SUBSETS[:1], passes=1, mean_counts=480.0) as stream:
        stream.read(0)
        with pytest.raises(IndexError, match="all passes are read"):
            stream.read(0)
