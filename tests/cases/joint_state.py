"""Validation, checkpoints and resuming of a backend's joint reconstruction (PHY-30 to PHY-32, CKP-3 to CKP-5)."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from ptycho_cli.backends import load_backend
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import reference
from ptycho_data.batches import mean_counts
from ptycho_data.canvas import canvas_geometry, scan_sites
from ptycho_data.fitting.checkpoints import CheckpointPlan
from ptycho_data.fitting.probes import with_modes
from ptycho_data.simulate import simulate
from safetensors import safe_open

VALIDATION = np.arange(3, 36, 6)
FITTED = np.setdiff1d(np.arange(36), VALIDATION)
MORE = {"position_learning_rate": 0.1, "background_learning_rate": 0.05}
EVERYTHING = {**MORE, "validation": VALIDATION}
CASES = {
    "object and modes": {},
    "the probe is kept": {"probe_learning_rate": 0.0, "loss": "poisson"},
    "positions and background": MORE,
    "an earlier epoch is the best": EVERYTHING,
}
USUAL = {
    "epochs": 8,
    "batch_size": 6,
    "object_learning_rate": 0.05,
    "probe_learning_rate": 0.02,
    "loss": "amplitude",
    "seed": 2,
}


def keeping(path, **options) -> CheckpointPlan:
    """A checkpoint after every epoch: by its clock, each look comes at a hundred times the hour of the one before."""
    looks = iter(range(150))
    return CheckpointPlan(path, clock=lambda: 100.0 ** next(looks), **options)


class Killed(BaseException):
    """The process is gone."""


def killed_after(steps):
    def progress(stage, done, total):
        if done == steps:
            raise Killed

    return progress


class JointState:
    """The same for both backends; the fixture ``backend`` is a backend's name."""

    @pytest.fixture
    def scan(self):
        """36 patterns of 16 x 16 pixels, 30 photons each: soon fitted too well."""
        return simulate(N=16, n_patterns=36, step_px=2.0, photons_per_pattern=30, seed=4)

    @pytest.fixture
    def fit(self, backend, scan):
        """A joint reconstruction of 8 epochs of 5 steps."""

        def run(*, source=scan, probe=scan.probe, indices=FITTED, **options):
            sites = scan_sites(scan.positions_px, canvas_geometry(scan.positions_px, 16), 16)
            return load_backend(backend).BACKEND.joint_fit(
                source,
                sites,
                with_modes(probe, 2),
                device="cpu",
                indices=indices,
                mean_counts=mean_counts(scan)[int(scan.scan_index[0])],
                **{**USUAL, **options},
            )

        return run

    @pytest.fixture
    def interrupted(self, fit, tmp_path):
        """The checkpoint of a fit that was killed in its fifth epoch."""

        def run(**options):
            path = tmp_path / "kept" / "joint_fit.safetensors"
            with pytest.raises(Killed):
                fit(checkpoints=keeping(path), progress=killed_after(23), **options)
            return path

        return run

    @pytest.mark.parametrize("case", CASES)
    def test_resumed_has_the_bits_of_an_uninterrupted_run(self, fit, interrupted, case):
        """PHY-32 and invariant 42: object, modes, shifts, background, losses, best epoch."""
        options = CASES[case]
        whole, path = fit(**options), interrupted(**options)
        result = fit(checkpoints=keeping(path, resume=True), **options)
        for name in ("object", "probe", "shifts_yx_px", "background"):
            np.testing.assert_array_equal(getattr(result, name), getattr(whole, name))
        assert (result.losses, result.history.val_losses) == (whole.losses, whole.history.val_losses)
        assert result.history.best_epoch == whole.history.best_epoch
        assert (result.history.resumed_from_epoch, whole.history.resumed_from_epoch) == (4, 0)
        if case.startswith("an earlier"):
            assert whole.history.best_epoch < 4

    def test_a_fit_without_checkpoints_is_the_same(self, fit, tmp_path):
        """Keeping its state changes no bit of a fit, and leaves one file."""
        kept = fit(checkpoints=keeping(tmp_path / "joint_fit.safetensors"), **EVERYTHING)
        np.testing.assert_array_equal(kept.object, fit(**EVERYTHING).object)
        assert kept.history.checkpoints_written == 8
        assert [path.name for path in tmp_path.iterdir()] == ["joint_fit.safetensors"]

    def test_what_the_file_holds(self, interrupted, scan):
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
        assert (header["format"], header["schema"]) == ("ptycho-joint-fit", "1")
        assert header["sha256"] == checksum(header, tensors)
        state = json.loads(header["state"])
        assert state["epoch"] == len(state["losses"]) == len(state["val_losses"]) == 4
        # 20 steps; positions wait for a tenth of the 40.
        assert state["steps"] == {"object": 20, "modes": 20, "shifts_yx_px": 16, "root_background": 20}

    def test_only_what_is_stepped_has_moments(self, interrupted):
        """CKP-3."""
        _, tensors = parts(interrupted(probe_learning_rate=0.0))
        assert {name for name in tensors if "." in name} == {"object.first", "object.second"}

    def test_the_loss_is_that_of_the_returned_state(self, fit, scan):
        """PHY-30. Oracle: the NumPy reference on object and probe of the best epoch, at the given positions."""
        result = fit(validation=VALIDATION, position_learning_rate=0.05)
        origin = canvas_geometry(scan.positions_px, 16).origin_yx_px
        patches = reference.extract_patches(result.object, scan.positions_px[VALIDATION], 16, origin)
        mean = mean_counts(scan)[int(scan.scan_index[0])]
        simulated = reference.simulate_counts(patches, result.probe * np.sqrt(mean))
        expected = reference.amplitude_loss(simulated, scan.counts(VALIDATION))
        best, losses = result.history.best_epoch, result.history.val_losses
        assert losses[best - 1] == min(losses) == pytest.approx(expected, rel=1e-3)
        assert best < 8
        assert not result.shifts_yx_px[VALIDATION].any()
        assert (np.abs(result.shifts_yx_px[FITTED]).max(1) > 0).all()

    def test_modes_are_orthogonal(self, fit):
        """PHY-27: of unit energy, the strongest first."""
        modes = fit().probe.reshape(2, -1).astype(np.complex128)
        products = modes.conj() @ modes.T
        assert np.trace(products).real == pytest.approx(1, rel=1e-5)
        assert abs(products[0, 1]) < 1e-6
        assert products[0, 0].real > products[1, 1].real

    def test_steps_are_those_of_adam(self, fit, tmp_path):
        """PHY-27. Oracle: the formulas of [Adam] with 0.9, 0.99, on states that checkpoints of single steps keep."""
        path, states = tmp_path / "joint_fit.safetensors", []
        fit(
            epochs=4,
            batch_size=len(FITTED),
            checkpoints=keeping(path),
            progress=lambda stage, done, total: states.append(parts(path)[1] if done > 1 else None),
        )
        nothing = {f"{name}.{which}": 0.0 for name in ("object", "modes") for which in ("first", "second")}
        before = {**nothing, "object": np.array([1.0, 0.0]), "modes": None}
        for step, state in enumerate(states[1:], 1):
            after = {name: value.astype(np.float64) for name, value in state.items()}
            rate = 0.02 + 0.98 * (1 + np.cos(np.pi * (step - 1) / 4)) / 2
            for name, first_rate in (("object", 0.05), ("modes", 0.02)):
                first, second = after[f"{name}.first"], after[f"{name}.second"]
                gradient = (first - 0.9 * before[f"{name}.first"]) / 0.1
                expected = 0.99 * before[f"{name}.second"] + 0.01 * gradient**2
                np.testing.assert_allclose(second, expected, rtol=1e-3, atol=1e-5 * second.max())
                moved = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
                if before[name] is not None:
                    np.testing.assert_allclose(after[name] - before[name], -rate * first_rate * moved, atol=1e-5)
            before = after
        assert len(states) == 4

    def test_validation_patterns_are_not_fitted(self, fit, scan):
        """PHY-30: other counts of theirs change their loss and no step."""
        measurements = np.array(scan.measurements)
        measurements[VALIDATION] = measurements[VALIDATION][:, ::-1]

        class Altered:
            N, bad_pixels, scan_index = 16, None, scan.scan_index

            def __len__(self):
                return 36

            def counts(self, rows):
                return measurements[rows].astype(np.float32)

        one, other = fit(validation=VALIDATION), fit(validation=VALIDATION, source=Altered())
        assert one.losses == other.losses == fit().losses
        assert all(a != b for a, b in zip(one.history.val_losses, other.history.val_losses, strict=True))

    def test_patience_stops(self, fit):
        """PHY-31."""
        whole, result = fit(validation=VALIDATION), fit(validation=VALIDATION, patience=2)
        assert result.history.stopped_by == "early stopping"
        assert len(result.losses) == result.history.best_epoch + 2 < 8
        np.testing.assert_array_equal(result.object, whole.object)

    def test_every_difference_at_once(self, fit, interrupted, scan):
        """CKP-5: one clear error, before any step."""
        path = interrupted()
        with pytest.raises(ContractError) as caught:
            fit(checkpoints=keeping(path, resume=True), probe=scan.probe[:, ::-1], indices=FITTED[1:], seed=9)
        assert set(caught.value.codes) == {"checkpoint.other"}
        named = [problem.where.removeprefix(f"{path}: ") for problem in caught.value.problems]
        assert named == ["fit.seed", "patterns", "places", "probe"]


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
