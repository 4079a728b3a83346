"""Random objects scanned as a given scan was (SIM-14)."""

import numpy as np
import pytest
from ptycho_data.simulate import defocused_disc, jittered, scans_from


@pytest.fixture(scope="module")
def synthetic():
    positions = jittered(30, step_px=4, seed=3) + 1e5
    probe = defocused_disc(32)
    return positions, probe, scans_from(positions, probe, count=3, photons_per_pattern=2e4, seed=5)


def test_every_object_is_a_scan_of_its_own(synthetic):
    positions, _, scan = synthetic
    assert scan.scan_index.tolist() == [0] * 30 + [1] * 30 + [2] * 30
    for number in range(3):
        mine = scan.positions_px[scan.scan_index == number]
        np.testing.assert_allclose(mine - mine[0], positions - positions[0], atol=1e-9)
    first, second = (scan.counts(scan.scan_index == number) for number in (0, 1))
    assert not np.array_equal(first, second)


def test_the_dose_is_that_of_the_scan(synthetic):
    """Invariant 9: within the Poisson error of 30 patterns of 2e4 photons, and the probe is the given one."""
    _, probe, scan = synthetic
    for number in range(3):
        mean = scan.counts(scan.scan_index == number).sum((1, 2)).mean()
        assert mean == pytest.approx(2e4, abs=5 * np.sqrt(2e4 / 30))
    given, kept = probe.ravel(), scan.probe.ravel()
    assert abs(np.vdot(given, kept)) == pytest.approx(np.linalg.norm(given) * np.linalg.norm(kept), rel=1e-5)


def test_the_seed_decides(synthetic):
    """Invariant 42."""
    positions, probe, scan = synthetic
    again = scans_from(positions, probe, count=3, photons_per_pattern=2e4, seed=5)
    other = scans_from(positions, probe, count=3, photons_per_pattern=2e4, seed=6)
    assert np.array_equal(again.measurements, scan.measurements)
    assert not np.array_equal(other.measurements, scan.measurements)
