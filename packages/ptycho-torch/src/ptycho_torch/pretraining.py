"""Training of the learned prior (specs/prior.md, PRI-5 to PRI-7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.physics import PRIOR_WIDTHS
from ptycho_data.simulate.canvases import draw_batch, draw_truth

from ptycho_torch.devices import threads
from ptycho_torch.physics import squared_modulus
from ptycho_torch.prior import PriorNet

_WARM_UP = 100
_LAST_RATE = 0.01
_REPORTED = 100
"""Losses are reported as means over this many steps: that of one batch depends on its noise levels."""


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings:
    """Of a training of the prior; the defaults made the weights that are shipped.

    Attributes:
        steps, batch_size: Of the optimiser.
        truths, truth_px: Number and side of the objects.
        side_px: Of the parts in a batch.
        learning_rate: Largest step of AdamW [AdamW].
        largest_gradient: Norm to which gradients are clipped.
        seed: Of every random choice.
        widths: Channels of the network.
    """

    steps: int = 1500
    batch_size: int = 8
    truths: int = 400
    truth_px: int = 160
    side_px: int = 96
    learning_rate: float = 2e-3
    largest_gradient: float = 1.0
    seed: int = 0
    widths: tuple[int, ...] = PRIOR_WIDTHS


def pretrain(
    settings: PretrainingSettings, *, report: Callable[[int, float], None] | None = None
) -> tuple[dict[str, NDArray[np.float32]], list[float]]:
    """Train a prior.

    Args:
        settings: What and how long.
        report: Called with the number of steps done and the mean loss of the last ones.

    Returns:
        Weights by name, and mean losses, one for every 100 steps.
    """
    rng = np.random.default_rng(settings.seed)
    shape = (settings.truth_px, settings.truth_px)
    truths = np.stack([draw_truth(shape, rng) for _ in range(settings.truths)])
    with torch.random.fork_rng(devices=[]), threads(1):
        torch.default_generator.manual_seed(settings.seed)
        net = PriorNet(settings.widths).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, settings.steps))
        recent, reported = [], []
        for step in range(1, settings.steps + 1):
            batch = draw_batch(truths, rng, count=settings.batch_size, side=settings.side_px)
            noisy, truth, sigma = (torch.from_numpy(value) for value in (batch.noisy, batch.truth, batch.sigma))
            loss = denoising_loss(net(noisy, sigma), truth, sigma)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), settings.largest_gradient)
            optimiser.step()
            schedule.step()
            recent.append(float(loss.detach()))
            if len(recent) == _REPORTED or step == settings.steps:
                reported.append(float(np.mean(recent)))
                recent = []
                if report is not None:
                    report(step, reported[-1])
        weights = {name: value.detach().contiguous().numpy() for name, value in net.state_dict().items()}
    return weights, reported


def denoising_loss(clean: torch.Tensor, truth: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """``sqrt(mean |D - T|^2) / sqrt(mean sigma^2)`` of canvases (B, H, W), the mean over the batch."""
    error = squared_modulus(clean - truth).mean((1, 2)) / sigma.square().mean((1, 2))
    return error.sqrt().mean()


def provenance(settings: PretrainingSettings, losses: list[float]) -> dict[str, Any]:
    """How weights were made, as their file keeps it."""
    versions = {name: version(name) for name in ("ptycho-contracts", "ptycho-data", "ptycho-torch", "torch", "numpy")}
    return {"settings": asdict(settings), "versions": versions, "final_loss": losses[-1]}


def _rate(step: int, steps: int) -> float:
    """Warm-up, then half a cosine."""
    cosine = _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / _WARM_UP) * cosine
