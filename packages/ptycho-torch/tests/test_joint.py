"""Joint reconstruction of object and probe (specs/physics.md PHY-27)."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ptycho_contracts.problems import WorkFailedError
from ptycho_contracts.testing import reference
from ptycho_data.canvas import canvas_geometry, illumination, scan_sites
from ptycho_data.fitting import JointFit
from ptycho_data.fitting.probes import mode_powers, overlap, with_modes
from ptycho_data.metrics import compare
from ptycho_data.simulate import simulate as simulated_scan
from ptycho_torch.backend import BACKEND

OPTIONS = {"batch_size": 8, "object_learning_rate": 0.02, "probe_learning_rate": 0.005, "loss": "amplitude", "seed": 0}
THOROUGH = {"epochs": 40, "batch_size": 4, "object_learning_rate": 0.05}


def fit_jointly(view, probe, *, epochs=3, **options) -> JointFit:
    """A joint reconstruction from the used patterns of a view."""
    return BACKEND.joint_fit(
        view.source,
        view.sites,
        probe,
        device="cpu",
        indices=view.used,
        mean_counts=view.mean_counts,
        epochs=epochs,
        **{**OPTIONS, **options},
    )


def correlation(view, fit) -> float:
    """With the true object, over the scanned area, after ramps and phase are removed."""
    weight = illumination(fit.probe, view.sites)
    figures = compare(
        fit.object,
        view.source.object_truth,
        estimate_origin_yx_px=view.geometry.origin_yx_px,
        truth_origin_yx_px=view.source.object_origin_yx_px,
        weight=weight,
    )
    return figures.complex_correlation


def same(one: JointFit, other: JointFit) -> bool:
    """Bit for bit."""
    return np.array_equal(one.object, other.object) and np.array_equal(one.probe, other.probe)


@pytest.fixture(scope="module")
def view(scan, view_of):
    """A scan with an eighth of its patterns held out."""
    return view_of(scan, held=np.arange(0, 64, 8))


@pytest.mark.parametrize("loss", ["amplitude", "poisson"])
def test_finds_the_object(loss, view):
    """From empty space, with the true probe kept."""
    fit = fit_jointly(view, view.source.probe, **THOROUGH, loss=loss, probe_learning_rate=0.0)
    assert fit.losses[-1] < 0.2 * fit.losses[0]
    assert correlation(view, fit) > 0.9
    assert overlap(fit.probe, view.source.probe) == pytest.approx(1, abs=1e-5)


def test_simulates_the_patterns_that_it_fitted(view):
    """Object and probe belong together, in the units of PHY-10, as the NumPy reference simulates."""
    fit = fit_jointly(view, with_modes(view.source.probe, 2), epochs=20)
    assert float((np.abs(fit.probe) ** 2).sum()) == pytest.approx(1, rel=1e-4)
    patches = reference.extract_patches(
        fit.object, view.positions_px[view.used], view.source.N, view.geometry.origin_yx_px
    )
    expected = reference.simulate_counts(patches, fit.probe * np.sqrt(view.mean_counts))
    counts = view.source.counts(view.used)
    uniform = reference.simulate_counts(np.ones_like(patches), fit.probe * np.sqrt(view.mean_counts))
    assert reference.residual(expected, counts) < 0.25 * reference.residual(uniform, counts)
    assert reference.residual(expected, counts) == pytest.approx(fit.losses[-1], rel=0.5)


def test_calibrates_a_wrong_probe(view):
    """A probe of another defocus comes nearer to the true one, and explains the data better than when kept."""
    truth = view.source.probe
    y, x = np.mgrid[:32, :32] - 16
    far = np.fft.fftshift(np.fft.fft2(truth), axes=(-2, -1)) * np.exp(0.05j * (x**2 + y**2))
    wrong = np.fft.ifft2(np.fft.ifftshift(far, axes=(-2, -1))).astype(np.complex64)
    assert overlap(wrong, truth) < 0.85
    fit = fit_jointly(view, wrong, **THOROUGH)
    kept = fit_jointly(view, wrong, **THOROUGH, probe_learning_rate=0.0)
    assert overlap(fit.probe, truth) > 0.99
    assert fit.losses[-1] < 0.3 * kept.losses[-1]
    assert correlation(view, fit) > 0.93 > 0.8 > correlation(view, kept)


def test_modes_are_fitted(view, view_of):
    """Data of two modes: a second mode lowers the loss, and takes its part of the energy."""
    probe = with_modes(view.source.probe, 2) * np.array([1, 6], np.complex64)[:, None, None]
    scan = simulated_scan(
        probe=probe, object_kind="dead_leaves", n_patterns=64, step_px=3.0, photons_per_pattern=1e5, seed=1
    )
    view = view_of(scan)
    options = {**THOROUGH, "epochs": 25}
    one, two = (fit_jointly(view, with_modes(scan.probe[:1], modes), **options) for modes in (1, 2))
    assert two.losses[-1] < 0.9 * one.losses[-1]
    assert two.probe.shape == (2, 32, 32)
    assert mode_powers(two.probe)[1] > 0.03  # it began at 0.01


def test_positions_are_refined(view_of, scan):
    """Positions known to 0.7 px are corrected to 0.1 px, up to what no data determine: a common affine map (PHY-12)."""
    error = np.random.default_rng(0).normal(0, 0.7, (64, 2))
    view = view_of(replace(scan, positions_px=scan.positions_px + error))
    options = {**THOROUGH, "probe_learning_rate": 0.0}
    kept, result = (fit_jointly(view, scan.probe, **options, position_learning_rate=rate) for rate in (0.0, 0.05))
    assert not kept.shifts_yx_px.any()
    left = error + result.shifts_yx_px[:, ::-1]
    assert undetermined_apart(left, scan.positions_px) < 0.1 < 0.6 < undetermined_apart(error, scan.positions_px)
    assert result.losses[-1] < 0.3 * kept.losses[-1]
    patches = reference.extract_patches(
        np.pad(result.object, 4, constant_values=1),
        view.positions_px + result.shifts_yx_px[:, ::-1],
        32,
        view.geometry.origin_yx_px - 4,
    )
    simulated = reference.simulate_counts(patches, result.probe * np.sqrt(view.mean_counts))
    assert reference.residual(simulated, scan.counts()) == pytest.approx(result.losses[-1], rel=0.1)


def test_positions_stay_on_the_canvas(view):
    """Whatever the rate, the returned positions are those at which the patterns were simulated."""
    fit = fit_jointly(view, view.source.probe, epochs=3, position_learning_rate=50.0)
    moved = view.positions_px + fit.shifts_yx_px[:, ::-1]
    scan_sites(moved, view.geometry, 32)  # raises for a patch beyond the canvas
    assert np.abs(fit.shifts_yx_px).max() > 5


def undetermined_apart(error, positions) -> float:
    """RMS of position errors, without their affine part."""
    basis = np.c_[np.ones(len(positions)), positions - positions.mean(0)]
    return float(np.sqrt(np.mean((error - basis @ np.linalg.lstsq(basis, error, rcond=None)[0]) ** 2)))


def test_positions_of_held_out_patterns_stay(view):
    """PHY-28."""
    fit = fit_jointly(view, view.source.probe, epochs=4, position_learning_rate=0.05)
    assert not fit.shifts_yx_px[::8].any()
    assert (np.abs(fit.shifts_yx_px[view.used]).max(1) > 0).all()


def test_background_is_fitted(view_of, scan):
    """PHY-28: 20 counts per pixel that no object makes are fitted, and no longer spoil the object."""
    extra = np.random.default_rng(0).poisson(20, scan.measurements.shape)
    view = view_of(replace(scan, measurements=np.asarray(scan.measurements) + extra))
    options = {**THOROUGH, "probe_learning_rate": 0.0}
    kept, result = (fit_jointly(view, scan.probe, **options, background_learning_rate=rate) for rate in (0.0, 0.02))
    assert not kept.background.any()
    assert result.background.min() >= 0
    assert np.median(result.background) * view.mean_counts == pytest.approx(20, rel=0.1)
    assert result.losses[-1] < 0.2 * kept.losses[-1]
    assert correlation(view, result) > correlation(view, kept) + 0.2


def test_held_out_patterns_change_no_bit(view, view_of):
    """Invariant 10."""
    altered = np.array(view.source.measurements)
    altered[::8] = altered[::8][:, ::-1] * 7 + 3
    other = view_of(replace(view.source, measurements=altered), held=np.arange(0, 64, 8))
    assert same(fit_jointly(view, view.source.probe), fit_jointly(other, view.source.probe))
    reported = view_of(replace(view.source, measurements=altered), held=np.arange(1, 64, 8))
    assert not same(fit_jointly(view, view.source.probe), fit_jointly(reported, view.source.probe))


def test_same_seed_same_bits_and_nobody_else_s_dice(view):
    """Invariant 42."""
    random.seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()  # noqa: NPY002
    first = fit_jointly(view, view.source.probe)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), states[2])
    torch.manual_seed(99)
    assert same(first, fit_jointly(view, view.source.probe))
    assert not same(first, fit_jointly(view, view.source.probe, seed=1))


def test_more_patterns_per_step_than_there_are(view):
    """One step per epoch."""
    seen = []
    fit = fit_jointly(view, view.source.probe, batch_size=1000, progress=lambda *report: seen.append(report))
    assert seen == [("reconstruction", 1, 3), ("reconstruction", 2, 3), ("reconstruction", 3, 3)]
    assert len(fit.losses) == 3


def test_bad_pixels_do_not_matter(view, view_of):
    """PHY-9: the value of a bad detector pixel changes no bit."""
    bad = np.zeros((32, 32), bool)
    bad[10, 20] = bad[16, 16] = True
    wild = np.array(view.source.measurements, np.float32)
    wild[:, 10, 20] = 12345
    views = [
        view_of(replace(view.source, bad_pixels=bad, measurements=measured))
        for measured in (np.asarray(view.source.measurements, np.float32), wild)
    ]
    assert same(*[fit_jointly(one, view.source.probe, epochs=2) for one in views])


def test_starts_from_a_given_object_and_leaves_it_as_it_is(view):
    """The caller's arrays stay; a good start has a lower first loss than empty space."""
    result = fit_jointly(view, view.source.probe, epochs=20, probe_learning_rate=0.0)
    start, probe = result.object.copy(), view.source.probe.copy()
    start.flags.writeable = probe.flags.writeable = False
    further = fit_jointly(view, probe, object_start=start, epochs=2)
    np.testing.assert_array_equal(start, result.object)
    np.testing.assert_array_equal(probe, view.source.probe)
    assert further.losses[0] < 0.5 * result.losses[0]


def test_the_scale_of_the_probe_is_no_matter(view):
    """Invariant 2: any scale of the start gives the same fit to rounding."""
    one = fit_jointly(view, view.source.probe)
    other = fit_jointly(view, view.source.probe * np.complex64(1e-3))
    np.testing.assert_allclose(other.object, one.object, atol=2e-3)


def test_dose_leaves_the_object(view, view_of):
    """Invariant 1: counts times k, mean counts times k: the same object."""
    brighter = replace(view.source, measurements=np.asarray(view.source.measurements, np.float32) * 4)
    other = view_of(brighter, held=np.arange(0, 64, 8))
    # To 3 % of the contrast: eps is a number of counts, so the darkest pixels weigh a little differently.
    one, bright = (fit_jointly(v, view.source.probe, epochs=10, probe_learning_rate=0.0) for v in (view, other))
    lit = illumination(one.probe, view.sites)
    difference = np.average(np.abs(bright.object - one.object), weights=lit)
    assert difference < 0.03 * np.average(np.abs(one.object - 1), weights=lit)


def test_translation(view, view_of):
    """Invariant 15: all positions moved by a million pixels: the same bits."""
    where = np.round(view.positions_px * 4) / 4
    scans = [replace(view.source, positions_px=where + move) for move in (0, np.array([1e6, -3e5]))]
    views = [view_of(one) for one in scans]
    assert same(*[fit_jointly(one, view.source.probe) for one in views])
    np.testing.assert_array_equal(views[1].geometry.origin_yx_px - views[0].geometry.origin_yx_px, [-3e5, 1e6])


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets, in seconds."""
    made = SimpleNamespace(now=0.0)
    monkeypatch.setattr("ptycho_data.fitting.loop.time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_max_seconds_ends_the_schedule(view, clock):
    """Steps of a second, 7 in an epoch: of ten seconds one epoch is whole; half a second is for one step of it."""

    def tick(*report):
        clock.now += 1.0

    for limit, epochs in ((10.0, 1), (15.0, 2), (0.5, 1)):
        fit = fit_jointly(view, view.source.probe, epochs=1_000_000, max_seconds=limit, progress=tick)
        assert (len(fit.losses), fit.history.stopped_by) == (epochs, "max_seconds")
        assert np.isfinite(fit.object).all()


def test_divergence_is_an_error(view):
    """No NaN is ever returned as a result."""
    with pytest.raises(WorkFailedError, match=r"descent\.diverged"):
        fit_jointly(view, view.source.probe, epochs=50, object_learning_rate=1e30)


def test_divergence_when_time_is_over_is_an_error(view, clock):
    """Also if the clock stops the fit inside an epoch that went wrong."""
    steps = []

    class Spoilt:
        """The first epoch's reads are good, the second one's are not."""

        N, bad_pixels, scan_index = view.source.N, None, view.source.scan_index

        def __len__(self):
            return len(view.source)

        def counts(self, index=slice(None)):
            counts = view.source.counts(index)
            return counts if len(steps) < 7 else np.full_like(counts, np.nan)

    def slow(*report):
        steps.append(report)
        if len(steps) == 9:
            clock.now += 0.6

    spoilt = replace(view, source=Spoilt())
    with pytest.raises(WorkFailedError, match=r"descent\.diverged"):
        fit_jointly(spoilt, view.source.probe, epochs=50, max_seconds=0.5, progress=slow)
    assert len(steps) == 9


def test_memory_is_that_of_a_minibatch(scan, view_of):
    """Invariant 39: never more patterns are read at once than a step takes."""
    reads = []

    class Counting:
        N, bad_pixels, scan_index = scan.N, None, scan.scan_index

        def __len__(self):
            return len(scan)

        def counts(self, index=slice(None)):
            reads.append(len(scan.measurements[index]))
            return scan.counts(index)

    view = replace(view_of(scan), source=Counting())
    fit_jointly(view, scan.probe, epochs=1, batch_size=16)
    assert max(reads) == 16
    assert sum(reads) == 64


def test_placement_of_other_patterns_is_no_matter():
    """PHY-8: the fit of some patterns on their own canvas is the fit on a larger canvas, to rounding."""
    scan = simulated_scan(N=16, n_patterns=36, step_px=2.0, seed=7)
    mine = np.arange(12)
    fits = []
    for chosen in (np.arange(36), mine):
        geometry = canvas_geometry(scan.positions_px[chosen], 16)
        part = replace(
            scan,
            measurements=scan.measurements[chosen],
            positions_px=scan.positions_px[chosen],
            scan_index=scan.scan_index[chosen],
        )
        fit = BACKEND.joint_fit(
            part,
            scan_sites(part.positions_px, geometry, 16),
            scan.probe,
            device="cpu",
            indices=mine,
            mean_counts=1e6,
            epochs=2,
            **OPTIONS,
        )
        fits.append(fit)
    assert fits[0].losses == pytest.approx(fits[1].losses, rel=1e-4)
