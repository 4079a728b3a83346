"""The probe by joint descent: calibrated from a guess, or found without one (specs/training.md TRN-3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ptycho_contracts.config import ReconstructionConfig
from ptycho_contracts.testing import reference
from ptycho_data.probes import overlap
from ptycho_torch.calibration import Chosen, calibrate, central, find_probe

CPU = torch.device("cpu")
CONFIG = ReconstructionConfig(epochs=3)


def test_central():
    """The nearest to the median, ascending, among the allowed."""
    where = np.array([[0.0, 0], [10, 0], [20, 0], [30, 0], [40, 0], [1000, 0]])
    np.testing.assert_array_equal(central(where, np.arange(5), 3), [1, 2, 3])
    np.testing.assert_array_equal(central(where, np.array([0, 2, 5]), 2), [0, 2])
    np.testing.assert_array_equal(central(where, np.arange(5), 100), np.arange(5))


def test_chosen_patterns(scan):
    """Numbered from 0, as the source gives them."""
    part = Chosen(scan, np.array([5, 9, 1]))
    assert len(part) == 3
    np.testing.assert_array_equal(part.counts(np.array([2, 0])), scan.counts([1, 5]))


def test_a_part_of_the_scan_calibrates(scan):
    """Only the chosen patterns are read, and only the allowed ones are ever chosen (invariant 10)."""
    allowed = np.arange(0, 64, 2)
    told = []

    class Watched:
        N, bad_pixels, scan_index = 32, None, scan.scan_index

        def __len__(self):
            return 64

        def counts(self, index=slice(None)):
            told.extend(np.asarray(index).tolist())
            return scan.counts(index)

    probe, fit = calibrate(
        Watched(),
        scan.positions_px,
        scan.probe,
        indices=allowed,
        mean_counts=1e5,
        config=CONFIG,
        device=CPU,
        patterns=20,
    )
    assert set(told) == set(central(scan.positions_px, allowed, 20).tolist())
    assert len(fit.losses) == 3
    assert float((np.abs(probe) ** 2).sum()) == pytest.approx(1, rel=1e-4)


def test_a_probe_is_found_from_the_patterns(scan):
    """PHY-13: it, or its twin, is near the true one; the same bits again, and no held-out pattern in it."""
    allowed = np.arange(1, 64)
    seen = []
    options = {"indices": allowed, "mean_counts": 1e5, "config": CONFIG, "device": CPU}
    probe, summary = find_probe(scan, scan.positions_px, progress=lambda *report: seen.append(report), **options)
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
    again, _ = find_probe(replace(scan, measurements=altered), scan.positions_px, **options)
    np.testing.assert_array_equal(again, probe)
