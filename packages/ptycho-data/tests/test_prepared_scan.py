"""A scan prepared for inference, and what it must have (specs/training.md IMG)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ptycho_contracts.config import DataConfig
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import reference
from ptycho_data.checks.requirements import require_light, require_one_scan, require_photons, require_probe
from ptycho_data.files import combine_scans
from ptycho_data.simulate import simulate
from ptycho_data.workflows.prepared_scan import assembly_of, inference_groups, prepare_scan

SCAN = simulate(N=16, n_patterns=40, step_px=2.0, photons_per_pattern=1e4, seed=1)
BARE = replace(SCAN, probe=None, object_truth=None, object_origin_yx_px=None)


def code_of(call) -> tuple[str, ...]:
    """Codes of the one error."""
    with pytest.raises(ContractError) as caught:
        call()
    return caught.value.codes


@pytest.mark.parametrize("margin", [0, 8])
def test_view(margin):
    """IMG-4, PHY-28: the mean counts are those of the used patterns; corrected positions have 8 pixels on each side."""
    view = prepare_scan(SCAN, "0.25", 3, correct_positions=bool(margin))
    assert len(view.held_out) == 10
    assert sorted([*view.used, *view.held_out]) == list(range(40))
    assert view.mean_counts == pytest.approx(SCAN.counts(view.used).sum((1, 2), dtype=np.float64).mean(), rel=1e-6)
    origin, (height, width) = reference.canvas_geometry(SCAN.positions_px, 16)
    np.testing.assert_array_equal(view.geometry.origin_yx_px, np.asarray(origin) - margin)
    assert view.geometry.shape == (height + 2 * margin, width + 2 * margin)


def test_held_out_patterns_do_not_matter():
    """Invariant 10: no bit of the view comes from them."""
    view = prepare_scan(SCAN, "0.25", 3)
    altered = np.array(SCAN.measurements)
    altered[view.held_out] = altered[view.held_out] * 2 + 1
    other = prepare_scan(replace(SCAN, measurements=altered), "0.25", 3)
    assert other.mean_counts == view.mean_counts
    np.testing.assert_array_equal(other.used, view.used)


def test_inference_by_groups():
    """Of the used patterns alone, in the data's gridsize."""
    view = prepare_scan(SCAN, "0.25", 3)
    groups = inference_groups(view, DataConfig(N=16, gridsize=2, n_groups=12), 5)
    assert groups.nn_indices.shape == (12, 4)
    assert not np.isin(groups.nn_indices, view.held_out).any()


def test_scans_that_cannot_be_inferred():
    """IMG-5: several objects in one file; no photons in what is used."""
    several = combine_scans([BARE, BARE])
    assert code_of(lambda: prepare_scan(several, None, 0)) == ("scan.several",)
    dark = replace(BARE, measurements=np.zeros_like(SCAN.measurements))
    assert code_of(lambda: prepare_scan(dark, None, 0)) == ("scan.no_photons",)


def test_assembly():
    """IMG-5: a whole canvas where the network can, else groups; never what it cannot."""
    assert assembly_of("auto", "unrolled", True) == "canvas"
    assert assembly_of("auto", "cnn", False) == "groups"
    assert assembly_of("canvas", "unrolled", True) == "canvas"
    assert [assembly_of("groups", "any", able) for able in (True, False)] == ["groups", "groups"]
    assert code_of(lambda: assembly_of("canvas", "cnn", False)) == ("inference.assembly",)


def test_one_scan():
    """IMG-5: the file and the number of scans are named."""
    require_one_scan(np.zeros(3, np.int64), where="scan.npz")
    with pytest.raises(ContractError, match=r"scan\.npz.*2 scans") as caught:
        require_one_scan(np.array([0, 1, 1]), where="scan.npz")
    assert caught.value.codes == ("scan.several",)


def test_probe_and_light():
    """None is legal unless it is needed; a dark one never is."""
    require_light(BARE)
    require_light(SCAN)
    assert require_probe(SCAN, "this") is SCAN.probe
    dark = replace(SCAN, probe=np.zeros_like(SCAN.probe))
    assert code_of(lambda: require_light(dark)) == ("scan.dark_probe",)
    assert code_of(lambda: require_probe(dark, "this")) == ("scan.dark_probe",)
    with pytest.raises(ContractError, match="for this command") as caught:
        require_probe(BARE, "this command")
    assert caught.value.codes == ("scan.no_probe",)


def test_photons():
    """Each scan must have some; NaN is none."""
    require_photons({0: 1.0, 4: 1e-3})
    with pytest.raises(ContractError, match=r"\[2, 3\]") as caught:
        require_photons({1: 1.0, 2: 0.0, 3: float("nan")})
    assert caught.value.codes == ("scan.no_photons",)
