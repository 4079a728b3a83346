"""A backend's wheels, used through the commands where the other framework is not installed."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from programs import run_program

NEEDED = ("contracts", "data", "cli")
SMALL = ("--epochs", "1", "--width", "2", "--iterations", "1", "--passes", "1", "--n-groups", "20", "--quiet")
PLACES = """
import importlib, sys
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
"""


class BackendWheels:
    """What ``pip install ptycho-cli[BACKEND]`` gives: the wheels are put before the editable sources, without them."""

    @pytest.fixture
    def python(self, backend, other_framework, wheels, tmp_path):
        """Run Python with the wheels of one backend alone."""
        if find_spec(other_framework) is not None:
            pytest.skip(f"needs an environment without {other_framework}")
        site = tmp_path / "site"
        chosen = [next(wheels.glob(f"ptycho_{name}-*.whl")) for name in (*NEEDED, backend)]
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, *chosen)
        run_program(*pip, cwd=tmp_path)
        env = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

        def run(*words: str | Path, code: int = 0) -> str:
            return run_program(sys.executable, *words, cwd=tmp_path, env=env, code=code)

        modules = [f"ptycho_{name}" for name in (*NEEDED, backend)]
        assert all(Path(line).is_relative_to(site) for line in run("-c", PLACES, *modules).splitlines())
        return run

    def test_trains_and_infers(self, python, backend, other_framework, tmp_path):
        """Real work, and the results name this backend; the other framework is not imported."""
        python("-c", f"import {other_framework}", code=1)
        commands = ("-m", "ptycho_cli")
        python(*commands, "simulate", "scan.npz", "--N", "32", "--patterns", "36", "--step-px", "3", "--quiet")
        python(*commands, "train", "scan.npz", "--output-dir", "model", "--backend", backend, *SMALL)
        words = ("model/model.safetensors", "scan.npz", "--output-dir", "image", "--backend", backend, "--quiet")
        python(*commands, "infer", *words)
        summary = json.loads((tmp_path / "image" / "summary.json").read_text())
        assert summary["versions"][f"ptycho-{backend}"] == version(f"ptycho-{backend}")
        assert summary["residual"]["used"] > 0
        assert (tmp_path / "image" / "object.npz").is_file()

    def test_the_other_backend_is_refused_with_the_remedy(self, python, backend):
        """CLI-15: the message names what to install."""
        other = {"torch": "tf", "tf": "torch"}[backend]
        python("-m", "ptycho_cli", "simulate", "scan.npz", "--N", "32", "--patterns", "36", "--quiet")
        said = python("-m", "ptycho_cli", "train", "scan.npz", "--output-dir", "out", "--backend", other, code=2)
        assert f"ptycho-cli[{other}]" in said
