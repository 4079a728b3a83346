"""FOLD, STORE, BATCH: content, reuse, damage, batches."""

import json
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, MissingFileError, WorkFailedError
from ptycho_contracts.records import SCAN_ARRAYS, Scan
from ptycho_contracts.testing import strategies
from ptycho_data.batches.gathering import gather, mean_counts
from ptycho_data.files import read_scan, write_scan
from ptycho_data.grouping.groups import group
from ptycho_data.store import commits, folders
from ptycho_data.store.stores import create_store, open_store, verify_store


def make_scan(M=10, N=6, **changes):
    rng = np.random.default_rng(0)
    good = {
        "measurements": rng.poisson(300, (M, N, N)).astype(np.uint16),
        "unit": "counts",
        "positions_px": rng.uniform(0, 20, (M, 2)),
        "probe": np.ones((2, N, N), np.complex64),
        "metadata": {"source": "a.npz", "geometry": {"photon_energy_ev": 8000.0}},
    }
    return Scan(**{**good, **changes})


def content_of(folder):
    """Every byte and inode below a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@given(
    strategies.scans(min_count=1),
    st.sampled_from([np.uint8, np.uint32, np.float64, None]),
    st.integers(1, 4),
    st.data(),
)
@settings(max_examples=15)
def test_store_reads_like_its_scan(tmp_path_factory, scan, dtype, scans, data):
    """Invariant 24, 7: every row is there, in its own dtype, with the number of its scan; nothing is copied twice."""
    numbers = st.lists(st.integers(0, scans - 1), min_size=len(scan), max_size=len(scan))
    scan = replace(scan, scan_index=np.array(data.draw(numbers), np.int64))
    if dtype is not None:
        scan = Scan(
            measurements=np.round(scan.measurements % 200).astype(dtype),
            unit=scan.unit,
            positions_px=scan.positions_px,
            scan_index=scan.scan_index,
            probe=scan.probe,
        )
    path = tmp_path_factory.mktemp("store") / "s"
    store = create_store(path, scan)
    verify_store(path)
    for spec in SCAN_ARRAYS:
        result, requested = getattr(store, spec.name), getattr(scan, spec.name)
        assert (result is None) == (requested is None)
        if requested is not None:
            np.testing.assert_array_equal(result, requested)
            assert result.dtype == requested.dtype
            assert not result.flags.writeable
    assert (store.unit, store.probe_kind, store.N, len(store)) == (scan.unit, scan.probe_kind, scan.N, len(scan))
    assert store.metadata == scan.metadata
    np.testing.assert_array_equal(store.counts(), scan.counts())
    np.testing.assert_array_equal(store.counts([0]), scan.counts([0]))
    assert len(list(path.glob("*.npy"))) == sum(getattr(scan, spec.name) is not None for spec in SCAN_ARRAYS)


def test_patterns_stay_on_disk(tmp_path):
    """Invariant 39: opening maps the patterns and reads none."""
    store = create_store(tmp_path / "s", make_scan())
    assert isinstance(store.measurements.base, np.memmap)


def test_unchanged_content_is_reused_byte_for_byte(tmp_path):
    """Invariant 26: same content, same files, untouched."""
    first = create_store(tmp_path / "s", make_scan())
    before = content_of(tmp_path / "s")
    second = create_store(tmp_path / "s", make_scan())
    assert content_of(tmp_path / "s") == before
    assert second.key == first.key
    create_store(tmp_path / "other", make_scan())
    assert {n: b for n, (b, *_) in content_of(tmp_path / "other").items()} == {n: b for n, (b, *_) in before.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"measurements": np.random.default_rng(1).poisson(300, (10, 6, 6)).astype(np.uint16)},
        {"measurements": np.random.default_rng(0).poisson(300, (10, 6, 6)).astype(np.uint32)},
        {"unit": "amplitude"},
        {"positions_px": np.random.default_rng(0).uniform(0, 20, (10, 2)) + 1e-9},
        {"probe": None},
        {"probe_kind": "exact"},
        {"bad_pixels": np.zeros((6, 6), bool)},
        {"scan_index": np.arange(10)},
        {"metadata": {"source": "b.npz"}},
    ],
)
def test_any_change_rebuilds(tmp_path, changes):
    """Invariant 26: dtype, unit, one position by a billionth, an array more or less, metadata."""
    first = create_store(tmp_path / "s", make_scan())
    second = create_store(tmp_path / "s", make_scan(**changes))
    assert second.key != first.key
    verify_store(tmp_path / "s")
    for name, value in changes.items():
        np.testing.assert_equal(getattr(open_store(tmp_path / "s"), name), value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


@given(data=st.data())
@settings(max_examples=40)
def test_any_altered_or_cut_file_is_noticed(tmp_path_factory, data):
    """Invariant 44, 27: truncation at any byte does not open; any altered data byte does not verify."""
    path = tmp_path_factory.mktemp("damage") / "s"
    create_store(path, make_scan(M=2, N=3)).groups(gridsize=1)
    victim = data.draw(st.sampled_from(sorted(result.name for result in path.glob("*.*"))))
    content = bytearray((path / victim).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        (path / victim).write_bytes(content[:at])
        with pytest.raises(ContractError):
            open_store(path)
        return
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    (path / victim).write_bytes(content)
    scan = make_scan(M=2, N=3)
    try:
        verify_store(path)
    except ContractError:
        return
    # A byte without meaning: padding of a header, or white space of the manifest.
    for spec in SCAN_ARRAYS:
        np.testing.assert_equal(getattr(open_store(path), spec.name), getattr(scan, spec.name))


def test_missing_arrays_and_foreign_folders_do_not_open(tmp_path):
    """Invariant 44: removing any member, an unknown major version, the wrong kind."""
    path = tmp_path / "s"
    create_store(path, make_scan())
    for name in ("positions_px", "probe"):
        (path / f"{name}.npy").unlink()
    with pytest.raises(ContractError) as caught:
        open_store(path)
    assert caught.value.codes == ("store.missing_array",) * 2
    shutil.rmtree(path)
    create_store(path, make_scan())
    manifest = json.loads((path / "manifest.json").read_text())
    for change, code in (
        ({"schema": [3, 0]}, "store.schema"),
        ({"kind": "groups"}, "store.schema"),
        ({"facts": {**manifest["facts"], "unit": "amplitude"}}, "store.altered"),
        ({"arrays": 3}, "store.manifest"),
    ):
        (path / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ContractError) as caught:
            open_store(path)
        assert caught.value.codes == (code,)
    with pytest.raises(MissingFileError):
        open_store(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ContractError, match="no finished store"):
        open_store(tmp_path / "empty")


def test_foreign_content_is_never_replaced(tmp_path):
    """Invariant 27: a path that holds something else stays as it is, also a store with a file of its user."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "mine.npy", np.zeros(3))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    create_store(tmp_path / "store", make_scan(M=9))
    (tmp_path / "store" / "notes.txt").write_text("mine")
    before = content_of(tmp_path)
    for name in ("notes", "arrays", "other", "file", "store"):
        with pytest.raises(ContractError, match="choose another path"):
            create_store(tmp_path / name, make_scan())
    assert content_of(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert len(create_store(tmp_path / "empty", make_scan())) == 10
    with pytest.raises(MissingFileError, match="existing folder"):
        create_store(tmp_path / "no" / "s", make_scan())


@pytest.mark.parametrize("name", ["thesis.npy", "groups-notes", "groups-0123456789abcdef/notes.txt", ".notes", "x"])
def test_files_of_the_user_in_a_store_are_never_deleted(tmp_path, name):
    """FOLD-8: a store that holds one name that is not of its manifest is not replaced, whatever the name resembles."""
    path = tmp_path / "s"
    create_store(path, make_scan()).groups(gridsize=2)
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(b"mine")
    before = content_of(tmp_path)
    with pytest.raises(ContractError, match="choose another path or remove it yourself") as caught:
        create_store(path, make_scan(probe_kind="exact"))
    assert caught.value.codes == ("store.occupied",)
    assert name in str(caught.value)
    assert content_of(tmp_path) == before
    (path / name).unlink()
    assert create_store(path, make_scan(probe_kind="exact")).probe_kind == "exact"


def test_a_file_put_into_a_store_at_the_last_moment_stays(tmp_path, monkeypatch):
    """FOLD-8: between the look at the old folder and its removal."""
    path = tmp_path / "s"
    create_store(path, make_scan())
    rename = os.rename

    def late(source, target):
        if source == path:
            (path / "thesis.npy").write_bytes(b"mine")
        rename(source, target)

    monkeypatch.setattr("os.rename", late)
    with pytest.raises(ContractError) as caught:
        create_store(path, make_scan(probe_kind="exact"))
    assert caught.value.codes == ("store.occupied",)
    assert (path / "thesis.npy").read_bytes() == b"mine"
    assert open_store(path).probe_kind == "guess"
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_a_folder_with_an_altered_manifest_is_not_replaced(tmp_path):
    """FOLD-8: names of a manifest count only if it agrees with its key."""
    path = tmp_path / "s"
    create_store(path, make_scan())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["arrays"]["thesis"] = manifest["arrays"]["probe"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "thesis.npy").write_bytes(b"mine")
    before = content_of(tmp_path)
    with pytest.raises(ContractError, match="remove it yourself"):
        create_store(path, make_scan())
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("name", ["measurements", "probe", "positions_px"])
def test_a_store_whose_bytes_rotted_is_written_again(tmp_path, name, caplog):
    """FOLD-4: the bytes on disk are verified before they are used again, as the input is."""
    path, scan = tmp_path / "s", make_scan()
    create_store(path, scan)
    sound = (path / f"{name}.npy").read_bytes()
    (path / f"{name}.npy").write_bytes(sound[:-8] + sound[-4:] + sound[-8:-4][::-1])
    assert (path / f"{name}.npy").read_bytes() != sound
    with pytest.raises(ContractError, match=rf"{name}.npy: expected checksum"):
        verify_store(path)
    store = create_store(path, scan)
    np.testing.assert_array_equal(getattr(store, name), getattr(scan, name))
    assert (path / f"{name}.npy").read_bytes() == sound
    verify_store(path)
    assert caplog.text.count("it is written again") == 1
    create_store(path, make_scan(probe_kind="exact"))
    assert caplog.text.count("it is written again") == 1


def test_opening_verifies_small_arrays_and_leaves_large_ones_unread(tmp_path, monkeypatch):
    """FOLD-7: positions that rotted do not open; of patterns above the bound only the header is read."""
    path = tmp_path / "s"
    create_store(path, make_scan())
    for name, opens in (("measurements", True), ("positions_px", False)):
        monkeypatch.setattr(folders.open_folder, "__kwdefaults__", {"verified_bytes": 600})
        sound = bytearray((path / f"{name}.npy").read_bytes())
        sound[-1] ^= 1
        (path / f"{name}.npy").write_bytes(sound)
        if opens:
            open_store(path)
            continue
        with pytest.raises(ContractError) as caught:
            open_store(path)
        assert caught.value.codes == ("store.checksum",)


def test_groups_whose_bytes_rotted_are_made_again(tmp_path):
    """STORE-3: same layout, other indices."""
    store = create_store(tmp_path / "s", make_scan())
    requested = store.groups(gridsize=2)
    kept = next(store.path.glob("groups-*"))
    np.save(kept / "nn_indices.npy", requested.nn_indices[::-1])
    np.testing.assert_array_equal(store.groups(gridsize=2).nn_indices, requested.nn_indices)
    verify_store(store.path)


@pytest.mark.parametrize("name", ["measurements.npy", "manifest.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_in_a_store_is_refused_before_it_is_opened(tmp_path, name, kind):
    """FOLD-7, FILE-8: a pipe would hang."""
    path = tmp_path / "s"
    create_store(path, make_scan())
    (path / name).unlink()
    if kind == "pipe":
        os.mkfifo(path / name)
    elif kind == "device":
        (path / name).symlink_to("/dev/zero")
    else:
        (path / name).mkdir()
    with pytest.raises(ContractError) as caught:
        open_store(path)
    assert caught.value.codes[0] in ("store.missing_array", "store.manifest")


def forged(path, **changes):
    """The manifest with other entries, under the key that fits them."""
    manifest = {**json.loads((path / "manifest.json").read_text()), **changes}
    del manifest["key"]
    (path / "manifest.json").write_text(json.dumps({**manifest, "key": folders.digest(manifest)}))


@pytest.mark.parametrize(
    "arrays",
    [
        {"measurements": {"dtype": "<u2", "checksum": ""}},
        {"measurements": {"dtype": "<u2", "checksum": "", "shape": 3}},
        {"measurements": {"dtype": 3, "checksum": "", "shape": [3]}},
        {"measurements": []},
        {"../outside": {"dtype": "<u2", "checksum": "", "shape": [3]}},
        {},
        [],
    ],
)
def test_forged_manifests_are_one_error(tmp_path, arrays):
    """FOLD-7: arrays without shape, names that lead out of the folder; nothing outside is touched."""
    path = tmp_path / "s"
    create_store(path, make_scan())
    np.save(tmp_path / "outside.npy", np.zeros(3, np.uint16))
    forged(path, arrays=arrays)
    with pytest.raises(ContractError):
        open_store(path)
    with pytest.raises(ContractError):
        create_store(path, make_scan())
    assert (tmp_path / "outside.npy").exists()


@pytest.mark.parametrize(
    "facts", [{}, {"unit": "photons", "probe_kind": "guess", "metadata": {}}, {"unit": "counts", "probe_kind": "guess"}]
)
def test_forged_facts_are_one_error(tmp_path, facts):
    create_store(tmp_path / "s", make_scan())
    forged(tmp_path / "s", facts=facts)
    with pytest.raises(ContractError) as caught:
        open_store(tmp_path / "s")
    assert caught.value.codes == ("store.manifest",)


def test_rows_written_must_be_rows_declared(tmp_path, monkeypatch):
    """Invariant 24: with 9 of 10 rows no store is made."""
    blocks = commits.pieces

    def forgetful(array):
        yield from (block[:9] for block in blocks(array))

    monkeypatch.setattr(commits, "pieces", forgetful)
    with pytest.raises(WorkFailedError, match="expected 10 rows, 720 bytes, found 9 rows, 648 bytes written"):
        create_store(tmp_path / "s", make_scan())
    assert not list(tmp_path.iterdir())


def test_metadata_that_are_no_json_are_refused(tmp_path):
    with pytest.raises(ContractError) as caught:
        create_store(tmp_path / "s", make_scan(metadata={"when": object()}))
    assert caught.value.codes == ("store.metadata",)
    assert create_store(tmp_path / "s", make_scan(metadata={"pair": (1, 2)})).metadata == {"pair": [1, 2]}


def test_progress_counts_bytes_to_the_end(tmp_path):
    seen = []
    scan = make_scan()
    create_store(tmp_path / "s", scan, progress=lambda *step: seen.append(step))
    assert [stage for stage in dict.fromkeys(step[0] for step in seen)] == ["write", "commit"]
    for stage in ("write", "commit"):
        done, total = next(step[1:] for step in reversed(seen) if step[0] == stage)
        assert done == total


@given(st.sampled_from([1, 2, 3]), st.integers(9, 14), st.integers(0, 3), st.booleans())
@settings(max_examples=15)
def test_stored_groups_are_the_groups_of_the_grouping(tmp_path_factory, gridsize, M, seed, some):
    """Invariant 30, 26: same arrays, shapes and dtypes from the store as in memory, now and when read again."""
    scan = make_scan(M=M)
    store = create_store(tmp_path_factory.mktemp("groups") / "s", scan)
    allowed = np.arange(M - M % 2) if some and gridsize**2 <= M - M % 2 else None
    requested = group(scan.positions_px, gridsize=gridsize, seed=seed, allowed=allowed)
    for source in (store, store, open_store(store.path)):
        result = source.groups(gridsize=gridsize, seed=seed, allowed=allowed)
        for name in ("nn_indices", "coords_offsets", "coords_relative"):
            np.testing.assert_array_equal(getattr(result, name), getattr(requested, name))
            assert getattr(result, name).dtype == getattr(requested, name).dtype
    assert len(list(store.path.glob("groups-*"))) == 1
    verify_store(store.path)


@given(first=st.sets(st.integers(0, 11), min_size=6, max_size=6), again=st.permutations(range(12)))
@settings(max_examples=15)
def test_stored_groups_hold_no_pattern_that_is_not_allowed(tmp_path_factory, first, again):
    """Invariants 10, 26: other allowed patterns of the same number, as another hold-out leaves, make other groups."""
    store = create_store(tmp_path_factory.mktemp("allowed") / "s", make_scan(M=12))
    for allowed in (sorted(first), sorted(again[:6])):
        for gridsize in (1, 2):
            members = store.groups(gridsize=gridsize, allowed=np.array(allowed)).nn_indices
            assert sorted(set(members.ravel().tolist())) == allowed


@given(numbers=st.permutations([0] * 6 + [1] * 6), gridsize=st.sampled_from([1, 2]), oversampling=st.integers(1, 3))
@settings(max_examples=10)
def test_stored_groups_never_mix_scans(tmp_path_factory, numbers, gridsize, oversampling):
    """Invariants 25, 28: also when they are read again."""
    index = np.array(numbers)
    store = create_store(tmp_path_factory.mktemp("scans") / "s", make_scan(M=12, scan_index=index))
    request = {"gridsize": gridsize, "oversampling": oversampling if gridsize > 1 else 1}
    for source in (store, open_store(store.path)):
        owners = index[source.groups(**request).nn_indices]
        assert (owners == owners[:, :1]).all()
        assert set(owners[:, 0].tolist()) == {0, 1}


def test_every_part_of_the_request_makes_other_groups(tmp_path):
    """Invariant 26: groups are kept by all that shapes them."""
    store = create_store(tmp_path / "s", make_scan(M=12))
    requests = [
        {"gridsize": 2},
        {"gridsize": 1},
        {"gridsize": 2, "seed": 1},
        {"gridsize": 2, "n_groups": 5},
        {"gridsize": 2, "neighbor_count": 4},
        {"gridsize": 2, "allowed": np.arange(6)},
        {"gridsize": 2, "oversampling": 2},
        {"gridsize": 2, "max_distance_px": 12.5},
        {"gridsize": 2, "min_distance_px": 2.5},
        {"gridsize": 2, "n_groups": 5, "sequential": True},
    ]
    for request in requests * 2:
        requested = group(store.positions_px, **request)
        np.testing.assert_array_equal(store.groups(**request).nn_indices, requested.nn_indices)
    assert len(list(store.path.glob("groups-*"))) == len(requests)


def test_damaged_groups_are_made_again(tmp_path):
    """Invariant 26: a stale or broken copy is never believed."""
    store = create_store(tmp_path / "s", make_scan())
    requested = store.groups(gridsize=2)
    kept = next(store.path.glob("groups-*"))
    (kept / "nn_indices.npy").write_bytes(b"")
    np.testing.assert_array_equal(store.groups(gridsize=2).nn_indices, requested.nn_indices)
    verify_store(store.path)


def test_store_without_room_still_has_groups(tmp_path, monkeypatch):
    store = create_store(tmp_path / "s", make_scan())

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.rename", full)
    assert len(store.groups(gridsize=2)) == 10
    assert not list(store.path.glob("*groups-*"))


def test_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WorkFailedError, match="No space left"):
        create_store(tmp_path / "s", make_scan())
    assert not list(tmp_path.iterdir())


def test_store_pickles_as_its_path_and_key(tmp_path):
    """STORE-2: a worker never reads another scan than the one it was sent."""
    store = create_store(tmp_path / "s", make_scan())
    packed = pickle.dumps(store)
    assert len(packed) < 500
    np.testing.assert_array_equal(pickle.loads(packed).measurements, store.measurements)
    create_store(tmp_path / "s", make_scan(measurements=store.measurements[::-1].copy()))
    with pytest.raises(ContractError, match="an output folder of its own") as caught:
        pickle.loads(packed)
    assert caught.value.codes == ("store.replaced",)


@given(st.sampled_from(["counts", "amplitude"]), st.sampled_from([1, 2]), strategies.generators)
@settings(max_examples=15)
def test_batches_from_scan_and_store_are_the_patterns(tmp_path_factory, unit, gridsize, rng):
    """Invariant 3, 7, 8, 13: named fields; each row the patterns of its own members, squared in float32."""
    scan = make_scan(unit=unit, scan_index=np.repeat([3, 8], 5), measurements=rng.poisson(400, (10, 6, 6)).astype("u2"))
    store = create_store(tmp_path_factory.mktemp("batch") / "s", scan)
    groups = store.groups(gridsize=gridsize)
    means = mean_counts(scan)
    values = scan.measurements.astype(float) ** (2 if unit == "amplitude" else 1)
    assert means == pytest.approx({3: values[:5].sum() / 5, 8: values[5:].sum() / 5}, rel=1e-6)
    rows = rng.permutation(len(groups))[:4]
    for source in (scan, store):
        batch = gather(source, groups, rows, mean_counts=means)
        for place, row in enumerate(rows):
            members = groups.nn_indices[row]
            np.testing.assert_allclose(batch.counts[place], values[members], rtol=1e-6)
            np.testing.assert_array_equal(batch.coords_relative[place], groups.coords_relative[row])
            np.testing.assert_array_equal(batch.coords_offsets[place], groups.coords_offsets[row])
            np.testing.assert_array_equal(batch.nn_indices[place], members)
            assert batch.mean_counts[place] == np.float32(means[3 if members[0] < 5 else 8])
    alone = store.batch(groups, slice(0, 1), mean_counts=means)
    np.testing.assert_array_equal(alone.counts[0], gather(scan, groups, slice(None), mean_counts=means).counts[0])


@given(strategies.generators)
def test_mean_counts_do_not_see_held_out_patterns(rng):
    """Invariant 10, 28: altering patterns that are not allowed, or bad pixels, changes nothing."""
    scan = make_scan(scan_index=np.repeat([0, 1], 5), bad_pixels=np.eye(6, dtype=bool))
    allowed = np.array([8, 0, 3, 7])
    altered = scan.measurements.copy()
    altered[[1, 2, 4, 5, 6, 9]] = rng.integers(0, 9999, (6, 6, 6))
    altered[:, np.eye(6, dtype=bool)] = 65535
    other = make_scan(scan_index=scan.scan_index, bad_pixels=scan.bad_pixels, measurements=altered)
    assert mean_counts(other, allowed=allowed) == mean_counts(scan, allowed=allowed)
    good = scan.measurements[:, ~np.eye(6, dtype=bool)].astype(float).sum(axis=1)
    assert mean_counts(scan, allowed=allowed) == pytest.approx({0: good[[0, 3]].mean(), 1: good[[7, 8]].mean()})


def test_batches_of_foreign_groups_or_scans_are_refused():
    scan = make_scan()
    groups = group(scan.positions_px, gridsize=2)
    with pytest.raises(ContractError, match="indices below 5"):
        gather(make_scan(M=5), groups, slice(None), mean_counts={0: 1.0})
    with pytest.raises(ContractError, match=r"none for scan \[0\]"):
        gather(scan, groups, slice(None), mean_counts={1: 1.0})


def test_the_longest_names_of_a_disk_can_be_written(tmp_path):
    """FILE-4: the hidden name beside it is not longer than a disk allows."""
    name = "ä" * 120 + "x" * 15
    create_store(tmp_path / name, make_scan())
    assert create_store(tmp_path / name, make_scan(probe_kind="exact")).probe_kind == "exact"
    write_scan(tmp_path / f"{name[:-4]}.npz", make_scan())
    assert len(read_scan(tmp_path / f"{name[:-4]}.npz")) == 10
    assert len(list(tmp_path.iterdir())) == 2
