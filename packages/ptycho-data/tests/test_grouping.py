"""GRP: groups against brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import strategies
from ptycho_data.grouping.groups import group, groups_at
from ptycho_data.grouping.neighbours import nearest_neighbours


@st.composite
def requests(draw):
    """A legal grouping request: positions, keywords, and how many different groups there are."""
    gridsize = draw(st.sampled_from([1, 2, 3]))
    C = gridsize**2
    counts = draw(st.lists(st.integers(C, C + 8), min_size=1, max_size=3))
    rng = draw(strategies.generators)
    scan_index = rng.permutation(np.repeat(rng.permutation(10)[: len(counts)], counts))
    grid = draw(st.booleans())  # a grid has ties in distance, and repeated positions
    positions = rng.integers(0, 5, (len(scan_index), 2)).astype(float) if grid else rng.uniform(0, 30, (sum(counts), 2))
    K = draw(st.integers(max(C - 1, 1), C + 4)) if gridsize > 1 else None
    keep = np.ones(len(scan_index), bool)
    for scan, count in zip(*np.unique(scan_index, return_counts=True), strict=True):
        spare = draw(st.integers(0, int(count) - C))
        keep[rng.permutation(np.flatnonzero(scan_index == scan))[:spare]] = False
    allowed = np.flatnonzero(keep) if draw(st.booleans()) else None
    members = scan_index[keep] if allowed is not None else scan_index
    sizes = [int((members == scan).sum()) for scan in np.unique(members)]
    most = sum(M * math.comb(min(C + 2 if K is None else K, M - 1), C - 1) for M in sizes) if C > 1 else sum(sizes)
    keywords = {
        "gridsize": gridsize,
        "n_groups": draw(st.one_of(st.none(), st.integers(1, min(most, 60)))),
        "neighbor_count": K,
        "seed": draw(st.integers(0, 5)),
        "scan_index": scan_index,
        "allowed": allowed,
    }
    return positions, keywords, most


def farthest_of_nearest(positions, seed, others, K):
    """Distance of the K-th nearest other pattern, by sorting all distances."""
    distances = sorted(math.dist(positions[seed], positions[other]) for other in others)
    return distances[min(K, len(distances)) - 1]


@given(requests())
def test_groups_against_brute_force(request_):
    """Invariant 25: C distinct members, the seed among them, all within its K nearest, of one scan, none held out."""
    positions, keywords, _ = request_
    C = keywords["gridsize"] ** 2
    groups = group(positions, **keywords)
    usable = set(range(len(positions)) if keywords["allowed"] is None else keywords["allowed"].tolist())
    K = C + 2 if keywords["neighbor_count"] is None else keywords["neighbor_count"]
    assert len(groups) == (keywords["n_groups"] or len(usable))
    for members in groups.nn_indices.tolist():
        seed, *neighbours = members
        assert len(set(members)) == C
        assert set(members) <= usable
        scan = keywords["scan_index"][seed]
        others = [i for i in usable if i != seed and keywords["scan_index"][i] == scan]
        assert set(neighbours) <= set(others)
        if neighbours:
            reach = farthest_of_nearest(positions, seed, others, K)
            assert max(math.dist(positions[seed], positions[i]) for i in neighbours) <= reach + 1e-9


@given(requests())
def test_seeds_take_turns_in_rounds_and_draws_differ(request_):
    """Invariant 25: the number of groups of each seed is the documented function; no draw is repeated."""
    positions, keywords, most = request_
    usable = len(positions) if keywords["allowed"] is None else len(keywords["allowed"])
    keywords["n_groups"] = n = min(most, keywords["n_groups"] or most, 300)
    indices = group(positions, **keywords).nn_indices
    draws = {(row[0], frozenset(row[1:])) for row in indices.tolist()}
    assert len(draws) == n
    per_seed = np.unique(indices[:, 0], return_counts=True)[1]
    assert len(per_seed) == min(n, usable)


@given(requests())
def test_more_groups_than_exist_are_refused_with_the_bound(request_):
    """Invariant 25: all different groups can be had; one more is an error that states the bound."""
    positions, keywords, most = request_
    if most <= 3000:
        everything = group(positions, **{**keywords, "n_groups": most}).nn_indices
        assert len({(row[0], frozenset(row[1:])) for row in everything.tolist()}) == most
    with pytest.raises(ContractError, match=f"1 to {most} different groups") as caught:
        group(positions, **{**keywords, "n_groups": most + 1})
    assert caught.value.codes == ("groups.count",)


@given(requests())
def test_shapes_dtypes_and_coordinates(request_):
    """Invariant 30, 11: exact shapes, axis order [x, y], and the sign of coords_relative."""
    positions, keywords, _ = request_
    C = keywords["gridsize"] ** 2
    groups = group(positions, **keywords)
    n = len(groups)
    assert (groups.nn_indices.shape, groups.nn_indices.dtype) == ((n, C), np.int64)
    assert (groups.coords_offsets.shape, groups.coords_offsets.dtype) == ((n, 1, 2, 1), np.float32)
    assert (groups.coords_relative.shape, groups.coords_relative.dtype) == ((n, 1, 2, C), np.float32)
    for row in range(n):
        x, y = positions[groups.nn_indices[row], 0], positions[groups.nn_indices[row], 1]
        np.testing.assert_allclose(groups.coords_offsets[row, 0, :, 0], [x.mean(), y.mean()], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(groups.coords_relative[row, 0, 0], x.mean() - x, atol=1e-5)
        np.testing.assert_allclose(groups.coords_relative[row, 0, 1], y.mean() - y, atol=1e-5)


@given(requests(), st.integers(-(10**6), 10**6))
def test_relative_coordinates_keep_their_precision_at_a_million_pixels(request_, offset):
    """Invariant 19: a far offset costs nothing in coords_relative."""
    positions, keywords, _ = request_
    positions = np.floor(positions * 64) / 64
    near, far = group(positions, **keywords), group(positions + offset, **keywords)
    np.testing.assert_array_equal(far.nn_indices, near.nn_indices)
    np.testing.assert_allclose(far.coords_relative, near.coords_relative, atol=1e-5)


@given(requests())
def test_same_request_same_groups_and_global_state_untouched(request_):
    """Invariant 42: same seed, same bits; the caller's random state stays."""
    positions, keywords, _ = request_
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = group(positions, **keywords), group(positions, **keywords)
    np.testing.assert_array_equal(one.nn_indices, two.nn_indices)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@given(requests(), strategies.generators)
def test_held_out_patterns_change_nothing(request_, rng):
    """Invariant 10: moving patterns that are not allowed leaves all groups as they are."""
    positions, keywords, _ = request_
    if keywords["allowed"] is None:
        keywords["allowed"] = np.arange(len(positions))
    moved = positions.copy()
    held = np.setdiff1d(np.arange(len(positions)), keywords["allowed"])
    moved[held] = rng.uniform(-100, 100, (len(held), 2))
    one, two = group(positions, **keywords), group(moved, **keywords)
    np.testing.assert_array_equal(one.nn_indices, two.nn_indices)
    np.testing.assert_array_equal(one.coords_relative, two.coords_relative)


def test_seed_changes_the_draws():
    positions = np.random.default_rng(0).uniform(0, 50, (200, 2))
    one, two = (group(positions, gridsize=2, seed=seed).nn_indices for seed in (0, 1))
    assert (one[:, 0] == two[:, 0]).all()
    assert (one[:, 1:] != two[:, 1:]).any(axis=1).mean() > 0.5


def test_draws_of_all_neighbours_are_about_even():
    """Invariant 25: a fixed preference for some neighbours would halve what training sees."""
    positions = np.random.default_rng(0).uniform(0, 300, (4000, 2))
    indices = group(positions, gridsize=2, neighbor_count=6).nn_indices
    distance = np.linalg.norm(positions[:, None, :] - positions[None, :400], axis=2).T
    ranks = np.argsort(np.argsort(distance, axis=1), axis=1)
    chosen = np.take_along_axis(ranks, indices[:400, 1:], axis=1)
    fraction = np.bincount(chosen.ravel(), minlength=7)[1:7] / chosen.size
    assert fraction.min() > 0.11
    assert fraction.max() < 0.23


def test_default_has_each_pattern_as_seed_once():
    groups = group(np.random.default_rng(3).uniform(0, 9, (30, 2)), gridsize=2)
    np.testing.assert_array_equal(groups.nn_indices[:, 0], np.arange(30))


def test_patterns_at_one_position():
    """Invariant 25: a seed hidden among repeats of its position is no neighbour of itself."""
    positions = np.zeros((40, 2))
    indices = group(positions, gridsize=2, n_groups=200).nn_indices
    assert all(len(set(row)) == 4 for row in indices.tolist())


def test_subsets_too_many_to_number_still_differ():
    """Invariant 25: large K draws at random and never twice the same for one seed."""
    positions = np.random.default_rng(0).uniform(0, 9, (60, 2))
    indices = group(positions, gridsize=5, neighbor_count=59, n_groups=180).nn_indices
    assert len({(row[0], frozenset(row[1:])) for row in indices.tolist()}) == 180
    assert all(len(set(row)) == 25 for row in indices.tolist())


def test_all_problems_of_a_request_at_once():
    """Invariant 25: too small scans are named, with both numbers."""
    with pytest.raises(ContractError) as caught:
        group(np.zeros((5, 2)), gridsize=2, neighbor_count=2, scan_index=np.array([0, 0, 0, 7, 7]))
    assert caught.value.codes == ("groups.neighbours", "groups.too_few_patterns", "groups.too_few_patterns")
    assert "scan 7: expected at least gridsize^2 = 4 patterns, found 2 patterns" in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "code"),
    [
        ({"scan_index": np.zeros(4, int)}, "array.shape"),
        ({"scan_index": np.zeros(9)}, "array.shape"),
        ({"allowed": np.array([0, 0, 1, 2])}, "selection.repeated"),
        ({"allowed": np.array([0, 9])}, "selection.range"),
        ({"allowed": np.array([], int)}, "selection.indices"),
        ({"n_groups": 0}, "groups.count"),
        ({"gridsize": 0}, "groups.gridsize"),
    ],
)
def test_bad_requests_are_refused(keywords, code):
    with pytest.raises(ContractError) as caught:
        group(np.random.default_rng(0).uniform(0, 9, (9, 2)), **{"gridsize": 2, **keywords})
    assert code in caught.value.codes


def test_groups_at_refuses_members_that_do_not_exist():
    with pytest.raises(ContractError, match=r"indices in 0\.\.2"):
        groups_at(np.zeros((3, 2)), [[0, 3]])


@st.composite
def bounded_requests(draw):
    """Positions of two scans, K, and bounds: between the distances that occur, or equal to some of a grid's."""
    rng = draw(strategies.generators)
    counts = draw(st.lists(st.integers(4, 12), min_size=1, max_size=2))
    scan_index = rng.permutation(np.repeat([3, 7][: len(counts)], counts))
    grid = draw(st.booleans())
    positions = rng.integers(0, 5, (sum(counts), 2)).astype(float) if grid else rng.uniform(0, 8, (sum(counts), 2))
    low = draw(st.sampled_from([None, 0.5, 1.0, 1.3, 2.0]))
    high = draw(st.sampled_from([None, 2.7, 3.0, 4.6]))
    return positions, scan_index, draw(st.integers(3, 8)), low, high


def neighbours_by_sorting(positions, scan_index, seed, K, low, high):
    """Distances of the K nearest others of the scan within the bounds, by sorting all of them."""
    distances = (
        math.dist(positions[seed], positions[other])
        for other in range(len(positions))
        if other != seed and scan_index[other] == scan_index[seed]
    )
    return sorted(d for d in distances if (low or 0) <= d <= (high or math.inf))[:K]


@given(bounded_requests())
def test_distance_bounds_against_brute_force(request_):
    """Invariant 25: GRP-10, all groups there are: bound, seeds, members, and the number of each seed's draws."""
    positions, scan_index, K, low, high = request_
    keywords = {
        "gridsize": 2,
        "neighbor_count": K,
        "scan_index": scan_index,
        "min_distance_px": low,
        "max_distance_px": high,
    }
    near = [neighbours_by_sorting(positions, scan_index, seed, K, low, high) for seed in range(len(positions))]
    draws = [math.comb(len(distances), 3) for distances in near]
    if not sum(draws):
        with pytest.raises(ContractError, match="neighbours of a pattern within these distances"):
            group(positions, **keywords)
        return
    np.testing.assert_array_equal(group(positions, **keywords).nn_indices[:, 0], np.flatnonzero(draws))
    everything = group(positions, n_groups=sum(draws), **keywords).nn_indices
    np.testing.assert_array_equal(np.bincount(everything[:, 0], minlength=len(positions)), draws)
    assert len({(row[0], frozenset(row[1:])) for row in everything.tolist()}) == sum(draws)
    for seed, *members in everything.tolist():
        assert seed not in members
        assert all(scan_index[member] == scan_index[seed] for member in members)
        distances = [math.dist(positions[seed], positions[member]) for member in members]
        assert distances == sorted(distances)
        assert (low or 0) <= distances[0]
        assert distances[-1] <= near[seed][-1] + 1e-12
    with pytest.raises(ContractError, match=f"1 to {sum(draws)} different groups"):
        group(positions, n_groups=sum(draws) + 1, **keywords)


@pytest.mark.parametrize(("bounds", "expected"), [((1.0, 2.0), [1, 2]), ((2.0, 3.0), [2, 3]), ((3.0, None), [3])])
def test_distance_bounds_are_inclusive(bounds, expected):
    """GRP-10: of patterns at 1, 2 and 3 px those at the ends of [min, max] are neighbours."""
    low, high = bounds
    positions = [[0.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, -3.0]]
    near = nearest_neighbours(np.array(positions), 3, min_distance_px=low, max_distance_px=high or math.inf)
    assert near[0][near[0] >= 0].tolist() == expected


@given(requests(), st.integers(1, 5))
def test_oversampling_is_full_rounds(request_, rounds):
    """Invariant 25: GRP-9, every seed has min(t, its draws) groups, all different."""
    positions, keywords, _ = request_
    keywords.pop("n_groups")
    C, scans = keywords["gridsize"] ** 2, keywords["scan_index"]
    usable = np.arange(len(positions)) if keywords["allowed"] is None else keywords["allowed"]
    K = C + 2 if keywords["neighbor_count"] is None else keywords["neighbor_count"]
    draws = {int(i): math.comb(min(K, int((scans[usable] == scans[i]).sum()) - 1), C - 1) for i in usable}
    if rounds > max(draws.values()):
        with pytest.raises(ContractError, match=f"1 to {max(draws.values())} groups per seed"):
            group(positions, oversampling=rounds, **keywords)
        return
    indices = group(positions, oversampling=rounds, **keywords).nn_indices
    result = dict(zip(*np.unique(indices[:, 0], return_counts=True), strict=True))
    assert result == {seed: min(rounds, count) for seed, count in draws.items()}
    assert len({(row[0], frozenset(row[1:])) for row in indices.tolist()}) == len(indices)


@given(requests(), st.integers(1, 40))
def test_sequential_takes_the_first_seeds(request_, requested):
    """GRP-11: the same rounds, the last one from the first seed on."""
    positions, keywords, most = request_
    keywords["n_groups"] = n = min(requested, most)
    usable = np.arange(len(positions)) if keywords["allowed"] is None else np.sort(keywords["allowed"])
    indices = group(positions, sequential=True, **keywords).nn_indices
    if n <= len(usable):
        np.testing.assert_array_equal(indices[:, 0], usable[:n])


def test_a_random_last_round_is_not_sequential():
    positions = np.random.default_rng(0).uniform(0, 50, (200, 2))
    seeds = group(positions, gridsize=2, n_groups=50).nn_indices[:, 0]
    assert seeds.max() > 100
    assert (np.diff(seeds) > 0).all()


@pytest.mark.parametrize(
    ("keywords", "code"),
    [
        ({"oversampling": 2, "n_groups": 9}, "groups.count"),
        ({"oversampling": 0}, "groups.count"),
        ({"oversampling": 21}, "groups.count"),
        ({"min_distance_px": 3.0, "max_distance_px": 2.0}, "groups.distances"),
        ({"min_distance_px": -1.0}, "groups.distances"),
        ({"max_distance_px": float("nan")}, "groups.distances"),
        ({"max_distance_px": 1e-9}, "groups.count"),
    ],
)
def test_bad_options_are_refused(keywords, code):
    with pytest.raises(ContractError) as caught:
        group(np.random.default_rng(0).uniform(0, 9, (9, 2)), gridsize=2, **keywords)
    assert caught.value.codes == (code,)


def test_many_points_at_once_equal_each_alone():
    """Invariant 39, GRP-12: blocks of points and of groups, against distances to all points."""
    positions = np.random.default_rng(1).uniform(0, 900, (70_000, 2))
    indices = group(positions, gridsize=2, neighbor_count=6).nn_indices
    assert (np.sort(indices, axis=1)[:, 1:] != np.sort(indices, axis=1)[:, :-1]).all()
    for seed in (0, 1, 34_567, 65_535, 65_536, 69_999):
        distances = np.linalg.norm(positions - positions[seed], axis=1)
        assert set(indices[seed, 1:]) <= set(np.argsort(distances)[1:7])
