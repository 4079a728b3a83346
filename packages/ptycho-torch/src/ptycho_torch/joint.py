"""Parameters of a joint reconstruction, their simulated patterns, and steps of Adam [Adam] (PHY-27 to PHY-32)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.physics import EPS_COUNTS
from ptycho_data.fitting import ADAM_BETAS, FIRST_ROOT_BACKGROUND, JointProblem
from ptycho_data.fitting.loop import Arrays, Moments
from torch import Tensor

from ptycho_torch.losses import LOSSES
from ptycho_torch.object_priors import make_prior
from ptycho_torch.physics import Placement, extract_patches, good_pixels, normalised_intensity, simulate


class JointParameters:
    """Object, probe modes, positions and background, each in its own unit (``ptycho_data.fitting.loop.Fit``).

    Args:
        problem: What is fitted.
        device: Device of the computation.
    """

    def __init__(self, problem: JointProblem, *, device: str = "cpu") -> None:
        self._problem, self._device = problem, torch.device(device)
        self._placement = Placement.of(problem.sites).to(self._device)
        self._loss, self._mask = LOSSES[problem.loss], good_pixels(problem.source.bad_pixels, self._device)
        self._last_start = torch.from_numpy(problem.last_start_yx).float().to(self._device)
        side = problem.sites.N
        # Copies: Adam works in place, and the caller's arrays stay as they are.
        self._object = torch.from_numpy(problem.object_start.copy()).to(self._device)
        self._modes = torch.from_numpy(problem.modes).to(self._device)
        self._shifts = torch.zeros((len(problem.sites), 2), device=self._device)
        self._root_background = torch.full((side, side), FIRST_ROOT_BACKGROUND, device=self._device)
        for value, rate in zip(self._named.values(), problem.rates, strict=True):
            value.requires_grad_(rate > 0)
        self._rates = [rate for rate in problem.rates if rate > 0]
        self._prior = None if problem.prior is None else make_prior(problem.prior, problem.loss, device=self._device)
        fitted = [{"params": [value]} for value in self._named.values() if value.requires_grad]
        self._adam = torch.optim.Adam(fitted, betas=ADAM_BETAS)

    @property
    def _named(self) -> dict[str, Tensor]:
        return {
            "object": self._object,
            "modes": self._modes,
            "shifts_yx_px": self._shifts,
            "root_background": self._root_background,
        }

    def step(self, rows: NDArray[np.int64], *, factor: float, positions_move: bool) -> Tensor:
        """One step; returns the loss before it."""
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        value = self._value(rows, positions_move)
        self._adam.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        if self._prior is not None and self._object.grad is not None:
            self._prior.add_gradient(self._object)
        self._adam.step()
        return value.detach()

    def set_prior(self, fraction: float) -> None:
        """Let the prior act on the next steps as it does at this fraction of the fit."""
        if self._prior is not None:
            self._prior.set(self._object.detach(), fraction)

    def loss(self, rows: NDArray[np.int64]) -> float:
        """Loss of these patterns with the present parameters."""
        with torch.no_grad():
            return float(self._value(rows, True))

    def _value(self, rows: NDArray[np.int64], positions_move: bool) -> Tensor:
        counts, mean_counts = torch.from_numpy(self._problem.source.counts(rows)), self._problem.mean_counts
        measured = normalised_intensity(counts.to(self._device), mean_counts)
        simulated = self._simulated(torch.from_numpy(rows).to(self._device), positions_move)
        return self._loss(simulated, measured, eps=EPS_COUNTS / mean_counts, mask=self._mask)

    def _simulated(self, rows: Tensor, positions_move: bool) -> Tensor:
        """(n, N, N) intensities of the patterns at ``rows`` in units of the mean counts."""
        sites = self._placement[rows]
        if self._shifts.requires_grad and positions_move:
            sites = self._shifted(sites, self._shifts[rows])
        intensities = simulate(extract_patches(self._object, sites), self._modes * self._problem.peak)
        if self._root_background.requires_grad:
            intensities = intensities + self._root_background.square() * self._problem.pixel
        return intensities

    def _shifted(self, sites: Placement, shifts: Tensor) -> Placement:
        """Sites moved by shifts, clamped to the canvas; fractions carry the gradient, corners are integers."""
        moved = torch.minimum(torch.clamp(sites.corners_yx + sites.fractions_yx + shifts, min=0.0), self._last_start)
        corners = moved.detach().floor()
        return Placement(corners.long(), moved - corners, sites.shape, sites.N)

    def parameters(self) -> Arrays:
        """All parameters, complex ones as pairs."""
        return {name: _array(value) for name, value in self._named.items()}

    def restore(self, parameters: Arrays) -> None:
        """Set the parameters."""
        with torch.no_grad():
            for name, value in self._named.items():
                value.copy_(_tensor(parameters[name], value))

    def moments(self) -> Moments:
        """State of Adam for the parameters that have taken a step."""
        kept = {name: self._adam.state[value] for name, value in self._named.items() if self._adam.state.get(value)}
        return {
            name: (_array(state["exp_avg"]), _array(state["exp_avg_sq"]), int(state["step"]))
            for name, state in kept.items()
        }

    def restore_moments(self, moments: Moments) -> None:
        """Set the state of Adam."""
        for name, (first, second, steps) in moments.items():
            value = self._named[name]
            state: dict[str, Any] = {"step": torch.tensor(float(steps))}
            state |= {"exp_avg": _tensor(first, value), "exp_avg_sq": _tensor(second, value)}
            self._adam.state[value] = state


def _array(value: Tensor) -> NDArray[np.float32]:
    """A copy in NumPy; complex values as pairs."""
    value = value.detach()
    array: NDArray[np.float32] = (torch.view_as_real(value) if value.is_complex() else value).cpu().numpy().copy()
    return array


def _tensor(array: NDArray[np.float32], like: Tensor) -> Tensor:
    """A new tensor with the dtype and device of another."""
    tensor = torch.from_numpy(np.array(array)).to(like.device)
    return torch.view_as_complex(tensor) if like.is_complex() else tensor
