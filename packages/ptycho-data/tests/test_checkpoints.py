"""Checkpoints of a joint reconstruction: whose they are, broken ones, disks that refuse (CKP-4 to CKP-6)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, MissingFileError, WorkFailedError
from ptycho_data.canvas import canvas_geometry, scan_sites
from ptycho_data.fitting import joint_reconstruction, to_pairs
from ptycho_data.fitting.checkpoints import CheckpointPlan, Checkpoints, FitStart, checkpoint_plan
from ptycho_data.simulate import simulate
from safetensors import safe_open
from safetensors.numpy import save_file

SCAN = simulate(N=16, n_patterns=36, step_px=2.0, photons_per_pattern=30, seed=4)
VALIDATION = np.arange(3, 36, 6)
FITTED = np.setdiff1d(np.arange(36), VALIDATION)


class Still:
    """Parameters that no step moves."""

    def __init__(self, problem):
        self.values = {
            "object": to_pairs(problem.object_start),
            "modes": to_pairs(problem.modes),
            "shifts_yx_px": np.zeros((len(problem.sites), 2), np.float32),
            "root_background": np.zeros((16, 16), np.float32),
        }
        self.steps = 0

    def step(self, rows, *, factor, positions_move):
        self.steps += 1
        return 1.0

    def loss(self, rows):
        return 1.0

    def parameters(self):
        return {name: value.copy() for name, value in self.values.items()}

    def restore(self, parameters):
        self.values = dict(parameters)

    def moments(self):
        return {"object": (self.values["object"], self.values["object"], self.steps)} if self.steps else {}

    def restore_moments(self, moments):
        self.steps = moments["object"][2]


def fit(*, checkpoints=None, **options):
    """A joint reconstruction of 8 epochs of 5 steps."""
    usual = {
        "indices": FITTED,
        "validation": VALIDATION,
        "mean_counts": 30.0,
        "epochs": 8,
        "batch_size": 6,
        "object_learning_rate": 0.05,
        "probe_learning_rate": 0.02,
        "loss": "amplitude",
        "seed": 2,
    }
    sites = scan_sites(SCAN.positions_px, canvas_geometry(SCAN.positions_px, 16), 16)
    return joint_reconstruction(Still, SCAN, sites, SCAN.probe, checkpoints=checkpoints, **{**usual, **options})


def keeping(path, **options) -> CheckpointPlan:
    """A checkpoint after every epoch: by its clock, each look comes at a hundred times the hour of the one before."""
    looks = iter(range(150))
    return CheckpointPlan(path, clock=lambda: 100.0 ** next(looks), **options)


class Killed(BaseException):
    """The process is gone."""


def killed(stage, done, total):
    if done == 23:
        raise Killed


@pytest.fixture
def interrupted(tmp_path):
    """The checkpoint of a fit that was killed in its fifth epoch."""
    path = tmp_path / "kept" / "joint_fit.safetensors"
    with pytest.raises(Killed):
        fit(checkpoints=keeping(path), progress=killed)
    return path


DIFFERENCES = {
    "seed": {"seed": 3},
    "loss": {"loss": "poisson"},
    "rates": {"object_learning_rate": 0.1},
    "patience": {"patience": 3},
    "batch_size": {"batch_size": 7},
    "mean_counts": {"mean_counts": 31.0},
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_other_settings(interrupted, name):
    """CKP-5: one clear error, before any step."""
    with pytest.raises(ContractError, match=rf"fit\.{name}: expected .* \[checkpoint\.other\]"):
        fit(checkpoints=keeping(interrupted, resume=True), **DIFFERENCES[name])


def test_the_same_run_resumes(interrupted):
    """PHY-32."""
    result = fit(checkpoints=keeping(interrupted, resume=True))
    assert (result.history.resumed_from_epoch, len(result.losses)) == (4, 8)


@pytest.mark.parametrize("epochs", [4, 5, 20])
def test_the_budget_may_be_changed(interrupted, epochs):
    """CKP-5: more epochs or fewer, down to those that are done; any time."""
    result = fit(checkpoints=keeping(interrupted, resume=True), epochs=epochs, max_seconds=1e6)
    assert (result.history.resumed_from_epoch, len(result.losses)) == (4, epochs)


def test_fewer_epochs_than_are_done(interrupted):
    """One clear error; the checkpoint stays."""
    before = interrupted.read_bytes()
    with pytest.raises(ContractError, match=r"more epochs than the 4 that are done.*found 3.*checkpoint\.budget"):
        fit(checkpoints=keeping(interrupted, resume=True), epochs=3)
    assert interrupted.read_bytes() == before


def test_the_start_of_a_run_is_not_made_again(tmp_path):
    """CKP-10: what a limited time has made of it is kept, bit for bit; nothing but the first run makes it."""
    path = tmp_path / "joint_fit.safetensors"
    probes = {"modes": SCAN.probe * np.complex64(1 + 2j), "probe": SCAN.probe[:, ::-1]}
    first = FitStart(probes, {"search": {"losses": [0.5]}, "levels_px": (8,), "from_object": True})
    plan = keeping(path)
    assert plan.start(lambda: first) is first
    fit(checkpoints=plan)
    again = keeping(path, resume=True).start(lambda: pytest.fail("made again"))
    assert again.facts == {"search": {"losses": [0.5]}, "levels_px": [8], "from_object": True}
    assert set(again.probes) == set(probes)
    for name, probe in probes.items():
        np.testing.assert_array_equal(again.probes[name], probe, strict=True)
    fit(checkpoints=keeping(path))
    assert keeping(path, resume=True).start(lambda: first) is first  # of a fit that has none


def test_other_backend_or_version(tmp_path):
    """The file is the same for both backends, its bits are not: found before any work."""
    path = tmp_path / "joint_fit.safetensors"

    def plan(*, resume=True, enabled=True, **facts):
        usual = {"backend": "torch", "device": "cpu", "versions": {"torch": "2.9", "numpy": "2.4"}}
        settings = [{"epochs": 3, "hold_out": str(tmp_path / "held.npy")}]
        return checkpoint_plan(path, resume=resume, enabled=enabled, settings=settings, **{**usual, **facts})

    fit(checkpoints=keeping(path, facts=plan(resume=False).facts))
    assert Checkpoints(path, plan().facts, resume=True).state.epoch == 8
    with pytest.raises(ContractError, match=r"backend: expected 'tf', as this run has it, found 'torch'"):
        plan(backend="tf")
    with pytest.raises(ContractError, match=r"versions\.torch: expected '3.0', .* found '2.9'"):
        plan(versions={"torch": "3.0", "numpy": "2.4"})
    with pytest.raises(ContractError, match=r"checkpoint\.disabled"):
        plan(enabled=False)
    assert plan(enabled=False, resume=False) is None


def test_missing(tmp_path):
    with pytest.raises(MissingFileError, match=r"a checkpoint to resume from.*checkpoint\.missing"):
        keeping(tmp_path / "none.safetensors", resume=True).check()


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "joint_fit.safetensors"
    fit(checkpoints=keeping(path), epochs=2)
    keeping(path, resume=True).check()  # whole, it opens
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_broken_at_any_byte(tmp_path_factory, whole_file, data):
    """CKP-6: truncated, or one byte altered."""
    content = bytearray(whole_file)
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("broken") / "joint_fit.safetensors"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"format": "ptycho-bundle"},
        {"schema": "2"},
        {"state": "{}"},
        {"state": "[1]"},
        {"facts": "nothing"},
        {"state": '{"epoch": "x"}'},
    ],
)
def test_foreign(interrupted, entry):
    """CKP-6: signed, and yet none of ours."""
    with safe_open(interrupted, framework="np") as file:
        header = {**file.metadata(), **entry}
        tensors = {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118
    pieces = [f"{key}\n{header[key]}\n".encode() for key in ("state", "facts")]
    for name, value in sorted(tensors.items()):
        pieces += [f"{name}\n{'x'.join(str(size) for size in value.shape)}\n".encode(), value.tobytes()]
    header["sha256"] = hashlib.sha256(b"".join(pieces)).hexdigest()
    save_file(tensors, interrupted, metadata=header)
    refused(interrupted)


def test_folder(tmp_path):
    refused(tmp_path)


def test_a_disk_that_refuses_is_named(tmp_path):
    """CKP-4."""
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(WorkFailedError, match=r"`enable_checkpointing=False`\) \[checkpoint\.write\]"):
        fit(checkpoints=keeping(tmp_path / "checkpoints" / "joint_fit.safetensors"))


def refused(path) -> None:
    with pytest.raises(ContractError, match=r"checkpoint\.broken"):
        keeping(path, resume=True).check()
