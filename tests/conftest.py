"""The shared data folder and small simulated scans for the tests across packages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of this repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data(repository: Path) -> Path:
    """Folder of measured and realistic scans; tests that use it are marked ``shared_data``."""
    folder = Path(os.environ.get("PTYCHO_SHARED_DATA", repository.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder: none at {folder}; set PTYCHO_SHARED_DATA")
    return folder
