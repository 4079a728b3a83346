"""Joint descent on object and probe modes (specs/physics.md, PHY-27): Adam on the loss of minibatches of patterns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.physics import EPS_COUNTS
from ptycho_contracts.problems import Problem, WorkFailedError
from ptycho_data.batches import PatternSource
from torch import Tensor

from ptycho_torch.losses import LOSSES
from ptycho_torch.model import good_pixels
from ptycho_torch.physics import Placement, extract_patches, simulate, to_corner
from ptycho_torch.probes import orthogonal_modes

Progress = Callable[[str, int, int], None]

_BETAS = (0.9, 0.99)
_LAST_STEP = 0.02
"""Learning rates follow a half cosine from 1 to this share of their start."""


@dataclass(frozen=True, eq=False)
class JointFit:
    """Outcome of a descent.

    Attributes:
        object: (H, W) complex64, for a probe of unit energy.
        probe: (K, N, N) complex64 of unit energy, orthogonal modes, strongest first.
        losses: Mean training loss of each epoch that was finished.
    """

    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    losses: tuple[float, ...]


def joint_descent(
    source: PatternSource,
    placement: Placement,
    probe: NDArray[np.complex64],
    *,
    indices: NDArray[np.int64],
    mean_counts: float,
    epochs: int,
    batch_size: int,
    object_learning_rate: float,
    probe_learning_rate: float,
    loss: str,
    seed: int,
    object_start: NDArray[np.complex64] | None = None,
    max_seconds: float | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
    stage: str = "descent",
) -> JointFit:
    """Fit object and probe to the counts of some patterns of one scan.

    Args:
        source: Scan or store; read a minibatch at a time.
        placement: Sites of all of the source's patterns on the canvas.
        probe: (K, N, N) start, any scale.
        indices: Patterns to fit.
        mean_counts: Their mean photons a pattern.
        epochs, batch_size, loss, seed: Passes, patterns a step, name of the loss, seed of the order.
        object_learning_rate: Adam step in units of the object's amplitude; ``probe_learning_rate`` in units of
            the probe's largest amplitude. A rate of 0 keeps the probe.
        object_start: (H, W) complex for a probe of unit energy; empty space where not given.
        max_seconds: The schedule ends after this wall time, if not earlier.
        progress: Called as ``progress(stage, steps done, steps in all)``.

    Raises:
        WorkFailedError: the fit diverged.
    """
    device = device or torch.device("cpu")
    start = np.ones(placement.shape, np.complex64) if object_start is None else object_start
    # A copy: Adam works in place, and the caller's arrays stay as they are.
    object_ = torch.from_numpy(np.array(start, np.complex64)).to(device).requires_grad_()
    unit = torch.from_numpy(np.array(probe, np.complex64) / np.sqrt((np.abs(probe) ** 2).sum(dtype=np.float64)))
    peak = float(unit.abs().max())
    modes = (unit / peak).to(device=device, dtype=torch.complex64).requires_grad_()
    rates = (object_learning_rate, probe_learning_rate)
    optimiser = torch.optim.Adam([{"params": [object_], "lr": rates[0]}, {"params": [modes], "lr": rates[1]}], betas=_BETAS)
    mask = good_pixels(source.bad_pixels)
    mask = None if mask is None else mask.to(device)
    placement = placement.to(device)
    order = np.random.default_rng(seed)
    steps = epochs * math.ceil(len(indices) / batch_size)
    began = time.monotonic()
    done, losses = 0, []
    for _ in range(epochs):
        epoch_losses = []
        for batch in np.array_split(order.permutation(indices), math.ceil(len(indices) / batch_size)):
            elapsed = 0.0 if max_seconds is None else (time.monotonic() - began) / max_seconds
            if elapsed >= 1 and losses:
                break
            share = max(done / steps, min(elapsed, 1.0))
            factor = _LAST_STEP + (1 - _LAST_STEP) * 0.5 * (1 + math.cos(math.pi * share))
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            chosen = np.sort(batch)
            measured = to_corner(torch.from_numpy(source.counts(chosen)).to(device)) / mean_counts
            sites = placement[torch.from_numpy(chosen).to(device)]
            simulated = simulate(extract_patches(object_, sites), modes * peak)
            value = LOSSES[loss](simulated, measured, eps=EPS_COUNTS / mean_counts, mask=mask)
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            epoch_losses.append(float(value.detach()))
            done += 1
            if progress is not None:
                progress(stage, done, steps)
        else:
            losses.append(float(np.mean(epoch_losses)))
            if math.isfinite(losses[-1]):
                continue
            raise WorkFailedError(
                Problem(stage, "descent.diverged", "a finite loss", f"{losses[-1]} in epoch {len(losses)}",
                        "lower the learning rates or check the data with inspect")
            )  # fmt: skip
        break
    return _finished(object_, modes * peak, tuple(losses))


def _finished(object_: Tensor, probe: Tensor, losses: tuple[float, ...]) -> JointFit:
    """Orthogonal modes of unit energy, and the object that simulates the same patterns with them."""
    found = orthogonal_modes(probe.detach().cpu().numpy())
    scale = float(np.sqrt((np.abs(found) ** 2).sum(dtype=np.float64)))
    return JointFit(object_.detach().cpu().numpy() * np.complex64(scale), found / np.float32(scale), losses)
