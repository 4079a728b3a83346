"""RUN-1 to RUN-4: one run at a time writes into a folder, and nothing of a killed one stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ptycho_contracts.problems import ContractError
from ptycho_data import run_folder as module
from ptycho_data.atomic_files import atomic_write
from ptycho_data.run_folder import LOCK, SILENT_SECONDS, is_first_process, run_folder, running_in, sweep

HOLD = """
import sys, time
from pathlib import Path
from ptycho_data.run_folder import run_folder
with run_folder(Path(sys.argv[1]), ("ptycho-cli", "train")):
    print("held", flush=True)
    time.sleep(600)
"""

RACE = """
import os, sys, time
from pathlib import Path
from ptycho_contracts.problems import ContractError
from ptycho_data.run_folder import run_folder
folder = Path(sys.argv[1])
won = 0
while time.time() < float(sys.argv[2]):
    try:
        with run_folder(folder):
            inside = folder / "inside"
            inside.touch(exist_ok=False)
            won += 1
            inside.unlink()
        if won % 3 == 0:  # a process that ends without releasing
            pid = os.fork()
            if not pid:
                try:
                    run_folder(folder).__enter__()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
    except ContractError as error:
        assert error.codes == ("output.locked",), error
print(won)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes into the folder, until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def refused(folder: Path) -> str:
    with pytest.raises(ContractError) as caught, run_folder(folder):
        pass
    assert caught.value.codes == ("output.locked",)
    return str(caught.value)


@pytest.fixture(params=["hard links", "no hard links"])
def _links(request, monkeypatch):
    """File systems with and without hard links."""
    if request.param == "no hard links":

        def link(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)


@pytest.mark.usefixtures("_links")
def test_a_second_run_is_told_which_the_first_is(tmp_path, holder):
    """It changes nothing; once the first is killed, even before its parent knows, the next one begins."""
    before = (tmp_path / LOCK).read_bytes()
    words = refused(tmp_path)
    assert f"`ptycho-cli train`, process {holder.pid} on " in words
    assert f"remove {tmp_path / LOCK}" in words
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert (tmp_path / LOCK).read_bytes() == before
    assert running_in(tmp_path).pid == holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, but not yet reaped
    assert running_in(tmp_path) is None
    with run_folder(tmp_path):
        assert running_in(tmp_path).pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_no_flock_is_used(tmp_path, monkeypatch, holder):
    """Network file systems may lack it."""
    import fcntl

    def missing(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    monkeypatch.setattr(fcntl, "lockf", missing)
    refused(tmp_path)


def test_nested_in_one_thread_but_not_in_another(tmp_path):
    """A workflow inside a command; two notebooks' threads are two runs."""
    said = []
    with run_folder(tmp_path):
        with run_folder(tmp_path):
            assert (tmp_path / LOCK).exists()
        assert (tmp_path / LOCK).exists()
        thread = threading.Thread(target=lambda: said.append(refused(tmp_path)))
        thread.start()
        thread.join()
    assert said
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_another_process_has_now_is_no_run(tmp_path):
    """Numbers of processes are used again: the time of the start decides."""
    with run_folder(tmp_path):
        record = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps(record | {"started": record["started"] - 1, "thread": 0}))
    with run_folder(tmp_path):
        assert running_in(tmp_path).started == record["started"]


@pytest.mark.parametrize("broken", [False, True], ids=["elsewhere", "unreadable"])
def test_a_run_elsewhere_lives_as_long_as_it_gives_signs_of_life(tmp_path, broken):
    """Its process cannot be asked for; nor that of a lock that cannot be read."""
    with run_folder(tmp_path):
        record = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text("{" if broken else json.dumps(record | {"place": "another machine", "host": "far"}))
    assert ("has just begun" if broken else "on far, since") in refused(tmp_path)
    silent = time.time() - SILENT_SECONDS - 1
    os.utime(tmp_path / LOCK, (silent, silent))
    with run_folder(tmp_path):
        assert running_in(tmp_path).pid == os.getpid()


def test_a_run_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.005)
    with run_folder(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        give_up = time.monotonic() + 60
        while (tmp_path / LOCK).stat().st_mtime == 0:
            assert time.monotonic() < give_up
            time.sleep(0.005)


def test_a_lock_that_was_taken_over_is_not_removed(tmp_path):
    with run_folder(tmp_path):
        (tmp_path / LOCK).write_text("of another run")
    assert (tmp_path / LOCK).read_text() == "of another run"


def test_processes_that_meet_are_never_inside_together(tmp_path):
    """Also where locks of dead processes are taken over all the time."""
    until = str(time.time() + 3)
    runs = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), until], stdout=-1, stderr=-1) for _ in range(3)
    ]
    for run in runs:
        out, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors.decode()
        assert int(out) > 0


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(RuntimeError), run_folder(tmp_path / "new" / "out"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


OURS = (
    ".object.npz.tmp-{pid}-0123abcd",
    ".summary.json.old-{pid}-0123abcd",
    ".partial.tmp-{pid}-0123abcd/object.npz",
    ".store.tmp-{pid}-0123abcd/measurements.npy",
    ".run.lock.tmp-{pid}-0123abcd",
    "checkpoints/.epoch=0003-val_loss=0.1.safetensors.tmp-{pid}-0123abcd",
    "store/.groups-9f.tmp-{pid}-0123abcd/nn_indices.npy",
)
THEIRS = (
    ".object.npz.tmp-{pid}-0123abc",
    ".notes.tmp-{pid}-0123abcd",
    ".partial-of-mine",
    "object.npz.tmp-{pid}-0123abcd",
    ".object.npz.tmp-draft",
    "mine/.object.npz.tmp-{pid}-0123abcd",
    "checkpoints/.git",
    ".store.part-0123abcd/measurements.npy",
)


@pytest.fixture
def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_left_overs_of_killed_runs_go_and_all_other_names_stay(tmp_path, ended):
    """Only names that are made here, of processes that have ended."""
    stay = [name.format(pid=ended) for name in THEIRS] + [name.format(pid=os.getpid()) for name in OURS]
    for name in [*(name.format(pid=ended) for name in OURS), *stay]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    with run_folder(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} - {LOCK}
    assert left == set(stay)


def test_a_link_goes_but_not_what_it_leads_to(tmp_path, ended):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "scan.npz").write_text("kept")
    (tmp_path / f".store.tmp-{ended}-0123abcd").symlink_to(tmp_path / "data")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data" / "scan.npz").read_text() == "kept"


@pytest.mark.parametrize(
    ("environment", "processes", "first"),
    [
        ({}, 2, True),
        ({"LOCAL_RANK": "1"}, 2, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, 2, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "0"}, 4, True),
        ({"SLURM_PROCID": "3"}, 4, False),
        ({"SLURM_PROCID": "3", "RANK": "1"}, 1, True),
    ],
)
def test_one_of_the_processes_that_train_together_holds_the_folder(environment, processes, first, monkeypatch):
    for name in module._RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process(processes) is first


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_is_obeyed(umask, mode, tmp_path):
    """By every file, whatever the library that writes it does with its permissions."""
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "some.npz") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        with run_folder(tmp_path):
            assert (tmp_path / LOCK).stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)
    assert (tmp_path / "some.npz").stat().st_mode & 0o777 == mode
