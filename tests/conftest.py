"""The shared data folder, small simulated scans and commands run for real, for the tests across packages.

Each backend's folder says which backend computes: fixtures ``backend`` (its name) and ``watched``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite(
    "coarse_to_fine",
    "facade",
    "factory_behaviour",
    "imaging_flags",
    "joint_resume",
    "joint_state",
    "programs",
    "training_flags",
    "training_resume",
    "wheel_use",
)

SMALL = ("--epochs", "1", "--width", "2", "--iterations", "1", "--passes", "1", "--gridsize", "1", "--n-groups", "40")
"""A training of a fifth of a second in PyTorch: 38 groups of one pattern, 2 for val_loss."""


ROUNDS = ("--iterations", "--passes")
"""Have no effect on the cnn."""


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


@pytest.fixture(scope="session")
def wheels(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of all packages, built from this checkout."""
    from programs import run_program

    folder = tmp_path_factory.mktemp("wheels")
    sources = sorted((repository / "packages").iterdir())
    run_program(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, *sources, cwd=folder
    )
    assert len(list(folder.iterdir())) == len(sources)
    return folder


@pytest.fixture(scope="session")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 patterns of 32 x 32 with their exact probe and true object."""
    return simulated(tmp_path_factory.mktemp("scan") / "scan.npz", "--seed", "1")


@pytest.fixture(scope="session")
def other_scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same experiment on another object."""
    return simulated(tmp_path_factory.mktemp("scan") / "other.npz", "--seed", "2")


@pytest.fixture(scope="session")
def several_modes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 patterns of 16 x 16 under three modes of half, a third and a fifth of the energy: HG00, HG10, HG01."""
    import numpy as np
    from ptycho_data.files import write_scan
    from ptycho_data.simulate import simulate

    y, x = (np.mgrid[:16, :16] - 8) / 2.5
    beam = np.exp(-(x**2 + y**2) / 2 + 0.4j * (x**2 + y**2))
    modes = np.stack([beam, x * beam, y * beam])
    modes *= np.sqrt(np.array([0.5, 0.3, 0.2]) / (np.abs(modes) ** 2).sum((1, 2)))[:, None, None]
    scan = simulate(
        object_kind="dead_leaves", probe=modes, n_patterns=100, step_px=2.0, photons_per_pattern=1e5, seed=1
    )
    path = tmp_path_factory.mktemp("modes") / "scan.npz"
    write_scan(path, scan)
    return path


def simulated(path: Path, *words: str) -> Path:
    """Make a small scan by the command."""
    from ptycho_cli.main import main

    assert main(["simulate", str(path), "--N", "32", "--patterns", "64", "--step-px", "3", "--quiet", *words]) == 0
    return path


@dataclass
class Run:
    """A command that was run.

    Attributes:
        out: Its output folder.
        code: Its exit code.
        err: What it wrote on stderr.
        said: What it wrote on stdout.
        seen: What the backend's framework was given, and looked like while it worked: ``datasets`` (of training and of
            validation) and what else the backend's ``watched`` notes.
    """

    out: Path
    code: int
    err: str
    said: str = ""
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Any]:
        """Summary of the run."""
        result: dict[str, Any] = json.loads((self.out / "summary.json").read_text())
        return result

    @property
    def groups(self) -> Any:
        """The groups that were trained on."""
        return self.seen["datasets"][0].groups

    @property
    def source(self) -> Any:
        """Where their patterns come from."""
        return self.seen["datasets"][0].source

    @property
    def group_counts(self) -> dict[str, int]:
        """How many groups were trained on, and how many gave val_loss."""
        training, validation = self.seen["datasets"]
        return {"training": len(training), "validation": len(validation)}


@pytest.fixture
def command(backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run a command line in this process, into its own folder."""
    from ptycho_cli.main import main

    count = 0

    def run(*words: str | Path) -> Run:
        nonlocal count
        count += 1
        out = tmp_path / f"out{count}"
        capfd.readouterr()
        computes = words[0] in ("train", "infer", "reconstruct") or "--scan" in words
        chosen = ["--backend", backend] if computes else []
        code = main([*map(str, words), "--output-dir", str(out), *chosen])
        reported = capfd.readouterr()
        return Run(out, code, reported.err, reported.out)

    return run


@pytest.fixture(scope="session")
def plain() -> dict[str, Run]:
    """Runs of a command without options of the test: one serves all tests."""
    return {}


def _names(text: str, flag: str) -> bool:
    """Whether an error is about a flag: by its own name, or by its option's."""
    return flag in text or f".{flag.removeprefix('--').replace('-', '_')}" in text


@pytest.fixture(scope="session")
def obeyed() -> set[str]:
    """Flags of ``train`` that runs of this session were given, and followed or refused by name."""
    return set()


@pytest.fixture
def train(
    command: Callable[..., Run], scan_file: Path, watched: dict[str, Any], plain: dict[str, Run], obeyed: set[str]
) -> Callable[..., Run]:
    """Train for real on the small scan, unless it is to stop where the framework would begin."""

    def run(*words: str | Path, data: Path | None = None, small: bool = True, stop_before_fit: bool = False) -> Run:
        is_plain = not words and data is None and not stop_before_fit
        if is_plain and "train" in plain:
            return plain["train"]
        watched.clear()
        watched.update(stop_before_fit=stop_before_fit)
        given = {word for word in words if isinstance(word, str)}
        pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
        pairs = [pair for pair in pairs if "cnn" not in given or pair[0] not in ROUNDS]
        defaults = [word for flag, value in pairs if flag not in given for word in (flag, value)] if small else []
        done = command("train", data or scan_file, *defaults, *words)
        done.seen = dict(watched)
        obeyed.update(flag for flag in given if done.code != 2 or _names(done.err, flag))
        if is_plain:
            plain["train"] = done
        return done

    return run
