"""Hypothesis profiles, one CPU thread, and tiny simulated scans."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from ptycho_contracts.config import DataConfig, ModelConfig
from ptycho_contracts.records import Scan
from ptycho_data.batches.gathering import mean_counts
from ptycho_data.canvas.geometry import canvas_geometry
from ptycho_data.simulate import simulate
from ptycho_data.workflows.prepared_scan import PreparedScan
from ptycho_torch.model import PtychoModel

settings.register_profile("dev", max_examples=20, deadline=None)
settings.register_profile("quick", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=400, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def scan() -> Scan:
    """64 patterns of 32 x 32 pixels, 1e5 photons each, with their exact probe and the true object."""
    return simulate(object_kind="dead_leaves", N=32, n_patterns=64, step_px=3.0, photons_per_pattern=1e5, seed=1)


@pytest.fixture(scope="session")
def tiny_scan() -> Scan:
    """36 patterns of 16 x 16 pixels."""
    return simulate(N=16, n_patterns=36, step_px=2.0, photons_per_pattern=1e5, seed=2)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., PtychoModel]:
    """Models with seeded weights; ``stir`` gives the zero-initialised layers values too."""

    def make(
        probe: NDArray[np.complex64], *, gridsize: int = 1, seed: int = 0, stir: float = 0.0, **options: Any
    ) -> PtychoModel:
        data = DataConfig(N=probe.shape[-1], gridsize=gridsize)
        config = ModelConfig(data=data, modes=len(probe), **{"iterations": 2, "width": 4, **options})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = PtychoModel(config, probe)
            if stir:
                with torch.no_grad():
                    for weight in model.parameters():
                        weight.add_(stir * torch.randn_like(weight))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def view_of() -> Callable[..., PreparedScan]:
    """A scan prepared for inference, with some patterns held out."""

    def make(scan: Scan, *, held: Any = ()) -> PreparedScan:
        used = np.setdiff1d(np.arange(len(scan)), held)
        return PreparedScan(
            source=scan,
            positions_px=scan.positions_px,
            geometry=canvas_geometry(scan.positions_px, scan.N),
            used=used,
            held_out=np.asarray(held, np.int64),
            mean_counts=mean_counts(scan, allowed=used)[int(scan.scan_index[0])],
        )

    return make


@pytest.fixture
def shared_data() -> Path:
    """Folder of measured scans; tests that need it are marked ``shared_data``."""
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("PTYCHO_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder: none at {folder}; set PTYCHO_SHARED_DATA")
    return folder
