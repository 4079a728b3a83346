"""Hypothesis profiles, and a tiny simulated scan with its groups."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from ptycho_contracts.config import DataConfig, ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_contracts.records import Scan
from ptycho_data.batches import GroupBatches, mean_counts
from ptycho_data.grouping.groups import group
from ptycho_data.simulate import simulate
from ptycho_data.workflows import TrainingTask
from ptycho_tf.layers import fresh
from ptycho_tf.model import PtychoModel

settings.register_profile("dev", max_examples=10, deadline=None)
settings.register_profile("ci", max_examples=30, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(scope="session")
def scan() -> Scan:
    """36 patterns of 16 x 16 pixels with their exact probe and the true object."""
    return simulate(object_kind="dead_leaves", N=16, n_patterns=36, step_px=2.0, photons_per_pattern=1e5, seed=1)


@pytest.fixture(scope="session")
def datasets(scan) -> tuple[GroupBatches, GroupBatches]:
    """22 groups of one pattern to train on, and 3 to validate with."""
    means = mean_counts(scan)
    groups = group(scan.positions_px, gridsize=1, n_groups=25, seed=0)
    parts = (slice(0, 22), slice(22, 25))
    fields = ("nn_indices", "coords_offsets", "coords_relative")
    result = [type(groups)(**{name: getattr(groups, name)[part] for name in fields}) for part in parts]
    return tuple(GroupBatches(scan, part, mean_counts=means) for part in result)


@pytest.fixture
def make_model(scan):
    """A fresh small model; options are those of the model's section."""

    def make(*, seed: int = 0, gridsize: int = 1, **options) -> PtychoModel:
        small = {"iterations": 1, "passes": 1, "width": 2, **options}
        config = ModelConfig(data=DataConfig(N=scan.N, gridsize=gridsize), **small)
        return PtychoModel(config, scan.probe, make=fresh(seed, "float32"))

    return make


@pytest.fixture
def make_task(datasets, tmp_path):
    """A training on the datasets, or on others."""

    def make(training: TrainingConfig, execution: ExecutionConfig, *, model=None, parts=datasets) -> TrainingTask:
        return TrainingTask(
            config=model.config,
            probe=model.probe_array(),
            groups=parts[0],
            validation=parts[1],
            training=training,
            execution=execution,
            output_dir=tmp_path,
            device="cpu",
        )

    return make


def pytest_configure(config: pytest.Config) -> None:
    """TensorFlow's own: Keras hands its variables to NumPy in a way that NumPy 2 will drop."""
    known = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:keras"
    config.addinivalue_line("filterwarnings", known)
