"""The probe by this backend's joint reconstruction (specs/training.md TRN-3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ptycho_contracts.config import ReconstructionConfig
from ptycho_contracts.testing import reference
from ptycho_data.batches.gathering import mean_counts
from ptycho_data.files import read_scan
from ptycho_data.fitting.probe_estimation import Chosen, calibrate, calibration_quality, central, find_probe
from ptycho_data.fitting.probes import overlap, with_modes
from ptycho_data.workflows.calibration import solver
from ptycho_torch.backend import BACKEND

SOLVER = solver(BACKEND, "cpu")
CONFIG = ReconstructionConfig(epochs=3)


def test_a_part_of_the_scan_calibrates(scan):
    """The patterns that were chosen are read and no other, on their own canvas; unit energy."""
    reported = []

    class Watched:
        N, bad_pixels, scan_index = 32, None, scan.scan_index

        def __len__(self):
            return 64

        def counts(self, index=slice(None)):
            reported.extend(np.asarray(index).tolist())
            return scan.counts(index)

    allowed = np.arange(0, 64, 2)
    fit = calibrate(
        SOLVER, Watched(), scan.positions_px, scan.probe, indices=allowed, mean_counts=1e5, config=CONFIG, patterns=20
    )
    assert len(set(reported)) == 20
    assert set(reported) <= set(allowed.tolist())
    assert len(fit.losses) == 3
    assert fit.object.shape < reference.canvas_geometry(scan.positions_px, 32)[1]
    assert float((np.abs(fit.probe) ** 2).sum()) == pytest.approx(1, rel=1e-4)


def test_a_probe_is_estimated_from_the_patterns(scan):
    """PHY-13: it, or its conjugate twin, is near the true one; the same bits again, and no held-out pattern in it."""
    allowed = np.arange(1, 64)
    seen = []
    options = {"indices": allowed, "mean_counts": 1e5, "config": CONFIG}
    probe, summary = find_probe(
        SOLVER, scan, scan.positions_px, progress=lambda *report: seen.append(report), **options
    )
    assert probe.shape == (1, 32, 32)
    _, twin, _, _ = reference.twin(np.ones((2, 2)), scan.probe, scan.positions_px, [0, 0])
    assert max(overlap(probe, scan.probe), overlap(probe, twin.astype(np.complex64))) > 0.8
    best = min(summary["losses"], key=lambda entry: entry["loss"])
    assert summary["defocus_cycles"] == best["defocus_cycles"]
    assert {report[0] for report in seen} == {"probe search"}
    assert [report[1] for report in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][1] <= seen[-1][2]
    altered = np.array(scan.measurements)
    altered[0] = altered[0][::-1] * 5
    again, _ = find_probe(SOLVER, replace(scan, measurements=altered), scan.positions_px, **options)
    np.testing.assert_array_equal(again, probe)


def test_a_calibration_is_evaluated_on_its_own_patterns(scan):
    """TRN-3b: R and floor of object and probe as the fit left them, by the NumPy reference."""
    mine = central(scan.positions_px, np.arange(1, 64), 40)
    source, where = Chosen(scan, mine), scan.positions_px[mine]
    given = {"mean_counts": 1e5, "config": CONFIG, "max_seconds": None, "stage": "calibration", "progress": None}
    fit = SOLVER.fit(source, where, scan.probe, **given)
    some = np.arange(0, 40, 3)
    residual = SOLVER.residual(source, where, fit, some, mean_counts=1e5)
    origin, shape = reference.canvas_geometry(where, 32)
    assert fit.object.shape == shape
    patches = reference.extract_patches(fit.object, where[some], 32, origin)
    energy = (np.abs(fit.probe.astype(np.complex128)) ** 2).sum()
    simulated = reference.simulate_counts(patches, fit.probe * np.sqrt(1e5 / energy))
    assert residual.value == pytest.approx(reference.residual(simulated, scan.counts(mine[some])), rel=1e-3)
    assert residual.floor == pytest.approx(reference.poisson_floor(simulated), rel=0.05)


@pytest.mark.shared_data
def test_measured_patterns_reveal_missing_modes(shared_data):
    """TRN-3b on the Siemens star's middle: with three modes R comes much nearer to its floor than with one."""
    star = read_scan(shared_data / "siemens_star.npz")
    mine = central(star.positions_px, np.arange(len(star)), 100)
    options = {
        "indices": mine,
        "mean_counts": mean_counts(star, allowed=mine)[0],
        "config": ReconstructionConfig(epochs=15),
    }
    ratios = []
    for modes in (1, 3):
        fit = calibrate(SOLVER, star, star.positions_px, with_modes(star.probe, modes), **options)
        reported = calibration_quality(SOLVER, star, star.positions_px, fit, **options)
        assert (reported["patterns"], reported["judged"], reported["steps"]) == (100, 100, 105)
        ratios.append(reported["residual"] / reported["poisson_floor"])
    assert ratios[1] > 1
    assert ratios[0] - 1 > 1.5 * (ratios[1] - 1)
