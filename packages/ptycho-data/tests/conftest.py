"""Hypothesis profiles and the shared data folder."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("dev", max_examples=30, deadline=None)
settings.register_profile("quick", max_examples=30, deadline=None, derandomize=True)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture
def shared_data() -> Path:
    """Folder of measured scans; tests that need it are marked ``shared_data``."""
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("PTYCHO_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder: none at {folder}; set PTYCHO_SHARED_DATA")
    return folder
