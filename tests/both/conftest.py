"""Two backends in their own processes: PyTorch and TensorFlow are never in the same one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cli() -> dict[str, Callable[..., None]]:
    """A function for each backend that runs a command with that backend's interpreter.

    The interpreters are named by ``PTYCHO_TORCH_PYTHON`` and ``PTYCHO_TF_PYTHON``.
    """
    interpreters = {name: os.environ.get(f"PTYCHO_{name.upper()}_PYTHON", "") for name in ("torch", "tf")}
    variables = {name: f"PTYCHO_{name.upper()}_PYTHON" for name in interpreters}
    if unset := [variables[name] for name, path in interpreters.items() if not path]:
        pytest.skip(f"needs an interpreter with each backend: set {' and '.join(unset)}")
    if absent := [f"{variables[name]}={path}" for name, path in interpreters.items() if not shutil.which(path)]:
        pytest.fail(f"no such interpreter: {', '.join(absent)}")

    def runner(name: str) -> Callable[..., None]:
        def run(*words: str | Path) -> None:
            command = [interpreters[name], "-m", "ptycho_cli", *map(str, words), "--backend", name, "--quiet"]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=env)
            assert done.returncode == 0, done.stderr

        return run

    return {name: runner(name) for name in interpreters}
