"""Small simulated scans, commands run for real, and the trainer that they made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from ptycho_cli.main import main

SMALL = ("--epochs", "1", "--width", "2", "--iterations", "1", "--gridsize", "1", "--n-groups", "40")
"""A training of a fifth of a second: 38 groups of one pattern, 2 for val_loss."""


@pytest.fixture(scope="session")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 patterns of 32 x 32 with their exact probe and true object."""
    return simulated(tmp_path_factory.mktemp("scan") / "scan.npz", "--seed", "1")


@pytest.fixture(scope="session")
def other_scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same experiment on another object."""
    return simulated(tmp_path_factory.mktemp("scan") / "other.npz", "--seed", "2")


def simulated(path: Path, *words: str) -> Path:
    """Make a small scan by the command."""
    assert main(["simulate", str(path), "--N", "32", "--patterns", "64", "--step-px", "3", "--quiet", *words]) == 0
    return path


@dataclass
class Run:
    """A command that was run.

    Attributes:
        out: Its output folder.
        code: Its exit code.
        err: What it wrote on stderr.
        trainers: The trainers that it made, after their work.
        seen: What the trainers looked like when their work was done.
    """

    out: Path
    code: int
    err: str
    trainers: list[pl.Trainer] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Any]:
        """What the run says of itself."""
        found: dict[str, Any] = json.loads((self.out / "summary.json").read_text())
        return found

    @property
    def trainer(self) -> pl.Trainer:
        """The one trainer."""
        (trainer,) = self.trainers
        return trainer


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run a command line in this process, into a folder of its own."""
    count = 0

    def run(*words: str | Path) -> Run:
        nonlocal count
        count += 1
        out = tmp_path / f"out{count}"
        capfd.readouterr()
        code = main([*map(str, words), "--output-dir", str(out)])
        return Run(out, code, capfd.readouterr().err)

    return run


@pytest.fixture
def train(command: Callable[..., Run], scan_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Train for real on the small scan, and keep the Lightning trainer to look at."""
    import ptycho_torch.training

    made: list[pl.Trainer] = []
    seen: dict[str, Any] = {}

    class Gradients(pl.Callback):
        """Notes the gradient's norm as the optimiser used it."""

        def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            def note(*_: Any) -> None:
                gradients = [parameter.grad.norm() for parameter in module.parameters() if parameter.grad is not None]
                seen["gradient_norm"] = float(torch.stack(gradients).norm())

            trainer.optimizers[0].register_step_post_hook(note)

    class Watched(pl.Trainer):
        """Lightning's own trainer; remembers itself and the state of the process while it works."""

        def __init__(self, *args: Any, callbacks: list[pl.Callback], **kwargs: Any) -> None:
            super().__init__(*args, callbacks=[*callbacks, Gradients()], **kwargs)
            made.append(self)

        def fit(self, model: Any, *args: Any, **kwargs: Any) -> None:
            if seen.get("stop_before_fit"):
                raise InterruptedError("made, and not to be run")
            seen["deterministic"] = torch.are_deterministic_algorithms_enabled()
            super().fit(model, *args, **kwargs)
            seen["dtypes"] = {parameter.dtype for parameter in model.parameters()}

    monkeypatch.setattr(ptycho_torch.training.pl, "Trainer", Watched)

    def run(*words: str | Path, data: Path | None = None, small: bool = True, stop_before_fit: bool = False) -> Run:
        made.clear()
        seen.clear()
        seen["stop_before_fit"] = stop_before_fit
        given = {word for word in words if isinstance(word, str)}
        pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
        defaults = [word for flag, value in pairs if flag not in given for word in (flag, value)] if small else []
        done = command("train", data or scan_file, *defaults, *words)
        done.trainers, done.seen = list(made), dict(seen)
        return done

    return run
