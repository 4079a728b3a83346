"""A scan prepared for inference, and what it must have (specs/training.md IMG)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.config import DataConfig
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import reference, strategies
from ptycho_data.checks.outliers import outlying_positions
from ptycho_data.checks.quality import check_scan, gather
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


def moved(rows, by):
    """The scan with some positions elsewhere."""
    positions = SCAN.positions_px.copy()
    positions[rows] += by
    return replace(BARE, probe=SCAN.probe, positions_px=positions)


@pytest.mark.parametrize("by", [(8000, 0), (0, -60_000), (300, 300), (1e9, 1e9)])
def test_a_position_far_off_is_refused_before_any_work(by, monkeypatch):
    """GEO-6: by name, before the canvas is made; inspect says the same."""
    scan = moved([7], by)
    with pytest.raises(ContractError, match=r"1 far from all others: row 7 at x .*leave their patterns out") as caught:
        prepare_scan(scan, None, 0)
    assert caught.value.codes == ("scan.outlying_positions",)
    check = next(check for check in check_scan(scan, gather(scan)) if check.name == "positions")
    assert check.status == "warn"
    assert "row 7 at x" in check.text


def test_two_regions_are_a_scan_as_long_as_the_memory_holds_their_canvas(monkeypatch):
    """GEO-7: 20 of 40 positions far off are no outliers; their canvas of 1,000 x 1,000 px needs 180 MB."""
    scan = moved(range(20), 1000 - SCAN.N)
    assert prepare_scan(scan, None, 0).geometry.shape[0] > 1000
    monkeypatch.setattr("ptycho_data.free_memory.available_bytes", lambda: 150_000_000)
    with pytest.raises(ContractError, match=r"canvas of 1\d\d\d x 1\d\d\d px: .*check the positions") as caught:
        prepare_scan(scan, None, 0)
    assert caught.value.codes == ("memory.free",)


@given(
    count=st.integers(40, 120),
    offset=st.floats(-1e6, 1e6),
    far=st.lists(st.integers(0, 39), max_size=2, unique=True),
    angle=st.floats(0, 6.28),
    rng=strategies.generators,
)
def test_outliers_are_the_positions_that_were_moved(count, offset, far, angle, rng):
    """GEO-6: any offset of the scan, any direction; one region gives none."""
    positions = rng.uniform(0, 100, (count, 2)) + offset
    distance = 3000 * np.arange(1, len(far) + 1)[:, None]
    positions[far] += distance * np.array([np.cos(angle), np.sin(angle)])
    assert outlying_positions(positions, 16).tolist() == sorted(far)


@pytest.mark.parametrize(
    ("factor", "refused"), [(1e-8, True), (1e-5, True), (1e-2, False), (0, False), (1, False), (1e3, True)]
)
def test_positions_in_another_unit_are_no_pixels(factor, refused):
    """GEO-8: one point is one pattern many times, which is no unit."""
    scan = replace(BARE, positions_px=BARE.positions_px * factor)
    if refused:
        assert code_of(lambda: prepare_scan(scan, None, 0)) == ("scan.position_unit",)
    else:
        assert prepare_scan(scan, None, 0).mean_counts > 0


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
    with pytest.raises(ContractError, match="scan 2, 3") as caught:
        require_photons({1: 1.0, 2: 0.0, 3: float("nan")})
    assert caught.value.codes == ("scan.no_photons",)
