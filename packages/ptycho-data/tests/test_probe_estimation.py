"""Which patterns calibrate a probe, and which defocus wins (specs/training.md TRN-3); the solver is a stand-in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from ptycho_contracts.config import ReconstructionConfig, TrainingConfig
from ptycho_data.files import combine_scans
from ptycho_data.fitting import FarFieldResidual
from ptycho_data.fitting.probe_estimation import (
    Chosen,
    calibrate,
    calibration_quality,
    central,
    find_probe,
    training_probe,
)
from ptycho_data.simulate import simulate
from ptycho_data.stages import Stages
from ptycho_data.workflows.calibration import solver

SCAN = simulate(N=16, n_patterns=30, step_px=2.0, photons_per_pattern=1e5, seed=1)
CONFIG = ReconstructionConfig(epochs=3, loss="poisson", seed=5)


@dataclass
class Fit:
    """The result of a reconstruction."""

    probe: np.ndarray
    losses: tuple[float, ...]
    object: np.ndarray


class StandIn:
    """A solver that records what it is given; its loss is a function of the probe that it starts from."""

    def __init__(self, loss=lambda probe: 1.0):
        self.loss, self.fits, self.residuals = loss, [], []

    def fit(self, source, positions_px, probe, **options):
        self.fits.append((source, positions_px, probe, options))
        epochs = options["config"].epochs
        nothing = np.ones((2, 2), np.complex64)
        return Fit(probe * np.complex64(2), (9.0,) * (epochs - 1) + (self.loss(probe),), nothing)

    def residual(self, source, positions_px, fit, indices, *, mean_counts):
        self.residuals.append((source, positions_px, fit, indices, mean_counts))
        return FarFieldResidual(0.5, 0.25, np.zeros(0), np.zeros(0))


def defocus_of(probe) -> float:
    """The d of TRN-3a from the far field's phase pi d N |q|^2, one step q = 1/N beside zero frequency.

    Right below |d| = N; of 16 itself, with N = 16, only the sign is uncertain.
    """
    side = probe.shape[-1]
    field = np.fft.fft2(np.fft.ifftshift(probe[0].astype(np.complex128)))
    step = np.angle(field[0, 1] / field[0, 0])
    return step * side / np.pi


def test_central():
    """The nearest to the median, ascending, among the allowed."""
    where = np.array([[0.0, 0], [10, 0], [20, 0], [30, 0], [40, 0], [1000, 0]])
    np.testing.assert_array_equal(central(where, np.arange(5), 3), [1, 2, 3])
    np.testing.assert_array_equal(central(where, np.array([0, 2, 5]), 2), [0, 2])
    np.testing.assert_array_equal(central(where, np.arange(5), 100), np.arange(5))


def test_chosen_patterns():
    """Numbered from 0, as the source gives them."""
    part = Chosen(SCAN, np.array([5, 9, 1]))
    assert len(part) == 3
    np.testing.assert_array_equal(part.counts(np.array([2, 0])), SCAN.counts([1, 5]))
    np.testing.assert_array_equal(part.counts(), SCAN.counts([5, 9, 1]))
    np.testing.assert_array_equal(part.scan_index, [0, 0, 0])


def test_a_part_of_the_scan_calibrates():
    """Invariant 10: only allowed patterns are ever chosen, with the positions that are theirs."""
    allowed, solver = np.arange(0, 30, 2), StandIn()
    fit = calibrate(
        solver, SCAN, SCAN.positions_px, SCAN.probe, indices=allowed, mean_counts=7.0, config=CONFIG, patterns=6
    )
    ((source, positions_px, probe, options),) = solver.fits
    far = np.abs(SCAN.positions_px[allowed] - np.median(SCAN.positions_px[allowed], axis=0)).max(1)
    mine = np.sort(allowed[np.argsort(far)[:6]])
    np.testing.assert_array_equal(source.counts(), SCAN.counts(mine))
    np.testing.assert_array_equal(positions_px, SCAN.positions_px[mine])
    np.testing.assert_array_equal(probe, SCAN.probe)
    expected = {"mean_counts": 7.0, "config": CONFIG, "max_seconds": None, "stage": "calibration", "progress": None}
    assert options == expected
    assert fit.losses == (9.0, 9.0, 1.0)


@pytest.mark.parametrize("true", [0.0, 0.3, -1.1, 2.9, -5.5])
def test_the_best_defocus_wins(true):
    """TRN-3a: first on the ladder, then around its best; each is tried once, all are reported."""
    solver, seen = StandIn(lambda probe: abs(defocus_of(probe) - true)), []
    probe, summary = find_probe(
        solver,
        SCAN,
        SCAN.positions_px,
        indices=np.arange(30),
        mean_counts=1e5,
        config=CONFIG,
        progress=lambda *report: seen.append(report),
    )
    tried = [entry["defocus_cycles"] for entry in summary["losses"]]
    assert tried == sorted(set(tried))
    assert {0.0, *(sign * 2.0**power for power in range(-1, 5) for sign in (1, -1))} <= set(tried)
    ladder = [0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0, 8.0, -8.0]
    coarse = min(ladder, key=lambda defocus: abs(defocus - true))
    near = [coarse * factor for factor in (0.7, 0.85, 1.2, 1.45)] if coarse else [0.25, -0.25]
    expected = min([coarse, *near], key=lambda defocus: abs(defocus - true))
    assert summary["defocus_cycles"] == pytest.approx(expected)
    assert defocus_of(probe) == pytest.approx(expected, abs=1e-4)
    assert len(solver.fits) == len(tried) == len(seen)
    assert [report[:2] for report in seen] == [("probe search", done) for done in range(1, len(seen) + 1)]
    assert all(report[2] >= len(seen) for report in seen)
    assert {(call[3]["config"].epochs, call[3]["config"].loss, call[3]["config"].seed) for call in solver.fits} == {
        (6, "poisson", 5)
    }


def test_the_estimated_probe_has_the_mean_pattern_s_modulus():
    """TRN-3a: by NumPy's transform, of the allowed patterns alone."""
    allowed = np.arange(1, 30)
    probe, _ = find_probe(StandIn(), SCAN, SCAN.positions_px, indices=allowed, mean_counts=1e5, config=CONFIG)
    far = np.fft.fftshift(np.abs(np.fft.fft2(probe[0].astype(np.complex128), norm="ortho")))
    expected = np.sqrt(SCAN.counts(allowed).astype(np.float64).mean(0))
    np.testing.assert_allclose(far, expected / np.linalg.norm(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "asked", "calibrated"),
    [("exact", None, False), ("guess", None, True), ("guess", False, False), ("exact", True, True)],
)
def test_a_given_probe(kind, asked, calibrated):
    """TRN-3: calibrated if the file does not call it exact, or if requested; on the first scan that is used."""
    other = replace(SCAN, probe=None, object_truth=None, object_origin_yx_px=None)
    both = combine_scans([replace(SCAN, probe_kind=kind, object_truth=None, object_origin_yx_px=None), other])
    solver, stages, training = StandIn(), Stages(), TrainingConfig(calibration_epochs=4, calibrate_probe=asked, seed=3)
    probe, result = training_probe(
        solver, both, both, np.arange(2, 60), {0: 11.0, 1: 22.0}, modes=2, training=training, stages=stages
    )
    assert probe.shape == (2, 16, 16)
    assert result["calibrated"] is calibrated
    assert result["overlap_with_given"] == pytest.approx(1, abs=1e-5)
    assert result["mode_powers"] == pytest.approx([1 / 1.01, 0.01 / 1.01], rel=1e-3)
    assert set(stages.seconds) == ({"calibration"} if calibrated else set())
    assert ("losses" in result) is calibrated
    if calibrated:
        ((source, _, _, options),) = solver.fits
        np.testing.assert_array_equal(source.counts(), SCAN.counts(np.arange(2, 30)))
        assert (options["mean_counts"], options["config"].epochs, options["config"].seed) == (11.0, 4, 3)
        assert (result["epochs"], result["losses"]) == (4, [9.0, 9.0, 9.0, 1.0])
        ((source, positions_px, fit, indices, mean),) = solver.residuals
        np.testing.assert_array_equal(source.counts(indices), SCAN.counts(np.arange(2, 30)))
        np.testing.assert_array_equal(positions_px[indices], SCAN.positions_px[2:])
        np.testing.assert_array_equal(fit.probe, probe)
        assert mean == 11.0
        assert result["calibration"] == {
            "patterns": 28,
            "steps": 8,
            "judged": 28,
            "residual": 0.5,
            "poisson_floor": 0.25,
        }
    else:
        assert (result["calibration"], solver.residuals) == (None, [])


@pytest.mark.parametrize("loss", ["amplitude", "poisson"])
@pytest.mark.parametrize("with_probe", [True, False])
def test_a_backend_is_given_the_loss_that_was_asked_for(loss, with_probe):
    """TRN-3, TRN-3a: in the calibration, and in the search for a probe."""
    losses = []

    class Backend:
        def joint_fit(self, *arguments, **options):
            losses.append(options["loss"])
            return Fit(SCAN.probe, (1.0,), np.ones((2, 2), np.complex64))

        def residual(self, *arguments, **options):
            return FarFieldResidual(0.5, 0.25, np.zeros(0), np.zeros(0))

    scan = SCAN if with_probe else replace(SCAN, probe=None, object_truth=None, object_origin_yx_px=None)
    training = TrainingConfig(calibrate_probe=True, loss=loss)
    where = solver(Backend(), "cpu"), scan, scan, np.arange(30), {0: 1e5}
    training_probe(*where, modes=1, training=training, stages=Stages())
    assert set(losses) == {loss}
    assert (len(losses) > 1) is not with_probe


def test_at_most_256_patterns_evaluate_a_calibration():
    """TRN-3b: of the calibration's own, evenly, from the first to the last; steps as in PHY-27."""
    many = simulate(N=8, n_patterns=700, step_px=1.0, photons_per_pattern=1e3, seed=1)
    fit, solver = Fit(many.probe, (1.0,) * 5, np.ones((2, 2))), StandIn()
    allowed = np.arange(0, 700, 2)
    result = calibration_quality(
        solver, many, many.positions_px, fit, indices=allowed, mean_counts=7.0, config=CONFIG, patterns=300
    )
    ((source, positions_px, reported, indices, mean),) = solver.residuals
    assert reported is fit
    assert mean == 7.0
    assert (result["patterns"], result["judged"], result["steps"]) == (300, 256, 5 * 19)
    assert (indices[0], indices[-1], len(indices)) == (0, 299, 256)
    assert set(np.diff(indices)) == {1, 2}
    mine = central(many.positions_px, allowed, 300)
    np.testing.assert_array_equal(source.counts(indices), many.counts(mine[indices]))
    np.testing.assert_array_equal(positions_px, many.positions_px[mine])


def test_no_probe_is_given():
    """TRN-3a: it is estimated, and calibrated unless that is switched off."""
    bare = replace(SCAN, probe=None, object_truth=None, object_origin_yx_px=None)
    for asked, calls in ((None, 1), (False, 0)):
        solver, stages = StandIn(), Stages()
        _, result = training_probe(
            solver,
            bare,
            bare,
            np.arange(30),
            {0: 1e5},
            modes=1,
            stages=stages,
            training=TrainingConfig(calibration_epochs=4, calibrate_probe=asked),
        )
        assert len(solver.fits) == len(result["search"]["losses"]) + calls
        assert result["overlap_with_given"] is None
        assert list(stages.seconds) == ["probe search", "calibration"][: 1 + calls]
