"""STORE-4 to STORE-6: stores written in blocks, interrupted, and resumed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, MissingFileError, WorkFailedError
from ptycho_contracts.records import Scan
from ptycho_data import checksums
from ptycho_data.checksums import release_pages
from ptycho_data.store import writer as store_writer
from ptycho_data.store.stores import create_store, open_store, verify_store
from ptycho_data.store.writer import StoreWriter, create_store_from_chunks

ROW = 1 << 15


def scan_of(M=12, N=64, seed=0):
    rng = np.random.default_rng(seed)
    return Scan(
        measurements=rng.integers(0, 5000, (M, N, N), dtype=np.uint16),
        unit="counts",
        positions_px=rng.uniform(0, 30, (M, 2)),
        probe=np.ones((1, N, N), np.complex64),
        metadata={"from": "a"},
    )


def writer_of(path, scan, **changes):
    keywords = {
        "shape": scan.measurements.shape,
        "dtype": scan.measurements.dtype,
        "unit": scan.unit,
        "positions_px": scan.positions_px,
        "arrays": {"probe": scan.probe},
        "metadata": scan.metadata,
    }
    return StoreWriter(path, **{**keywords, **changes})


@pytest.fixture
def small_blocks(monkeypatch):
    """Digests after 64 KiB: 8 patterns of 64 x 64 uint16."""
    for module in (checksums, store_writer):
        monkeypatch.setattr(module, "BLOCK_BYTES", 2 * ROW)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.booleans())
@settings(max_examples=15)
def test_any_blocks_make_the_store_of_the_scan(tmp_path_factory, sizes, resumable):
    """Invariant 24, 26, 39: chunked equals unchunked, byte for byte."""
    folder = tmp_path_factory.mktemp("chunks")
    scan = scan_of(M=max(1, sum(sizes)))
    whole = create_store(folder / "whole", scan)

    def chunks(start):
        for size in sizes if sum(sizes) else [1]:
            yield scan.measurements[start : start + size]
            start += size

    made = create_store_from_chunks(
        folder / "chunked",
        chunks,
        shape=scan.measurements.shape,
        dtype=np.uint16,
        unit="counts",
        positions_px=scan.positions_px,
        arrays={"probe": scan.probe},
        metadata=scan.metadata,
        resume_key="a" if resumable else None,
    )
    assert made.key == whole.key
    assert {p.name: p.read_bytes() for p in made.path.iterdir()} == {
        p.name: p.read_bytes() for p in whole.path.iterdir()
    }
    assert sorted(p.name for p in folder.iterdir()) == ["chunked", "whole"]
    verify_store(made.path)


@pytest.mark.parametrize("written", [0, 7, 8, 20, 33, 40])
def test_an_interrupted_store_is_resumed(tmp_path, small_blocks, written):
    """Invariant 27: nothing opens before the commit; whole blocks are not written twice."""
    scan = scan_of(M=40)
    with writer_of(tmp_path / "s", scan, resume_key="source 1") as writer:
        assert writer.done == 0
        for row in range(written):
            writer.append(scan.measurements[row : row + 1])
    with pytest.raises(MissingFileError):
        open_store(tmp_path / "s")
    with writer_of(tmp_path / "s", scan, resume_key="source 1") as writer:
        assert writer.done == written // 8 * 8
        writer.append(scan.measurements[writer.done :])
        store = writer.commit()
    assert store.key == create_store(tmp_path / "whole", scan).key
    verify_store(store.path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s", "whole"]


@pytest.mark.parametrize("damage", ["data", "journal", "cut", "header", "no journal", "stray manifest"])
def test_a_damaged_part_is_written_again_from_the_damage_on(tmp_path, small_blocks, damage):
    """Invariant 27: completeness is never guessed: only data that agree with their digests are kept."""
    scan = scan_of(M=40)
    with writer_of(tmp_path / "s", scan, resume_key="k") as writer:
        writer.append(scan.measurements[:33])
    part = next(path for path in tmp_path.iterdir() if path.is_dir())
    data, journal = part / "measurements.npy", part / "journal"
    content = bytearray(data.read_bytes())
    begin = len(content) - 33 * 8192
    kept = {"data": 8, "journal": 16, "cut": 24, "header": 0, "no journal": 0, "stray manifest": 32}[damage]
    if damage == "data":
        content[begin + 9 * 8192] ^= 1
    elif damage == "cut":
        del content[begin + 31 * 8192 :]
    elif damage == "header":
        content[0] ^= 1
    elif damage == "journal":
        lines = journal.read_text().splitlines()
        journal.write_text("\n".join([*lines[:2], "0" * 64, *lines[3:]]))
    elif damage == "no journal":
        journal.unlink()
    else:
        (part / "manifest.json").write_text("{}")
        (part / "positions_px.npy").write_bytes(b"")
    data.write_bytes(content)
    with writer_of(tmp_path / "s", scan, resume_key="k") as writer:
        assert writer.done == kept
        writer.append(scan.measurements[kept:])
        np.testing.assert_array_equal(writer.commit().measurements, scan.measurements)
    verify_store(tmp_path / "s")


@pytest.mark.parametrize(
    "changes",
    [
        {"resume_key": "other"},
        {"metadata": {"from": "b"}},
        {"positions_px": np.zeros((40, 2))},
        {"unit": "amplitude"},
        {"arrays": {}},
    ],
)
def test_a_part_of_another_source_is_not_continued(tmp_path, small_blocks, changes):
    """Invariant 26: everything that shapes the store is part of what is continued."""
    scan = scan_of(M=40)
    with writer_of(tmp_path / "s", scan, resume_key="k") as writer:
        writer.append(scan.measurements[:33])
    with writer_of(tmp_path / "s", scan, **{"resume_key": "k", **changes}) as writer:
        assert writer.done == 0


def test_without_a_key_nothing_is_left(tmp_path):
    scan = scan_of()
    with writer_of(tmp_path / "s", scan) as writer:
        writer.append(scan.measurements[:5])
    assert not list(tmp_path.iterdir())


def test_two_writers_of_one_source_both_succeed(tmp_path, small_blocks):
    """Invariant 27: the second writes its own part; one store."""
    scan = scan_of(M=40)
    first, second = (writer_of(tmp_path / "s", scan, resume_key="k") for _ in range(2))
    for start in range(0, 40, 5):
        first.append(scan.measurements[start : start + 5])
        second.append(scan.measurements[start : start + 5])
    assert first.commit().key == second.commit().key
    verify_store(tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (np.zeros((2, 64, 64), np.uint32), "store.patterns"),
        (np.zeros((2, 64, 63), np.uint16), "store.patterns"),
        (np.zeros((64, 64), np.uint16), "store.patterns"),
        (np.zeros((13, 64, 64), np.uint16), "store.patterns"),
    ],
)
def test_bad_blocks_write_nothing(tmp_path, block, code):
    """Invariant 24: more or other patterns than declared."""
    scan = scan_of()
    with writer_of(tmp_path / "s", scan) as writer:
        with pytest.raises(ContractError) as caught:
            writer.append(block)
        assert caught.value.codes == (code,)
        assert writer.done == 0
        writer.append(scan.measurements)
        np.testing.assert_array_equal(writer.commit().measurements, scan.measurements)


def test_bad_values_are_refused(tmp_path):
    scan = scan_of()
    with writer_of(tmp_path / "s", scan, dtype=np.float32) as writer, pytest.raises(ContractError) as caught:
        writer.append(np.full((1, 64, 64), [-1] + 63 * [np.nan], np.float32))
    assert caught.value.codes == ("array.not_finite", "array.minimum")


def test_fewer_patterns_than_declared_make_no_store(tmp_path):
    """Invariant 24: 5 of 12."""
    scan = scan_of()
    with writer_of(tmp_path / "s", scan) as writer:
        writer.append(scan.measurements[:5])
        with pytest.raises(WorkFailedError, match="expected 12 rows"):
            writer.commit()
    assert not list(tmp_path.iterdir())


def test_all_problems_of_the_other_arrays_at_once(tmp_path):
    scan = scan_of()
    with pytest.raises(ContractError) as caught:
        writer_of(tmp_path / "s", scan, positions_px=scan.positions_px[:5], arrays={"prob": scan.probe})
    assert set(caught.value.codes) == {"array.unknown", "array.shape"}
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ContractError, match="choose another path"):
        writer_of(tmp_path / "notes", scan)
    with pytest.raises(MissingFileError):
        writer_of(tmp_path / "no" / "s", scan)


def test_progress_reports_the_resumed_part(tmp_path, small_blocks):
    scan, seen = scan_of(M=40), []
    with writer_of(tmp_path / "s", scan, resume_key="k") as writer:
        writer.append(scan.measurements[:33])
    with writer_of(tmp_path / "s", scan, resume_key="k", progress=lambda *step: seen.append(step)) as writer:
        writer.append(scan.measurements[writer.done :])
        writer.commit()
    assert seen[3] == ("resume", 8 * ROW, 8 * ROW)
    assert seen[-3:] == [("write", 40, 40), ("commit", 0, 1), ("commit", 1, 1)]


def test_patterns_in_a_memory_map_are_stored_without_staying_in_memory(tmp_path):
    """Invariant 39: pages are given back, but never those of a map that holds changes."""
    scan = scan_of()
    np.save(tmp_path / "a.npy", scan.measurements)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    store = create_store(tmp_path / "s", Scan(measurements=mapped, unit="counts", positions_px=scan.positions_px))
    np.testing.assert_array_equal(store.measurements, mapped)
    changed = np.load(tmp_path / "a.npy", mmap_mode="c")
    changed[3] = 7
    release_pages(changed)
    assert (changed[3] == 7).all()
