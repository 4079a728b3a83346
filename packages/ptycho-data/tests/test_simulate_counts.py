"""Photon counts of simulated scans (specs/simulation.md, SIM-10 to SIM-13)."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_data import simulate as sim
from ptycho_data.metrics import poisson_floor, residual
from ptycho_data.simulate import counting


def slow_counts(obj, probe, positions_px, origin_yx_px=(0.0, 0.0)):
    """Oracle: the forward model of specs/physics.md with loops, DFT matrices and complex128."""
    N = probe.shape[-1]
    k = np.arange(N)
    dft = np.exp(-2j * np.pi * np.outer(k - N // 2, k) / N) / np.sqrt(N)
    padded = np.pad(obj.astype(np.complex128), ((0, 1), (0, 1)))
    counts = np.zeros((len(positions_px), N, N))
    for m, (x, y) in enumerate(positions_px):
        top, left = y - origin_yx_px[0] - N // 2, x - origin_yx_px[1] - N // 2
        i, j = int(np.floor(top)), int(np.floor(left))
        v, u = top - i, left - j
        window = padded[i : i + N + 1, j : j + N + 1]
        patch = (1 - v) * (1 - u) * window[:-1, :-1] + (1 - v) * u * window[:-1, 1:]
        patch = patch + v * (1 - u) * window[1:, :-1] + v * u * window[1:, 1:]
        for mode in probe.astype(np.complex128):
            counts[m] += np.abs(dft @ (mode * patch) @ dft.T) ** 2
    return counts


def small_scan(*, N=12, n=7, modes=1, seed=0, **options):
    positions, shape = sim.place(sim.jittered(n, step_px=3.3, seed=seed), N)
    obj = sim.random_field(shape, seed=seed)
    rng = np.random.default_rng(seed)
    probe = rng.standard_normal((modes, N, N)) + 1j * rng.standard_normal((modes, N, N))
    origin = options.get("object_origin_yx_px", (0.0, 0.0))
    moved = positions + np.array(origin)[::-1]
    return sim.simulate_scan(obj, probe, moved, **{"photons_per_pattern": 1e4, "seed": seed, **options}), obj, probe


@given(N=st.integers(4, 17), modes=st.integers(1, 3), seed=st.integers(0, 99), dose=st.floats(1.0, 1e12))
def test_truth_reproduces_noiseless_data(N, modes, seed, dose):
    """Invariant 21: probe times truth through the forward model is the noiseless data, to 1e-6."""
    scan, obj, probe = small_scan(N=N, modes=modes, seed=seed, poisson=False, photons_per_pattern=dose)
    assert scan.measurements.dtype == np.float32
    again = slow_counts(scan.object_truth, scan.probe, scan.positions_px)
    assert np.abs(again - scan.measurements).max() <= 1e-6 * again.max()
    from_inputs = slow_counts(obj, probe, scan.positions_px)
    from_inputs *= dose / from_inputs.sum(axis=(1, 2)).mean()
    assert np.abs(from_inputs - scan.measurements).max() <= 2e-6 * again.max()


@given(y=st.floats(-1e6, 1e6), x=st.floats(-1e6, 1e6), seed=st.integers(0, 9))
def test_only_differences_of_positions_matter(y, x, seed):
    """Invariant 15: object and positions moved together give the same patterns."""
    origin = (float(np.round(y)), float(np.round(x)))
    here, _, _ = small_scan(seed=seed, poisson=False)
    there, _, _ = small_scan(seed=seed, poisson=False, object_origin_yx_px=origin)
    assert there.object_origin_yx_px.tolist() == list(origin)
    np.testing.assert_allclose(there.measurements, here.measurements, rtol=1e-4, atol=1e-4)


@given(
    dose=st.floats(10.0, 1e9),
    background=st.sampled_from([0.0, 0.5, 20.0]),
    modes=st.integers(1, 2),
    poisson=st.booleans(),
    seed=st.integers(0, 99),
)
def test_probe_normalisation_and_dose(dose, background, modes, poisson, seed):
    """Invariants 2 and 9: the probe's power is the measured mean; the recorded dose is measured."""
    scan, _, _ = small_scan(
        photons_per_pattern=dose, background_counts=background, modes=modes, poisson=poisson, seed=seed
    )
    assert scan.unit == "counts"
    assert scan.probe_kind == "exact"
    measured = scan.measurements.sum(dtype=np.float64) / len(scan)
    assert scan.metadata["nphotons"] == pytest.approx(measured, rel=1e-9)
    assert np.sum(np.abs(scan.probe.astype(np.complex128)) ** 2) == pytest.approx(measured, rel=1e-6)
    expected = dose + background * 12 * 12
    spread = 6 * np.sqrt(expected / len(scan)) if poisson else 1e-6 * expected
    assert measured == pytest.approx(expected, abs=spread)
    light = slow_counts(scan.object_truth, scan.probe, scan.positions_px)
    assert light.sum() / len(scan) == pytest.approx(dose, rel=2e-6)
    assert scan.metadata["simulation"]["photons_per_pattern"] == dose


def test_counts_are_poisson():
    """Counts scatter about the noiseless ones with variance equal to mean, at small and large means."""
    noiseless, _, _ = small_scan(poisson=False, n=4)
    positions, truth, probe = noiseless.positions_px, noiseless.object_truth, noiseless.probe
    draws = np.stack(
        [
            sim.simulate_scan(truth, probe, positions, photons_per_pattern=1e4, seed=seed).measurements.astype(float)
            for seed in range(400)
        ]
    )
    mean = noiseless.measurements.astype(float)
    z = (draws.mean(axis=0) - mean) / np.sqrt(mean / len(draws))
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert z.std() == pytest.approx(1, abs=5 / np.sqrt(2 * z.size))
    ratio = draws.var(axis=0, ddof=1) / mean
    assert ratio[mean > 30].mean() == pytest.approx(1, abs=0.03)
    assert ratio[mean < 10].mean() == pytest.approx(1, abs=0.03)
    independent = np.corrcoef((draws - mean)[:, 0, 3, 4], (draws - mean)[:, 0, 4, 4])[0, 1]
    assert abs(independent) < 0.25


@given(block=st.integers(1, 9), poisson=st.booleans())
def test_blocks_change_nothing(block, poisson):
    """Invariant 8: many blocks or one, the same counts; the same light under every pattern gets different noise."""
    obj, probe, positions = np.ones((12, 12), complex), np.ones((12, 12), complex), np.full((9, 2), 6.0)
    options = {"photons_per_pattern": 1e4, "seed": 3, "poisson": poisson}
    whole = sim.simulate_scan(obj, probe, positions, **options).measurements
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_BLOCK_VALUES", block * 12 * 12)
        parts = sim.simulate_scan(obj, probe, positions, **options).measurements
    np.testing.assert_array_equal(parts, whole)
    assert len({pattern.tobytes() for pattern in parts}) == (9 if poisson else 1)


def test_noise_stands_at_its_floor():
    scan, _, _ = small_scan(N=24, n=40)
    expected = slow_counts(scan.object_truth, scan.probe, scan.positions_px)
    assert residual(scan.measurements, expected) == pytest.approx(poisson_floor(expected), rel=0.03)


@pytest.mark.parametrize(("dose", "dtype"), [(1e3, np.uint16), (1e9, np.uint32), (1e13, np.uint64)])
def test_counts_are_stored_in_the_narrowest_type(dose, dtype):
    """Invariant 7: no count overflows its dtype."""
    scan, _, _ = small_scan(photons_per_pattern=dose)
    assert scan.measurements.dtype == dtype
    assert scan.measurements.sum(dtype=np.float64) / len(scan) == pytest.approx(dose, rel=0.1)


def test_same_seed_same_bits():
    """Invariant 42."""
    first, again, other = (sim.simulate(N=16, n_patterns=20, seed=seed) for seed in (4, 4, 5))
    for name in ("measurements", "probe", "positions_px", "object_truth"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    assert first.measurements.tobytes() != other.measurements.tobytes()
    assert first.positions_px.tobytes() != other.positions_px.tobytes()


def test_streams_are_independent():
    """SIM-13: dose and probe change neither object nor positions."""
    base = sim.simulate(N=16, n_patterns=20, seed=4)
    for changed in ({"photons_per_pattern": 1e3}, {"probe_kind": "zone_plate"}, {"modes": 2}):
        scan = sim.simulate(N=16, n_patterns=20, seed=4, **changed)
        assert scan.positions_px.tobytes() == base.positions_px.tobytes()
        shape_of = [np.angle(s.object_truth) for s in (scan, base)]
        np.testing.assert_allclose(*shape_of, atol=1e-5)


@pytest.mark.parametrize("scan_kind", sorted(sim.SCANS))
@pytest.mark.parametrize("object_kind", sorted(sim.OBJECTS))
def test_every_recipe_makes_a_scan_whose_patches_overlap(object_kind, scan_kind):
    scan = sim.simulate(object_kind=object_kind, scan_kind=scan_kind, N=32, n_patterns=50, step_px=4.0)
    gaps = np.hypot(*(scan.positions_px[:, None] - scan.positions_px[None]).transpose(2, 0, 1))
    nearest = np.sort(gaps, axis=1)[:, 1]
    assert nearest.max() < 32 / 4
    counts = slow_counts(scan.object_truth, scan.probe, scan.positions_px[:3])
    assert residual(scan.measurements[:3], counts) == pytest.approx(poisson_floor(counts), rel=0.2)
    assert scan.metadata["simulation"]["object_kind"] == object_kind


def test_a_given_probe_decides_the_size():
    probe = sim.defocused_disc(24, modes=2)
    scan = sim.simulate(probe=probe, n_patterns=5)
    assert scan.N == 24
    assert scan.probe.shape == (2, 24, 24)
    overlap = np.vdot(probe, scan.probe) / np.linalg.norm(scan.probe)
    assert abs(overlap) == pytest.approx(1, abs=1e-5)


def test_progress_is_reported():
    seen = []
    sim.simulate(N=16, n_patterns=5, progress=lambda *report: seen.append(report))
    assert seen[-1] == ("simulate", 5, 5)


def test_bad_requests_are_refused():
    with pytest.raises(ContractError) as caught:
        sim.simulate(object_kind="line", probe_kind="disc", scan_kind="jitter")
    assert caught.value.codes == ("simulate.kind",) * 3
    assert "did you mean 'lines'?" in str(caught.value)
    with pytest.raises(ContractError) as caught:
        small_scan(photons_per_pattern=0, background_counts=-1)
    assert caught.value.codes == ("simulate.dose", "simulate.dose")
    with pytest.raises(ContractError, match=r"simulate\.dark"):
        sim.simulate_scan(
            np.zeros((20, 20), complex), np.ones((8, 8), complex), np.full((1, 2), 10.0), photons_per_pattern=1, seed=0
        )
    with pytest.raises(ContractError, match="canvas"):
        sim.simulate_scan(
            np.ones((20, 20), complex),
            np.ones((8, 8), complex),
            np.array([[10.0, 16.5]]),
            photons_per_pattern=1,
            seed=0,
        )


@pytest.mark.shared_data
def test_the_forward_model_explains_a_foreign_simulation(shared_data: Path):
    """Patterns that another program simulated are near their Poisson floor (it interpolates otherwise)."""
    with np.load(shared_data / "synth64.npz") as data:
        rows = slice(0, None, 5)
        positions = np.stack([data["xcoords"], data["ycoords"]], axis=1)[rows]
        measured = data["diff3d"][rows].astype(np.float64) ** 2
        obj, probe = data["objectGuess"], data["probeGuess"][None]
    blocks = sim.noiseless_counts(obj, probe, positions, object_origin_yx_px=np.zeros(2))
    simulated = np.concatenate([block for _, block in blocks])
    assert residual(measured, simulated) < 0.0033
    assert residual(measured, simulated) < 1.15 * poisson_floor(simulated)
    moved = sim.noiseless_counts(obj, probe, positions, object_origin_yx_px=np.array([1.0, 0.0]))
    assert residual(measured, np.concatenate([block for _, block in moved])) > 1.3 * residual(measured, simulated)
