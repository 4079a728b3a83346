"""ORI: the eight orientations, on a simulated scan and on measured data."""

import numpy as np
import pytest
from ptycho_contracts.problems import ContractError
from ptycho_contracts.records import Scan
from ptycho_data.checks.orientation import ORIENTATIONS, Orientation, rank_orientations
from ptycho_data.files import read_scan
from ptycho_data.simulate import simulate


@pytest.fixture(scope="module")
def scan():
    return simulate(object_kind="dead_leaves", N=32, n_patterns=100, photons_per_pattern=1e5, seed=1)


def turned(scan, orientation, **changes):
    """The scan with its positions given in another orientation."""
    keywords = {"measurements": scan.measurements, "unit": scan.unit, "probe": scan.probe}
    return Scan(**{**keywords, **changes}, positions_px=np.ascontiguousarray(orientation.apply(scan.positions_px)))


def test_orientations_are_the_eight_of_a_square():
    """Invariant 11: by the images of one point, all different; the twin negates both axes."""
    point = np.array([[2.0, 5.0]])
    images = {tuple(orientation.apply(point)[0]) for orientation in ORIENTATIONS}
    assert images == {(sx * a, sy * b) for a, b in ((2, 5), (5, 2)) for sx in (1, -1) for sy in (1, -1)}
    for orientation in ORIENTATIONS:
        np.testing.assert_array_equal(orientation.twin.apply(point), -orientation.apply(point))
    assert str(Orientation(swap_xy=True, flip_y=True)) == "x' = y, y' = -x"


@pytest.mark.parametrize("given", ORIENTATIONS, ids=str)
def test_the_right_orientation_is_determined(scan, given):
    """Invariant 11, ORI-4: positions swapped and reversed in any way are corrected, up to the conjugate twin."""
    ranking = rank_orientations(turned(scan, given), iterations=4)
    assert ranking.decided
    result = ranking.best.apply(given.apply(scan.positions_px))
    right = np.array_equal(result, scan.positions_px)
    assert right or (ranking.twin_is_equal and np.array_equal(result, -scan.positions_px))
    assert len(ranking.residuals) == 8
    residuals = [value for _, value in ranking.residuals]
    assert residuals == sorted(residuals)


@pytest.mark.parametrize("kind", ["dead_leaves", "random_field"])
@pytest.mark.parametrize("given", [ORIENTATIONS[0], ORIENTATIONS[5]], ids=str)
def test_without_a_probe_it_is_determined_up_to_the_twin(kind, given):
    """ORI-2a: a defocus of the mean pattern's modulus that explains the patterns is found on the way."""
    scan = simulate(object_kind=kind, N=32, n_patterns=144, step_px=3.0, photons_per_pattern=1e5, seed=4)
    ranking = rank_orientations(turned(scan, given, probe=None))
    assert ranking.decided
    assert ranking.twin_is_equal
    result = ranking.best.apply(given.apply(scan.positions_px))
    assert np.array_equal(result, scan.positions_px) or np.array_equal(result, -scan.positions_px)
    values = dict(ranking.residuals)
    assert all(values[one] == values[one.twin] for one in ORIENTATIONS)


def test_a_guess_that_decides_nothing_is_replaced(scan):
    """ORI-2a: but never a probe that the file calls exact."""
    flat = np.ones_like(scan.probe)
    given = ORIENTATIONS[6]
    assert rank_orientations(turned(scan, given, probe=flat)).decided
    assert not rank_orientations(turned(scan, given, probe=flat, probe_kind="exact")).decided


def test_a_dense_raster_is_thinned():
    """ORI-2: 144 neighbours at 1 px would all see the same; without a probe, by dim patterns of electrons."""
    scan = simulate(
        object_kind="dead_leaves",
        scan_kind="raster",
        N=32,
        n_patterns=1600,
        step_px=1.0,
        photons_per_pattern=5e3,
        seed=3,
    )
    ranking = rank_orientations(turned(scan, ORIENTATIONS[4], probe=None))
    assert ranking.decided
    assert ranking.best.swap_xy
    assert ranking.patterns == 144


def test_a_symmetric_start_does_not_decide_between_twins(scan):
    """ORI-3: with a probe that is its own conjugate twin, both orientations start equal; the twin is named."""
    symmetric = np.real(scan.probe) + np.roll(np.flip(np.real(scan.probe), (1, 2)), 1, (1, 2))
    start = symmetric.astype(np.complex64)
    ranking = rank_orientations(turned(scan, ORIENTATIONS[0], probe=start), iterations=8)
    by_orientation = dict(ranking.residuals)
    assert ranking.twin_is_equal
    assert by_orientation[ranking.twin] == pytest.approx(by_orientation[ranking.best], rel=0.2)


def test_nothing_is_decided_where_there_is_nothing_to_see(scan):
    """ORI-3: an empty object explains every orientation."""
    wavefields = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(scan.probe, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    empty = np.broadcast_to((np.abs(wavefields) ** 2).sum(axis=0).astype(np.float32), scan.measurements.shape)
    ranking = rank_orientations(turned(scan, ORIENTATIONS[0], measurements=empty, unit="counts"), iterations=2)
    assert not ranking.decided
    assert ranking.twin_is_equal


def test_same_seed_same_ranking_and_bad_pixels_are_left_out(scan):
    """Invariant 42: same seed, same bits; a hot pixel that is marked changes nothing."""
    first, second = (rank_orientations(scan, iterations=1, patterns=30) for _ in range(2))
    assert first == second
    assert first.patterns == 30
    bad = np.zeros((32, 32), bool)
    bad[3, 20] = True
    hot = scan.counts()
    hot[:, 3, 20] = 1e7
    marked = (
        turned(scan, ORIENTATIONS[0], measurements=counts, unit="counts", bad_pixels=bad)
        for counts in (hot, scan.counts())
    )
    one, two = (rank_orientations(each, iterations=1, patterns=30) for each in marked)
    assert one == two


def test_progress_and_refusals(scan):
    seen = []
    rank_orientations(scan, iterations=1, patterns=4, progress=lambda *step: seen.append(step))
    assert seen == [("orientation", number, 8) for number in range(1, 9)]
    few = Scan(measurements=scan.measurements[:3], unit=scan.unit, positions_px=scan.positions_px[:3])
    dark = Scan(measurements=np.zeros((9, 8, 8)), unit="counts", positions_px=np.arange(18.0).reshape(9, 2))
    for wrong, code in ((few, "orientation.patterns"), (dark, "orientation.dark")):
        with pytest.raises(ContractError) as caught:
            rank_orientations(wrong)
        assert caught.value.codes == (code,)


@pytest.mark.shared_data
@pytest.mark.parametrize("given", [ORIENTATIONS[0], ORIENTATIONS[5]], ids=str)
def test_measured_siemens_star(shared_data, given):
    """Invariant 11: measured data, positions as given and swapped and turned."""
    star = read_scan(shared_data / "siemens_star.npz")
    ranking = rank_orientations(turned(star, given))
    assert ranking.decided
    np.testing.assert_allclose(ranking.best.apply(given.apply(star.positions_px)), star.positions_px)
