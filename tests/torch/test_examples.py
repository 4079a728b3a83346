"""Every example runs as written, and draws its figure (invariant 37)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from programs import run_program

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(script, tmp_path):
    """In its own folder, with warnings as errors."""
    run_program(sys.executable, "-W", "error", script, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    assert (tmp_path / f"{script.stem}.png").stat().st_size > 10_000
