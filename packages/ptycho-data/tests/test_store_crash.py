"""FOLD-3, FOLD-5: writers that are killed, and writers that meet."""

import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from ptycho_contracts.problems import ContractError, MissingFileError
from ptycho_contracts.records import Scan
from ptycho_data.store.stores import create_store, open_store, verify_store

MAKE = """
import sys
import numpy as np
from ptycho_contracts.records import Scan
from ptycho_data.store.stores import create_store

def scan_of(seed):
    rng = np.random.default_rng(seed)
    return Scan(measurements=rng.poisson(50, (40, 16, 16)).astype(np.uint16), unit="counts",
                positions_px=rng.uniform(0, 30, (40, 2)))
"""

# A child for every moment: it kills itself at the n-th time that Python opens, makes, renames or removes anything
# below its folder, or reports progress. Ends with the first child that lives to the end.
KILLED = MAKE + textwrap.dedent("""
    import os, signal
    root, replacing = sys.argv[1], sys.argv[2] == "replacing"
    scan, events = scan_of(0), ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.listdir", "os.scandir")

    def child(folder, left):
        def count(event, args):
            nonlocal left
            if event in events and any(isinstance(arg, (str, os.PathLike)) and folder in str(arg) for arg in args):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        create_store(os.path.join(folder, "s"), scan, progress=lambda *step: count("open", (folder,)))
        os._exit(0)

    for moment in range(200):
        folder = os.path.join(root, f"{moment:03d}")
        os.mkdir(folder)
        if replacing:
            create_store(os.path.join(folder, "s"), scan_of(1))
        pid = os.fork()
        if not pid:
            child(folder, moment)
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            sys.exit(os.WEXITSTATUS(status))
    sys.exit("no child lived")
""")

RACE = MAKE + textwrap.dedent("""
    import os, time
    folder, seed = sys.argv[1], int(sys.argv[2])
    scan = scan_of(seed)

    def wait_for_the_others(stage, done, total):
        if stage == "commit" and not done:
            open(os.path.join(folder, f"ready-{os.getpid()}"), "w").close()
            while len([name for name in os.listdir(folder) if name.startswith("ready-")]) < int(sys.argv[3]):
                time.sleep(0.001)

    store = create_store(os.path.join(folder, "s"), scan, progress=wait_for_the_others)
    assert (store.measurements == scan.measurements).all() or sys.argv[4] == "different"
""")


def scan_of(seed):
    rng = np.random.default_rng(seed)
    return Scan(
        measurements=rng.poisson(50, (40, 16, 16)).astype(np.uint16),
        unit="counts",
        positions_px=rng.uniform(0, 30, (40, 2)),
    )


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replacing"])
def test_killed_writer_never_leaves_a_store_that_opens_and_is_not_whole(tmp_path, replacing):
    """Invariant 27: killed at every step from the first file to the last rename; the next writer succeeds."""
    writer = start(KILLED, tmp_path, "replacing" if replacing else "new")
    _, errors = writer.communicate(timeout=300)
    assert writer.returncode == 0, errors.decode()
    states = []
    for folder in sorted(tmp_path.iterdir()):
        try:
            store = open_store(folder / "s")
        except MissingFileError:
            states.append("none")
        else:
            verify_store(folder / "s")
            seed = next(seed for seed in (0, 1) if (store.positions_px == scan_of(seed).positions_px).all())
            np.testing.assert_array_equal(store.measurements, scan_of(seed).measurements)
            states.append("new" if seed == 0 else "old")
        again = create_store(folder / "s", scan_of(0))
        np.testing.assert_array_equal(again.measurements, scan_of(0).measurements)
        verify_store(folder / "s")
    assert len(states) > 15
    order = ["old", "none", "new"] if replacing else ["none", "new"]
    assert states == sorted(states, key=order.index)
    assert set(states) == set(order)


@pytest.mark.parametrize("seeds", [(0, 0, 0), (0, 1, 2)], ids=["same", "different"])
def test_writers_at_once_one_wins_and_all_succeed(tmp_path, seeds):
    """Invariant 27: three processes that are all just before the rename."""
    writers = [
        start(RACE, tmp_path, seed, len(seeds), "different" if seed != seeds[0] or seeds[1] else "same")
        for seed in seeds
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors.decode()
    verify_store(tmp_path / "s")
    key = open_store(tmp_path / "s").key
    assert key in {create_store(tmp_path / f"alone-{seed}", scan_of(seed)).key for seed in set(seeds)}
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".s.")]


def test_half_written_folder_is_not_a_store(tmp_path):
    """Invariant 27: arrays without a manifest do not open, however complete they look."""
    create_store(tmp_path / "s", scan_of(0))
    (tmp_path / "s" / "manifest.json").unlink()
    with pytest.raises(ContractError, match="no finished store"):
        open_store(tmp_path / "s")


RESUMED = MAKE + textwrap.dedent("""
    from ptycho_data.store.writer import StoreWriter
    block = np.random.default_rng(0).integers(0, 999, (50, 128, 128), dtype=np.uint16)
    positions = np.random.default_rng(0).uniform(0, 30, (1600, 2))
    print("ready", flush=True)
    with StoreWriter(sys.argv[1], shape=(1600, 128, 128), dtype=np.uint16, unit="counts", positions_px=positions,
                     resume_key="k") as writer:
        print(writer.done, flush=True)
        while writer.done < 1600:
            writer.append(block[writer.done % 50 :])
        writer.commit()
""")


@pytest.mark.slow
def test_resumable_writer_killed_at_random_moments(tmp_path):
    """Invariant 27: killed again and again it gets further, nothing opens before the end, and the end is whole."""
    chance = np.random.default_rng(0)
    reached = []
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", RESUMED, str(tmp_path / "s")],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert writer.stdout.readline() == "ready\n"
        reached.append(int(writer.stdout.readline() or -1))
        time.sleep(chance.uniform(0, 0.08))
        writer.kill()
        writer.communicate()
        try:
            store = open_store(tmp_path / "s")
        except MissingFileError:
            continue
        verify_store(tmp_path / "s")
        assert len(store) == 1600
        break
    assert reached == sorted(reached)
    last = start(RESUMED, tmp_path / "s")
    _, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors.decode()
    verify_store(tmp_path / "s")
    block = np.random.default_rng(0).integers(0, 999, (50, 128, 128), dtype=np.uint16)
    for row, pattern in enumerate(open_store(tmp_path / "s").measurements):
        np.testing.assert_array_equal(pattern, block[row % 50])
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
