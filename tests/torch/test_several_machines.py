"""Processes of several machines meet, or say why they do not (TRN-18); two processes of this machine stand for two."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.utilities import rank_zero_only
from ptycho_torch import machines
from safetensors.numpy import load_file
from training_flags import SHORT

NAMES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK", "RANK", "WORLD_SIZE")
PATIENCE = 600
"""Seconds after which a process that waits for another one fails the test."""
WORDS = (*SHORT, "--passes", "1", "--n-groups", "40", "--batch-size", "4", "--accelerator", "cpu")


@pytest.fixture
def port() -> str:
    """A port of this machine that is free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def told_by_launchers() -> list[str]:
    """Variables of this process with which a launcher has told it about others."""
    return [name for name in os.environ if name in NAMES or name.startswith(("SLURM_", "TORCHELASTIC_"))]


@pytest.fixture
def alone(monkeypatch):
    """A process that no launcher has started."""
    for name in told_by_launchers():
        monkeypatch.delenv(name)


def start(scan_file: Path, out: Path, program: list[str], told: dict[str, str], *words: str) -> subprocess.Popen[str]:
    """Start a training as a launcher does."""
    kept = {name: value for name, value in os.environ.items() if name not in told_by_launchers()}
    return subprocess.Popen(
        [sys.executable, *program, "train", str(scan_file), "--output-dir", str(out), *WORDS, *words],
        env={**kept, **told, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def two_devices(scan_file, tmp_path_factory) -> dict[str, np.ndarray]:
    """Weights of two processes of one machine."""
    out = tmp_path_factory.mktemp("devices")
    process = start(scan_file, out, ["-m", "ptycho_cli"], {}, "--devices", "2")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "waits at" not in err
    return load_file(out / "model.safetensors")


def by_hand(rank: int, port: str) -> tuple[list[str], dict[str, str]]:
    return ["-m", "ptycho_cli"], {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": str(rank)}


def by_torchrun(rank: int, port: str) -> tuple[list[str], dict[str, str]]:
    words = ["--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"]
    address = ["--master-addr", "127.0.0.1", "--master-port", port]
    return ["-m", "torch.distributed.run", *words, *address, "-m", "ptycho_cli"], {}


def by_slurm(rank: int, port: str) -> tuple[list[str], dict[str, str]]:
    """The variables that srun sets; there is no SLURM here."""
    told = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "2", "NTASKS_PER_NODE": "1", "NODELIST": "127.0.0.1"}
    told |= {"PROCID": str(rank), "NODEID": str(rank), "LOCALID": "0"}
    return ["-m", "ptycho_cli"], {f"SLURM_{name}": value for name, value in told.items()} | {"MASTER_PORT": port}


@pytest.mark.slow
@pytest.mark.parametrize("launch", [by_hand, by_torchrun, by_slurm])
def test_two_machines_train_as_two_devices_of_one(port, scan_file, two_devices, tmp_path, launch):
    """The same weights, bit for bit; each says where it waited, one writes."""
    folders = [tmp_path / f"machine{rank}" for rank in (0, 1)]
    started = [start(scan_file, out, *launch(rank, port), "--num-nodes", "2") for rank, out in enumerate(folders)]
    ended = [process.communicate(timeout=PATIENCE) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    for rank, (_, err) in enumerate(ended):
        assert f"process {rank} waits at 127.0.0.1:{port} for 2 processes on 2 machines, at most 30 minutes" in err
    assert "wrote " in ended[0][0]
    assert "the first process writes the results" in ended[1][0]
    assert not (folders[1] / "model.safetensors").exists()
    assert json.loads((folders[0] / "summary.json").read_text())["training"]["steps"] == 5
    ours = load_file(folders[0] / "model.safetensors")
    assert ours.keys() == two_devices.keys()
    assert all(np.array_equal(ours[name], two_devices[name]) for name in ours)


def test_nobody_can_come_without_an_address(alone, train):
    """Exit 2 at once instead of a wait that nothing can end; the line says what to set."""
    run = train("--num-nodes", "2", "--accelerator", "cpu", "--quiet")
    assert run.code == 2
    assert run.err.count("\n") == 1
    assert "processes.address" in run.err
    assert "this process would wait at 127.0.0.1:" in run.err
    assert "MASTER_ADDR, MASTER_PORT and its own NODE_RANK, or by torchrun or SLURM" in run.err
    assert not (run.out / "model.safetensors").exists()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_wait_ends_with_what_did_not_come(alone, train, monkeypatch, port, rank):
    """Exit 1 and one line with address, processes and time: the second machine, or the first, is never started."""
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port), ("NODE_RANK", rank)):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(machines, "WAIT", timedelta(seconds=1.2))
    run = train("--num-nodes", "2", "--accelerator", "cpu", "--quiet")
    assert run.code == 1
    (line,) = [line for line in run.err.splitlines() if line.startswith("ptycho-cli: error: ")]
    assert f"2 processes on 2 machines at 127.0.0.1:{port} within 0.02 minutes" in line
    assert "processes.absent" in line
    assert rank_zero_only.rank == 0  # the next training of this process logs again
    assert not (run.out / "model.safetensors").exists()
