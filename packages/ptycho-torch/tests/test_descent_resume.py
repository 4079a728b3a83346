"""Validation, checkpoints and resuming of the joint descent (PHY-30 to PHY-32, CKP-3 to CKP-6)."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, MissingFileError, WorkFailedError
from ptycho_contracts.testing import reference
from ptycho_data.batches.gathering import mean_counts
from ptycho_data.canvas.geometry import canvas_geometry
from ptycho_data.fitting.checkpoints import DescentCheckpoints, run_checkpoints
from ptycho_data.fitting.probes import with_modes
from ptycho_data.simulate import simulate
from ptycho_torch.descent import TENSOR_FILES, joint_descent
from ptycho_torch.physics import place_scan
from safetensors import safe_open
from safetensors.numpy import save_file

JUDGES = np.arange(3, 36, 6)
FITTED = np.setdiff1d(np.arange(36), JUDGES)
MORE = {"position_learning_rate": 0.1, "background_learning_rate": 0.05}
EVERYTHING = {**MORE, "validation": JUDGES}
CASES = {
    "object and modes": {},
    "the probe is kept": {"probe_learning_rate": 0.0, "loss": "poisson"},
    "positions and background": MORE,
    "an earlier epoch is the best": EVERYTHING,
}


@pytest.fixture(scope="module")
def scan():
    """36 patterns of 16 x 16 pixels, 30 photons each: soon fitted too well."""
    return simulate(N=16, n_patterns=36, step_px=2.0, photons_per_pattern=30, seed=4)


@pytest.fixture
def descend(scan):
    """A descent of 8 epochs of 5 steps."""

    def run(*, source=scan, probe=scan.probe, indices=FITTED, **options):
        sites = place_scan(scan.positions_px, canvas_geometry(scan.positions_px, 16), 16)
        usual = {
            "epochs": 8,
            "batch_size": 6,
            "object_learning_rate": 0.05,
            "probe_learning_rate": 0.02,
            "loss": "amplitude",
            "seed": 2,
        }
        gauge = mean_counts(scan)[int(scan.scan_index[0])]
        start = with_modes(probe, 2)
        return joint_descent(source, sites, start, indices=indices, mean_counts=gauge, **{**usual, **options})

    return run


def keeping(path, **options) -> DescentCheckpoints:
    """A checkpoint after every epoch: by its clock, each look comes at a hundred times the hour of the one before."""
    looks = iter(range(150))
    return DescentCheckpoints(path, TENSOR_FILES, clock=lambda: 100.0 ** next(looks), **options)


class Killed(BaseException):
    """The process is gone."""


def killed_after(steps):
    def progress(stage, done, total):
        if done == steps:
            raise Killed

    return progress


@pytest.fixture
def interrupted(descend, tmp_path):
    """The checkpoint of a descent that was killed in its fifth epoch."""

    def run(**options):
        with pytest.raises(Killed):
            descend(
                checkpoints=keeping(tmp_path / "kept" / "descent.safetensors"), progress=killed_after(23), **options
            )
        return tmp_path / "kept" / "descent.safetensors"

    return run


@pytest.mark.parametrize("case", CASES)
def test_resumed_has_the_bits_of_an_uninterrupted_run(descend, interrupted, case):
    """PHY-32 and invariant 42: object, modes, shifts, background, losses, best epoch."""
    options = CASES[case]
    whole, path = descend(**options), interrupted(**options)
    found = descend(checkpoints=keeping(path, resume=True), **options)
    for name in ("object", "probe", "shifts_yx_px", "background"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert (found.losses, found.course.val_losses) == (whole.losses, whole.course.val_losses)
    assert found.course.best_epoch == whole.course.best_epoch
    assert (found.course.resumed_from_epoch, whole.course.resumed_from_epoch) == (4, 0)
    if case.startswith("an earlier"):
        assert whole.course.best_epoch < 4


def test_a_descent_without_checkpoints_is_the_same(descend, tmp_path):
    """Keeping its state changes no bit of a descent, and leaves one file."""
    kept = descend(checkpoints=keeping(tmp_path / "descent.safetensors"), **EVERYTHING)
    np.testing.assert_array_equal(kept.object, descend(**EVERYTHING).object)
    assert kept.course.checkpoints_written == 8
    assert [path.name for path in tmp_path.iterdir()] == ["descent.safetensors"]


def test_what_the_file_holds(interrupted, scan):
    """CKP-3: the same tensors from either backend, in plain safetensors, with their checksum."""
    path = interrupted(**CASES["an earlier epoch is the best"])
    header, tensors = parts(path)
    height, width = canvas_geometry(scan.positions_px, 16).shape
    shapes = {
        "object": (height, width, 2),
        "modes": (2, 16, 16, 2),
        "shifts_yx_px": (36, 2),
        "root_background": (16, 16),
    }
    expected = {
        f"{before}{name}{after}": shape
        for name, shape in shapes.items()
        for before, after in (("", ""), ("", ".first"), ("", ".second"), ("best.", ""))
    }
    assert {name: value.shape for name, value in tensors.items()} == expected
    assert {value.dtype for value in tensors.values()} == {np.dtype("float32")}
    assert (header["format"], header["schema"], header["sha256"]) == ("ptycho-descent", "1", checksum(header, tensors))
    state = json.loads(header["state"])
    assert state["epoch"] == len(state["losses"]) == len(state["val_losses"]) == 4
    # 20 steps; positions wait for a tenth of the 40.
    assert state["steps"] == {"object": 20, "modes": 20, "shifts_yx_px": 16, "root_background": 20}


def test_only_what_is_stepped_has_moments(interrupted):
    """CKP-3."""
    _, tensors = parts(interrupted(probe_learning_rate=0.0))
    assert {name for name in tensors if "." in name} == {"object.first", "object.second"}


class TestValidation:
    """PHY-30."""

    def test_the_loss_is_that_of_what_is_handed_out(self, descend, scan):
        """Oracle: the NumPy reference on the object and probe of the best epoch, at the given positions."""
        found = descend(validation=JUDGES, position_learning_rate=0.05)
        origin = canvas_geometry(scan.positions_px, 16).origin_yx_px
        patches = reference.extract_patches(found.object, scan.positions_px[JUDGES], 16, origin)
        gauge = mean_counts(scan)[int(scan.scan_index[0])]
        simulated = reference.simulate_counts(patches, found.probe * np.sqrt(gauge))
        expected = reference.amplitude_loss(simulated, scan.counts(JUDGES))
        best = found.course.best_epoch
        assert found.course.val_losses[best - 1] == min(found.course.val_losses) == pytest.approx(expected, rel=1e-3)
        assert best < 8
        assert not found.shifts_yx_px[JUDGES].any()
        assert (np.abs(found.shifts_yx_px[FITTED]).max(1) > 0).all()

    def test_judges_are_not_fitted(self, descend, scan):
        """Other counts of theirs change their loss and no step."""
        measurements = np.array(scan.measurements)
        measurements[JUDGES] = measurements[JUDGES][:, ::-1]

        class Altered:
            N, bad_pixels, scan_index = 16, None, scan.scan_index

            def __len__(self):
                return 36

            def counts(self, rows):
                return measurements[rows].astype(np.float32)

        one, other = descend(validation=JUDGES), descend(validation=JUDGES, source=Altered())
        assert one.losses == other.losses == descend().losses
        assert all(a != b for a, b in zip(one.course.val_losses, other.course.val_losses, strict=True))

    def test_patience_stops(self, descend):
        """PHY-31."""
        whole, found = descend(validation=JUDGES), descend(validation=JUDGES, patience=2)
        assert found.course.stopped_by == "early stopping"
        assert len(found.losses) == found.course.best_epoch + 2 < 8
        np.testing.assert_array_equal(found.object, whole.object)


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory, scan) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "descent.safetensors"
    sites = place_scan(scan.positions_px, canvas_geometry(scan.positions_px, 16), 16)
    joint_descent(
        scan,
        sites,
        scan.probe,
        indices=FITTED,
        mean_counts=30.0,
        epochs=2,
        batch_size=9,
        object_learning_rate=0.05,
        probe_learning_rate=0.0,
        loss="amplitude",
        seed=0,
        checkpoints=keeping(path),
    )
    keeping(path, resume=True)  # whole, it opens
    return path.read_bytes()


DIFFERENCES = {
    "epochs": {"epochs": 9},
    "seed": {"seed": 3},
    "loss": {"loss": "poisson"},
    "rates.0": {"object_learning_rate": 0.1},
    "max_seconds": {"max_seconds": 1e6},
    "patience": {"patience": 3},
    "batch_size": {"batch_size": 7},
}


class TestRefused:
    """CKP-5, CKP-6: one clear error, before any step."""

    @pytest.mark.parametrize("name", DIFFERENCES)
    def test_other_settings(self, descend, interrupted, name):
        keeper = keeping(interrupted(**EVERYTHING), resume=True)
        with pytest.raises(ContractError, match=rf"descent\.{name.split('.')[0]}: expected .* \[checkpoint\.other\]"):
            descend(checkpoints=keeper, **{**EVERYTHING, **DIFFERENCES[name]}, progress=killed_after(1))

    def test_other_data_and_every_difference_at_once(self, descend, interrupted, scan):
        path = interrupted()
        with pytest.raises(ContractError) as caught:
            descend(checkpoints=keeping(path, resume=True), probe=scan.probe[:, ::-1], indices=FITTED[1:], seed=9)
        assert set(caught.value.codes) == {"checkpoint.other"}
        named = [problem.where.removeprefix(f"{path}: ") for problem in caught.value.problems]
        assert named == ["descent.seed", "patterns", "places", "probe"]

    def test_other_backend_or_version(self, descend, tmp_path):
        """The file is the same for both backends, its bits are not: found before any work."""
        path = tmp_path / "descent.safetensors"

        def checkpoints(*, resume=True, enabled=True, **facts):
            usual = {"backend": "torch", "device": "cpu", "versions": {"torch": "2.9", "numpy": "2.4"}}
            settings = [{"epochs": 3, "hold_out": str(tmp_path / "held.npy")}]
            return run_checkpoints(
                path, TENSOR_FILES, resume=resume, enabled=enabled, settings=settings, **{**usual, **facts}
            )

        kept = checkpoints(resume=False)
        kept.clock = keeping(path).clock
        descend(checkpoints=kept)
        assert checkpoints().state().epoch == 8
        with pytest.raises(ContractError, match=r"backend: expected 'tf', as this run has it, found 'torch'"):
            checkpoints(backend="tf")
        with pytest.raises(ContractError, match=r"versions\.torch: expected '3.0', .* found '2.9'"):
            checkpoints(versions={"torch": "3.0", "numpy": "2.4"})
        with pytest.raises(ContractError, match=r"checkpoint\.disabled"):
            checkpoints(enabled=False)
        assert checkpoints(enabled=False, resume=False) is None

    def test_missing(self, tmp_path):
        with pytest.raises(MissingFileError, match=r"a checkpoint to resume from.*checkpoint\.missing"):
            keeping(tmp_path / "none.safetensors", resume=True)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(data=st.data())
    def test_broken_at_any_byte(self, tmp_path_factory, whole_file, data):
        """Truncated, or one byte altered."""
        content = bytearray(whole_file)
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content = content[:place]
        else:
            content[place] ^= data.draw(st.integers(1, 255))
        path = tmp_path_factory.mktemp("broken") / "descent.safetensors"
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
    def test_foreign(self, interrupted, entry):
        """Signed, and yet none of ours."""
        path = interrupted()
        header, tensors = parts(path)
        header |= entry
        save_file(tensors, path, metadata={**header, "sha256": checksum(header, tensors)})
        refused(path)

    def test_folder(self, tmp_path):
        refused(tmp_path)


def test_a_disk_that_refuses_is_told(descend, tmp_path):
    """CKP-4."""
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(WorkFailedError, match=r"--disable-checkpointing\) \[checkpoint\.write\]"):
        descend(checkpoints=keeping(tmp_path / "checkpoints" / "descent.safetensors"))


def refused(path) -> None:
    with pytest.raises(ContractError, match=r"checkpoint\.broken"):
        keeping(path, resume=True)


def parts(path):
    """Header and tensors, as the library reads them."""
    with safe_open(path, framework="np") as file:
        return dict(file.metadata()), {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118


def checksum(header, tensors) -> str:
    """CKP-3."""
    pieces = [f"{key}\n{header[key]}\n".encode() for key in ("state", "facts")]
    for name, value in sorted(tensors.items()):
        pieces += [f"{name}\n{'x'.join(str(size) for size in value.shape)}\n".encode(), value.tobytes()]
    return hashlib.sha256(b"".join(pieces)).hexdigest()
