"""Joint descent on object, probe modes, positions and background (specs/physics.md, PHY-27)."""

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
from ptycho_data.probes import orthogonal_modes
from torch import Tensor

from ptycho_torch.losses import LOSSES
from ptycho_torch.model import good_pixels
from ptycho_torch.physics import Placement, extract_patches, simulate, to_corner

Progress = Callable[[str, int, int], None]

_BETAS = (0.9, 0.99)
_LAST_STEP = 0.02
"""Learning rates follow a half cosine from 1 to this share of their start."""
_POSITIONS_WAIT = 0.1
"""Share of the descent after which positions begin to move: before, there is no object to align them to."""


@dataclass(frozen=True, eq=False)
class JointFit:
    """Outcome of a descent.

    Attributes:
        object: (H, W) complex64, for a probe of unit energy.
        probe: (K, N, N) complex64 of unit energy, orthogonal modes, strongest first.
        losses: Mean training loss of each epoch that was finished.
        shifts_yx_px: (M, 2) float64, what to add to each position to get where its pattern saw this object; 0 for
            patterns that were not fitted, and where positions were kept.
        background: (N, N) float32 in units of the mean counts, zero frequency at [0, 0]; 0 where none was fitted.
    """

    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    losses: tuple[float, ...]
    shifts_yx_px: NDArray[np.float64]
    background: NDArray[np.float32]


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
    position_learning_rate: float = 0.0,
    background_learning_rate: float = 0.0,
    object_start: NDArray[np.complex64] | None = None,
    max_seconds: float | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
    stage: str = "descent",
) -> JointFit:
    """Fit object and probe, and positions and background where asked, to the counts of patterns of one scan.

    Adam on the loss of minibatches; each parameter has its own unit, so that one rate suits every scan.

    Args:
        source: Scan or store; read a minibatch at a time.
        placement: Sites of all of the source's patterns on the canvas.
        probe: (K, N, N) start, any scale.
        indices: Patterns to fit.
        mean_counts: Their mean photons a pattern.
        epochs, batch_size, loss, seed: Passes, patterns a step, name of the loss, seed of the order.
        object_learning_rate: Step in units of the object's amplitude.
        probe_learning_rate: Step in units of the probe's largest amplitude; 0 keeps the probe.
        position_learning_rate: Step in pixels; 0 keeps the positions. They stay on the canvas.
        background_learning_rate: Step in units of the root mean intensity of a pixel; 0 fits none.
        object_start: (H, W) complex for a probe of unit energy; empty space where not given.
        max_seconds: The schedule ends after this wall time, if not earlier.
        progress: Called as ``progress(stage, steps done, steps in all)``.

    Raises:
        WorkFailedError: the fit diverged.
    """
    device = device or torch.device("cpu")
    fit = _Fit(placement.to(device), probe, object_start, device)
    rates = (object_learning_rate, probe_learning_rate, position_learning_rate, background_learning_rate)
    optimiser = torch.optim.Adam(
        [{"params": [value], "lr": rate} for value, rate in zip(fit.parameters, rates, strict=True) if rate > 0],
        betas=_BETAS,
    )
    chosen_rates = [rate for rate in rates if rate > 0]
    for value, rate in zip(fit.parameters, rates, strict=True):
        value.requires_grad_(rate > 0)
    mask = good_pixels(source.bad_pixels)
    mask = None if mask is None else mask.to(device)
    batches = math.ceil(len(indices) / batch_size)
    steps, done = epochs * batches, 0
    losses: list[float] = []
    began = time.monotonic()
    for epoch in range(epochs):
        # The order of an epoch depends on seed and epoch alone, not on the epochs before.
        order = np.random.default_rng((seed, epoch)).permutation(indices)
        epoch_losses: list[float] = []
        for batch in np.array_split(order, batches):
            elapsed = 0.0 if max_seconds is None else (time.monotonic() - began) / max_seconds
            if elapsed >= 1 and losses:
                return _checked(fit, stage).finished(losses, indices)
            share = max(done / steps, min(elapsed, 1.0))
            factor = _LAST_STEP + (1 - _LAST_STEP) * 0.5 * (1 + math.cos(math.pi * share))
            for group, rate in zip(optimiser.param_groups, chosen_rates, strict=True):
                group["lr"] = rate * factor
            fit.positions_move = share >= _POSITIONS_WAIT
            rows = torch.from_numpy(np.sort(batch))
            measured = to_corner(torch.from_numpy(source.counts(rows.numpy())).to(device)) / mean_counts
            value = LOSSES[loss](fit.simulated(rows.to(device)), measured, eps=EPS_COUNTS / mean_counts, mask=mask)
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            epoch_losses.append(float(value.detach()))
            done += 1
            if progress is not None:
                progress(stage, done, steps)
        losses.append(float(np.mean(epoch_losses)))
        if not math.isfinite(losses[-1]):
            raise _diverged(stage, f"a loss of {losses[-1]} in epoch {len(losses)}")
    return _checked(fit, stage).finished(losses, indices)


def _checked(fit: _Fit, stage: str) -> _Fit:
    """The fit, unless its last steps, which no loss has seen yet, ruined it."""
    if not all(torch.isfinite(value).all() for value in fit.parameters):
        raise _diverged(stage, "NaN or infinite values in what was fitted")
    return fit


def _diverged(stage: str, found: str) -> WorkFailedError:
    return WorkFailedError(
        Problem(stage, "descent.diverged", "a finite fit", found,
                "lower the learning rates or check the data with inspect")
    )  # fmt: skip


class _Fit:
    """Parameters of a descent, each in its own unit, and the patterns that they simulate."""

    def __init__(
        self,
        placement: Placement,
        probe: NDArray[np.complex64],
        object_start: NDArray[np.complex64] | None,
        device: torch.device,
    ) -> None:
        side = placement.N
        start = np.ones(placement.shape, np.complex64) if object_start is None else object_start
        # Copies: Adam works in place, and the caller's arrays stay as they are.
        self.object = torch.from_numpy(np.array(start, np.complex64)).to(device)
        unit = np.array(probe, np.complex128) / np.sqrt((np.abs(probe) ** 2).sum(dtype=np.float64))
        self._peak = float(np.abs(unit).max())
        self.modes = torch.from_numpy((unit / self._peak).astype(np.complex64)).to(device)
        self.shifts = torch.zeros((len(placement), 2), device=device)
        # The background is the square of this, so that it is never negative; at 0 it would have no gradient.
        self.root_background = torch.full((side, side), 1e-3, device=device)
        self._pixel = 1.0 / side**2
        self._placement = placement
        self.positions_move = False

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.object, self.modes, self.shifts, self.root_background

    def simulated(self, rows: Tensor) -> Tensor:
        """(n, N, N) intensities of the patterns at ``rows`` in units of the mean counts."""
        sites = self._placement[rows]
        if self.shifts.requires_grad and self.positions_move:
            sites = self._shifted(sites, self.shifts[rows])
        intensities = simulate(extract_patches(self.object, sites), self.modes * self._peak)
        if self.root_background.requires_grad:
            intensities = intensities + self.root_background.square() * self._pixel
        return intensities

    def _shifted(self, sites: Placement, shifts: Tensor) -> Placement:
        """Sites moved by shifts, held on the canvas; fractions carry the gradient, corners are whole numbers."""
        room = torch.tensor(sites.shape, device=shifts.device) - sites.N - 1
        start = sites.corners_yx + sites.fractions_yx
        moved = torch.minimum(torch.clamp(start + shifts, min=0.0), room.to(shifts.dtype) + 0.999)
        corners = moved.detach().floor()
        return Placement(corners.long(), moved - corners, sites.shape, sites.N)

    def finished(self, losses: list[float], indices: NDArray[np.int64]) -> JointFit:
        """Orthogonal modes of unit energy, and the object that goes with them."""
        found = orthogonal_modes((self.modes.detach() * self._peak).cpu().numpy())
        scale = float(np.sqrt((np.abs(found) ** 2).sum(dtype=np.float64)))
        shifts = np.zeros((len(self.shifts), 2))
        if self.shifts.requires_grad:
            # As they were used: held on the canvas.
            sites = self._placement
            start = (sites.corners_yx + sites.fractions_yx.double()).cpu().numpy()
            room = np.asarray(sites.shape) - sites.N - 1 + 0.999
            moved = np.clip(start + self.shifts.detach().cpu().numpy(), 0, room)
            shifts[indices] = (moved - start)[indices]
        background = self.root_background.detach().square() * self._pixel
        if not self.root_background.requires_grad:
            background = torch.zeros_like(background)
        return JointFit(
            object=self.object.detach().cpu().numpy() * np.complex64(scale),
            probe=found / np.float32(scale),
            losses=tuple(losses),
            shifts_yx_px=shifts,
            background=background.cpu().numpy(),
        )
