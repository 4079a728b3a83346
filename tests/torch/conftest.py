"""PyTorch computes; the Lightning trainer that a training made is kept to look at."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch


@pytest.fixture(scope="session")
def backend() -> str:
    """What computes."""
    return "torch"


@pytest.fixture(scope="session")
def absent_accelerator() -> str:
    """A device that this machine lacks."""
    return "mps" if not torch.backends.mps.is_available() else "cuda"


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a training's trainer was given and did: ``trainer``, ``deterministic``, ``dtypes``, ``gradient_norm``."""
    import ptycho_torch.training

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
            seen["trainer"] = self

        def fit(self, model: Any, training: Any, validation: Any, **options: Any) -> None:
            seen["datasets"] = [loader.dataset for loader in (training, validation)]
            seen["parameters"] = sum(parameter.numel() for parameter in model.parameters())
            if seen.get("stop_before_fit"):
                raise InterruptedError("made, and not to be run")
            seen["deterministic"] = torch.are_deterministic_algorithms_enabled()
            super().fit(model, training, validation, **options)
            seen["dtypes"] = {parameter.dtype for parameter in model.parameters()}

    monkeypatch.setattr(ptycho_torch.training.pl, "Trainer", Watched)
    return seen
