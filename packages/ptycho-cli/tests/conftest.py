"""A small scan on disk and a backend that records what reaches it."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from ptycho_cli import backends
from ptycho_cli.options import INFER_SECTIONS, TRAIN_SECTIONS
from ptycho_contracts.config import ExecutionConfig, resolve
from ptycho_contracts.problems import WorkFailedError
from ptycho_contracts.records import Reconstruction, Scan
from ptycho_data.files import write_scan
from ptycho_data.workflows import evaluate_scan
from small_scans import PATTERNS, N, small_scan

QUIET = [HealthCheck.function_scoped_fixture]
settings.register_profile("dev", max_examples=30, deadline=None, suppress_health_check=QUIET)
settings.register_profile("quick", max_examples=30, deadline=None, derandomize=True, suppress_health_check=QUIET)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture
def scan() -> Scan:
    """The small scan."""
    return small_scan()


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """The small scan as a file."""
    path = tmp_path / "scan.npz"
    write_scan(path, small_scan())
    return path


@pytest.fixture
def reconstruction() -> Reconstruction:
    """20 x 24 px with an unseen margin of 2 px, origin at y 5, x -3."""
    weight = np.zeros((20, 24), np.float32)
    weight[2:-2, 2:-2] = 3.0
    y, x = np.mgrid[:20, :24]
    image = (0.5 + y / 40) * np.exp(1j * x / 24)
    return Reconstruction(
        object=image.astype(np.complex64),
        origin_yx_px=np.array([5.0, -3.0]),
        weight=weight,
        probe=np.ones((1, N, N), np.complex64),
        positions_px=np.zeros((PATTERNS, 2)),
    )


class RecordingBackend:
    """The functions that a backend offers; keeps every argument, computes nothing, fails on request."""

    def __init__(self, result: Reconstruction) -> None:
        self.result = result
        self.calls: dict[str, dict[str, Any]] = {}
        self.error: Exception | None = None
        self.checkpoints = 0
        self.report: dict[str, Any] = {}
        self.residual = {"used": 0.25, "held_out": float("nan")}

    def create_training_payload(self, train_data_file, output_dir, overrides=None, execution_config=None):
        self.calls["payload"] = {"data": train_data_file, "output_dir": output_dir, "overrides": overrides}
        return self._payload(TRAIN_SECTIONS, output_dir, overrides)

    def create_inference_payload(self, model_path, test_data_file, output_dir, overrides=None, execution_config=None):
        self.calls["payload"] = {"model": model_path, "data": test_data_file, "overrides": overrides}
        return self._payload(INFER_SECTIONS, output_dir, overrides)

    def train(self, payload, *, validation=None, progress=None, deadline=None, **options):
        self.calls["train"] = {"validation": validation, "deadline": deadline, **options}
        self._work(progress)
        payload.output_dir.mkdir(parents=True, exist_ok=True)
        (payload.output_dir / "model.safetensors").write_bytes(b"weights")
        return "a model", {"seed": 0, "residual": self.residual}

    def infer(self, payload, *, progress=None, **options):
        self.calls["infer"] = {"progress": progress, **options}
        return self._fit(progress, **options)

    def reconstruct(self, scan, **options):
        self.calls["reconstruct"] = {"data": scan, **options}
        return self._fit(**options)

    def evaluate(self, scan, **options):
        """The library's own evaluation, which reconstructs."""
        return evaluate_scan(self, scan, **options)

    def _fit(self, progress, checkpoint=None, resume=False, **options):
        """A fit that writes the requested number of checkpoints."""
        for _ in range(self.checkpoints if checkpoint is not None else 0):
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write_bytes(b"a state of this run")
        self._work(progress)
        reported = {"checkpoints_written": self.checkpoints, "resumed_from_epoch": int(resume)}
        return self.result, {"seed": 0, "residual": self.residual, **reported, **self.report}

    def _work(self, progress) -> None:
        if self.error is not None:
            raise self.error
        if progress is not None:
            progress("working", 1, 2)
            progress("working", 2, 2)

    @staticmethod
    def _payload(sections, output_dir, overrides):
        execution = resolve(sections, {"explicit": overrides})[ExecutionConfig]
        return SimpleNamespace(execution_config=execution, output_dir=output_dir)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, reconstruction: Reconstruction) -> RecordingBackend:
    """A recording backend, installed under the name torch; no other backend exists."""
    recording = RecordingBackend(reconstruction)

    class Entry(EntryPoint):
        def load(self) -> Any:
            return recording

    entry = Entry(name="torch", value="recording", group=backends.GROUP)
    monkeypatch.setattr(backends, "entry_points", lambda *, group: [entry] if group == backends.GROUP else [])
    monkeypatch.setattr(backends, "_FRAMEWORKS", {"torch": ("sys", "nothing")})  # it is loaded at once
    return recording


@pytest.fixture
def work_failed() -> WorkFailedError:
    """An error of the work itself."""
    from ptycho_contracts.problems import Problem

    return WorkFailedError(Problem("training", "train.diverged", "a finite loss", "nan", "lower the learning rate"))


@pytest.fixture
def shared_data() -> Path:
    """Folder of measured scans; tests that need it are marked ``shared_data``."""
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("PTYCHO_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder: none at {folder}; set PTYCHO_SHARED_DATA")
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results without pictures, for tests of something else: drawing them takes most of a command's time here."""
    monkeypatch.setattr("ptycho_cli.plots.reconstructions.draw_run", lambda reconstruction, summary, folder: [])
